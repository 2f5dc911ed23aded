#include "bench/offers.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>

#include "bench/frontier.h"
#include "layout/strategy.h"

namespace helix {

namespace {

// Points of one layout stand together and are priced by one thread.
std::vector<size_t> group_starts(const std::vector<Point>& points) {
  std::vector<size_t> starts;
  for (size_t i = 0; i < points.size(); ++i)
    if (i == 0 || points[i].layout != points[i - 1].layout) starts.push_back(i);
  starts.push_back(points.size());
  return starts;
}

}  // namespace

std::vector<Offer> offers_of(const Sweep& sweep, const Machine& machine, Accounting accounting,
                             int threads, const Wanted& wanted) {
  const std::vector<Point>& points = sweep.points;
  const std::vector<size_t> starts = group_starts(points);
  std::vector<double> ttl_us(points.size());  // 0: does not fit
  std::atomic<size_t> next = 0;
  std::vector<std::exception_ptr> failures(static_cast<size_t>(threads));
  const auto work = [&](std::exception_ptr& failure) {
    try {
      Pricer pricer(machine, accounting);
      for (size_t group = next++; group + 1 < starts.size(); group = next++) {
        for (size_t i = starts[group]; i < starts[group + 1]; ++i) {
          if (wanted && !wanted(points[i])) continue;
          const Priced& priced = pricer.price(points[i]);
          if (priced.fits()) ttl_us[i] = priced.ttl_us;
        }
        pricer.forget_layouts();
      }
    } catch (...) {
      failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> workers;
    for (std::exception_ptr& failure : failures) workers.emplace_back(work, std::ref(failure));
  }
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
  std::vector<Offer> offers;
  for (size_t i = 0; i < points.size(); ++i)
    if (ttl_us[i] > 0)
      offers.push_back(
          {static_cast<uint32_t>(i), points[i].layout.ranks(), points[i].batch, ttl_us[i]});
  return offers;
}

std::vector<Offer> those(const Sweep& sweep, std::span<const Offer> offers, const Wanted& wanted) {
  std::vector<Offer> found;
  for (const Offer& offer : offers)
    if (wanted(sweep.points[offer.point])) found.push_back(offer);
  return found;
}

bool is_helix(const Point& point) { return point.layout.strategy == "helix"; }
bool is_baseline(const Point& point) { return find_strategy(point.layout.strategy)->baseline; }

std::vector<Offer> frontier_of(std::span<const Offer> offers) {
  std::vector<At> at;
  for (const Offer& offer : offers) at.push_back({offer.per_user(), offer.per_gpu()});
  std::vector<Offer> best;
  for (const size_t i : undominated(at)) best.push_back(offers[i]);
  return best;
}

namespace {

// Offers from the highest level down, and the best of those reached so far.
class Descent {
 public:
  Descent(std::span<const Offer> offers, Measure level, Measure worth)
      : offers_(offers.begin(), offers.end()), level_(level), worth_(worth) {
    std::ranges::stable_sort(offers_, std::ranges::greater(), level);
  }
  const Offer* best_down_to(double at) {
    for (; next_ < offers_.size() && level_(offers_[next_]) >= at; ++next_)
      if (best_ == nullptr || worth_(offers_[next_]) > worth_(*best_)) best_ = &offers_[next_];
    return best_;
  }

 private:
  std::vector<Offer> offers_;
  Measure level_, worth_;
  size_t next_ = 0;
  const Offer* best_ = nullptr;
};

}  // namespace

Ratio largest_ratio(std::span<const Offer> first, std::span<const Offer> second, Measure level,
                    Measure worth) {
  std::vector<double> levels;
  for (const std::span<const Offer> offers : {first, second})
    for (const Offer& offer : offers) levels.push_back(level(offer));
  std::ranges::sort(levels, std::ranges::greater());
  Descent ours(first, level, worth);
  Descent theirs(second, level, worth);
  Ratio most;
  for (const double at : levels) {
    const Offer* a = ours.best_down_to(at);
    const Offer* b = theirs.best_down_to(at);
    if (a == nullptr || b == nullptr) continue;
    const double ratio = worth(*a) / worth(*b);
    if (ratio > most.value) most = {ratio, *a, *b};
  }
  return most;
}

}  // namespace helix
