// The merge of partial outputs, whole or for one rank's part of a reduction.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/parallel.h"

namespace helix::cpu {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// The share of one part in the merged output, from the log-sum-exps of all: maximum first, then the
// sum in rank order. A NaN passes the comparison and +inf gives inf - inf, so both make `total`
// NaN.
struct Shares {
  float max = -infinity;
  float total = 0;

  template <class Lse>
  Shares(int parts, Lse&& lse) {
    for (int i = 0; i < parts; ++i) max = lse(i) > max ? lse(i) : max;
    for (int i = 0; i < parts; ++i) {
      if (lse(i) != -infinity) total += exponential(lse(i) - max);
    }
  }
  float of(float lse) const { return exponential(lse - max) / total; }
};

float read_float(const std::byte* from) {
  float value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <class Activation>
const Activation* outputs(const PartialLayout& part, const std::byte* message, int64_t row,
                          int64_t head) {
  return reinterpret_cast<const Activation*>(message + part.output_offset(row, head));
}

}  // namespace

template <class Activation>
void merge_partials(const PartialLayout& part, int parts, const std::byte* messages,
                    Activation* out) {
  const int64_t vectors = part.rows * part.heads;
  for_blocks(vectors, vectors * part.value_size * parts, [&](int64_t i) {
    const int64_t row = i / part.heads;
    const int64_t head = i % part.heads;
    const auto lse = [&](int p) {
      return read_float(messages + p * part.bytes() + part.lse_offset(row, head));
    };
    const Shares shares(parts, lse);
    for_lanes(part.value_size, [&](int64_t d, auto read, auto write) {
      Lanes merged = zero();
      for (int p = 0; p < parts; ++p) {
        if (lse(p) == -infinity) continue;
        const auto* from = outputs<Activation>(part, messages + p * part.bytes(), row, head);
        merged = multiply_add(read(from + d), all(shares.of(lse(p))), merged);
      }
      write(merged, out + i * part.value_size + d);
    });
  });
}

template <class Activation>
void rescale_partial(const PartialLayout& part, int parts, const std::byte* message,
                     const float* lses, Activation* out) {
  const int64_t vectors = part.rows * part.heads;
  for_blocks(vectors, vectors * part.value_size, [&](int64_t i) {
    const int64_t row = i / part.heads;
    const int64_t head = i % part.heads;
    const Shares shares(parts, [&](int p) { return lses[p * vectors + i]; });
    const float own = read_float(message + part.lse_offset(row, head));
    const bool empty = own == -infinity;
    const float share = empty ? 0.0F : shares.of(own);
    for_lanes(part.value_size, [&](int64_t d, auto read, auto write) {
      write(empty ? zero() : read(outputs<Activation>(part, message, row, head) + d) * share,
            out + i * part.value_size + d);
    });
  });
}

template void merge_partials(const PartialLayout&, int, const std::byte*, float*);
template void merge_partials(const PartialLayout&, int, const std::byte*, bf16*);
template void rescale_partial(const PartialLayout&, int, const std::byte*, const float*, float*);
template void rescale_partial(const PartialLayout&, int, const std::byte*, const float*, bf16*);

}  // namespace helix::cpu
