// A contiguous part of an axis, and the one rule by which an axis is shared out.
#pragma once

#include <algorithm>
#include <cstdint>

namespace helix {

struct Slice {
  int64_t first = 0;
  int64_t count = 1;
  friend bool operator==(const Slice&, const Slice&) = default;
};

constexpr Slice whole(int64_t count) { return {0, count}; }

// Part `index` of `parts` of [0, n) in blocks of `quantum`. The remainder goes to the lowest
// indices, so that index 0 always holds the most.
constexpr Slice share(int64_t n, int64_t parts, int64_t index, int64_t quantum = 1) {
  const int64_t blocks = (n + quantum - 1) / quantum;
  const int64_t each = blocks / parts;
  const int64_t rest = blocks % parts;
  const int64_t first = std::min(n, (index * each + std::min(index, rest)) * quantum);
  return {first, std::min(n - first, (each + (index < rest ? 1 : 0)) * quantum)};
}

// Rows of ceil(n / parts), as vocabularies are cut; the last parts may be short or empty.
constexpr Slice rows_of(int64_t n, int64_t parts, int64_t index) {
  const int64_t each = (n + parts - 1) / parts;
  const int64_t first = std::min(n, index * each);
  return {first, std::min(n - first, each)};
}

}  // namespace helix
