// How many points a second one core prices, once their schedules are known.
#include "bench/pricer.h"

#include <fmt/format.h>

#include <chrono>

#include "bench/sweep.h"

namespace helix {
namespace {

constexpr const char* sweep = R"({"schema": "helix-bench/sweep/1", "name": "pricer",
  "model": ["deepseek-r1", "llama-3.1-405b"], "strategy": "all", "ranks": [8, 64],
  "batch": {"from": 1, "to": 512, "times": 2}, "context": [65536, 1000000], "hop_b": [false, true],
  "precision": {"weights": "fp4", "kv": "fp4", "activations": "bf16"}})";

double seconds(Pricer& pricer, const std::vector<Point>& points, double& sum_us) {
  const auto began = std::chrono::steady_clock::now();
  for (const Point& point : points) sum_us += pricer.price(point).ttl_us;
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

void run() {
  const std::vector<Point> points = read_sweep(parse_json("pricer", sweep), ".").points;
  Pricer pricer(read_machine("gb200-nvl72"));
  double sum_us = 0;
  const double first = seconds(pricer, points, sum_us);
  double best = first;
  for (int i = 0; i < 5; ++i) best = std::min(best, seconds(pricer, points, sum_us));
  const auto count = static_cast<double>(points.size());
  fmt::print(
      "simulate  {} points: first {:.0f} points/s (schedules, routing), then {:.0f}; mean TTL "
      "{:.3f} ms\n",
      points.size(), count / first, count / best, sum_us / 6e3 / count);
}

}  // namespace
}  // namespace helix

int main() { helix::run(); }
