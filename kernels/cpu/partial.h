// The layout of partial attention outputs: ordered by the peer that will merge them, so that each
// peer's share is one contiguous message and nothing is packed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace helix::cpu {

// One peer's message: outputs [rows][heads][value_size] of `element_bytes` each, then fp32
// log-sum-exps (natural logarithm) [rows][heads].
struct PartialLayout {
  int64_t rows = 0;
  int64_t heads = 0;  // of one part: Q / (TPA * KVP)
  int64_t value_size = 0;
  int64_t element_bytes = 0;

  constexpr int64_t outputs_bytes() const { return rows * heads * value_size * element_bytes; }
  constexpr int64_t bytes() const { return outputs_bytes() + rows * heads * 4; }
  constexpr int64_t output_offset(int64_t row, int64_t head) const {
    return (row * heads + head) * value_size * element_bytes;
  }
  constexpr int64_t lse_offset(int64_t row, int64_t head) const {
    return outputs_bytes() + (row * heads + head) * 4;
  }
};

}  // namespace helix::cpu
