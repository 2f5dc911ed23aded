#include "bench/noise.h"

#include <fmt/format.h>

#include <algorithm>

#include "bench/statistics.h"

namespace helix {

NoiseTarget read_noise(const Node& node) {
  NoiseTarget target;
  if (node.is_null()) return target;
  node.only({"target_percent", "min_steps", "max_steps"});
  target.percent = node["target_percent"].number(1e-3, 100);
  const auto steps = [&](const char* name, std::optional<int64_t>& to) {
    if (node.has(name) && !node[name].is_null()) to = node[name].integer(1, 1'000'000);
  };
  steps("min_steps", target.min_steps);
  steps("max_steps", target.max_steps);
  if (target.min_steps && target.max_steps && *target.min_steps > *target.max_steps)
    node["min_steps"].fail(
        fmt::format("{} are more than the {} of max_steps", *target.min_steps, *target.max_steps));
  return target;
}

Json to_json(const NoiseTarget& target) {
  if (target.percent == 0) return {};
  const auto or_null = [](const std::optional<int64_t>& steps) {
    return steps ? Json(*steps) : Json();
  };
  return {{"target_percent", target.percent},
          {"min_steps", or_null(target.min_steps)},
          {"max_steps", or_null(target.max_steps)}};
}

std::vector<double> measure_until_quiet(
    const NoiseTarget& target, int64_t round,
    const std::function<std::vector<double>(int64_t steps)>& measure) {
  const bool once = target.percent == 0;
  const int64_t most = once ? round : target.at_most(round);
  const int64_t least = once ? round : target.at_least(round);
  std::vector<double> samples;
  while (std::ssize(samples) < most) {
    const std::vector<double> more = measure(std::min(round, most - std::ssize(samples)));
    if (more.empty()) break;
    samples.insert(samples.end(), more.begin(), more.end());
    if (std::ssize(samples) < least) continue;
    if (median_error_percent(samples).value_or(100) <= target.percent) break;
  }
  return samples;
}

}  // namespace helix
