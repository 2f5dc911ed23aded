#include "bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace helix {

double nearest_rank(std::span<const double> sorted, double percent) {
  // A product with a rounding error must not reach the next rank: 95 % of 100 samples is the 95th.
  const double rank = std::ceil(percent * static_cast<double>(sorted.size()) / 100 - 1e-9);
  const auto index = static_cast<size_t>(std::max(rank, 1.0)) - 1;
  return sorted[std::min(index, sorted.size() - 1)];
}

Statistics statistics(std::span<const double> samples) {
  std::vector<double> sorted(samples.begin(), samples.end());
  std::ranges::sort(sorted);
  return {.median = nearest_rank(sorted, 50),
          .p05 = nearest_rank(sorted, 5),
          .p90 = nearest_rank(sorted, 90),
          .p95 = nearest_rank(sorted, 95),
          .p99 = sorted.size() < 100 ? std::nullopt : std::optional(nearest_rank(sorted, 99)),
          .min = sorted.front(),
          .max = sorted.back()};
}

// With p = 1/2 each rank below: n / 2 -+ 1.96 sqrt(n) / 2 (Conover, Practical Nonparametric
// Statistics, 3.2).
std::optional<double> median_error_percent(std::span<const double> samples) {
  if (samples.size() < 6) return std::nullopt;
  std::vector<double> sorted(samples.begin(), samples.end());
  std::ranges::sort(sorted);
  const auto n = static_cast<double>(sorted.size());
  const auto below = static_cast<size_t>(std::max(1.0, std::round(n / 2 - 0.98 * std::sqrt(n))));
  const double low = sorted[below - 1];
  const double high = sorted[sorted.size() - below];
  return 100 * (high - low) / 2 / nearest_rank(sorted, 50);
}

}  // namespace helix
