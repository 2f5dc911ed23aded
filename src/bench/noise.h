// Steps are repeated until their median is known well enough.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/json.h"

namespace helix {

struct NoiseTarget {
  double percent = 0;  // half the width of the median's 95 % confidence interval; 0: no target
  std::optional<int64_t> min_steps = {};  // none: a round
  std::optional<int64_t> max_steps = {};  // none: 100 rounds
  int64_t at_least(int64_t round) const { return min_steps.value_or(round); }
  int64_t at_most(int64_t round) const { return max_steps.value_or(100 * round); }
};

// {"target_percent": 1, "min_steps": 16, "max_steps": 1000} or null.
NoiseTarget read_noise(const Node& node);
Json to_json(const NoiseTarget& target);

// The times of steps that `measure` gives for so many of them, in rounds of `round` steps at most:
// one round without a target, else as many as bring the error of the median under it, not less than
// `at_least` steps and not more than `at_most`. An empty round ends it.
std::vector<double> measure_until_quiet(
    const NoiseTarget& target, int64_t round,
    const std::function<std::vector<double>(int64_t steps)>& measure);

}  // namespace helix
