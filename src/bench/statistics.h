// What becomes of samples. Percentiles are nearest ranks: each is a time that was measured.
#pragma once

#include <optional>
#include <span>
#include <vector>

namespace helix {

// The smallest sample that at least `percent` of all do not exceed; `sorted` is not empty, 0 <
// percent <= 100.
double nearest_rank(std::span<const double> sorted, double percent);

struct Statistics {
  double median, p05, p90, p95;
  std::optional<double> p99;  // with fewer than 100 samples it would be the maximum
  double min, max;
};

// Of at least one sample, in any order.
Statistics statistics(std::span<const double> samples);

// Half the width of the median's 95 % confidence interval, in percent of the median. The interval
// lies between two samples, by their ranks alone, and so holds for any distribution; under 6
// samples even the extremes miss the median too often: none.
std::optional<double> median_error_percent(std::span<const double> samples);

}  // namespace helix
