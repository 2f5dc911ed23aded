// Pairwise covering arrays: few cases in which every two values of different axes meet.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace helix {

using Trial = std::vector<int>;  // the index of a value, for each axis

// Greedy and seeded: each case is the best of some random ones. `allowed` says which cases exist;
// pairs that are in no allowed case, or in one of `met`, are not asked for.
std::vector<Trial> covering_array(const std::vector<int>& levels,
                                  const std::function<bool(const Trial&)>& allowed, uint64_t seed,
                                  const std::vector<Trial>& met = {});
// Every allowed case.
std::vector<Trial> full_product(const std::vector<int>& levels,
                                const std::function<bool(const Trial&)>& allowed);

// How many pairs of values the cases cover, and how many there are among `possible`.
struct PairCoverage {
  int64_t covered = 0;
  int64_t possible = 0;
};
PairCoverage pair_coverage(const std::vector<Trial>& cases, const std::vector<Trial>& possible);

}  // namespace helix
