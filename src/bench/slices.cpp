#include "bench/slices.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

namespace helix {

namespace {

// Measured with the tiny models on CPUs; a real model on GPUs takes less.
constexpr double passes_beside = 30;          // loading, judging and the instrumented passes
constexpr double seconds_of_any_point = 0.1;  // what a point takes however small it is
constexpr double bytes_per_s = 0.5e9;         // of a rank
constexpr double shortest_s = 600;            // jobs start one after another on one node
constexpr double longest_s = 12 * 3600;       // at the limit a job goes back into the queue
constexpr double bytes_beside = 2e9;          // of a rank: the program, MPI, the judge's rows
constexpr double share_of_plan = 1.2;

}  // namespace

Estimator::Estimator(const std::string& machine) {
  if (!machine.empty()) pricer_.emplace(read_machine(machine));
}

Estimator::Estimate Estimator::operator()(const Point& point) {
  const auto passes = static_cast<double>(point.warmup + point.steps) + passes_beside;
  Estimate estimate;
  if (!pricer_) {
    estimate.seconds =
        seconds_of_any_point + planner_.widest_rank(point).total() * passes / bytes_per_s;
    return estimate;
  }
  const Priced& priced = pricer_->price(point);
  estimate.why_not = priced.why_not;
  estimate.ttl_us = priced.ttl_us;
  estimate.seconds = seconds_of_any_point;
  if (priced.fits()) estimate.seconds += 1e-6 * priced.ttl_us * passes;
  return estimate;
}

std::vector<int64_t> deal(const std::vector<double>& work, int64_t slices) {
  std::vector<size_t> order(work.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return work[a] > work[b]; });
  using Load = std::pair<double, int64_t>;  // of a slice, which
  std::vector<Load> loads;                  // a heap, the least first
  for (int64_t slice = 1; slice <= slices; ++slice) loads.emplace_back(0, slice);
  std::vector<int64_t> slice_of(work.size());
  for (const size_t point : order) {
    std::ranges::pop_heap(loads, std::greater());
    slice_of[point] = loads.back().second;
    loads.back().first += work[point];
    std::ranges::push_heap(loads, std::greater());
  }
  return slice_of;
}

std::vector<int64_t> deal(Estimator& estimator, const std::vector<Point>& points, int64_t slices) {
  if (slices == 1) return std::vector<int64_t>(points.size(), 1);
  std::vector<double> work;
  work.reserve(points.size());
  for (const Point& point : points) work.push_back(estimator(point).seconds);
  return deal(work, slices);
}

std::string slurm_options(int ranks, double bytes_per_rank, double seconds, int ranks_per_node) {
  const int nodes = (ranks + ranks_per_node - 1) / ranks_per_node;
  const int on_node = (ranks + nodes - 1) / nodes;
  const double gib = on_node * (bytes_per_rank * share_of_plan + bytes_beside) / (1 << 30);
  const auto minutes =
      static_cast<int64_t>(std::ceil(std::clamp(2 * seconds, shortest_s, longest_s) / 60));
  return fmt::format("--nodes={} --ntasks-per-node={} --mem={:.0f}G --time={:02}:{:02}:00", nodes,
                     on_node, std::ceil(gib), minutes / 60, minutes % 60);
}

}  // namespace helix
