// The small kernels between products: norms, rotation, gates, sums, choices.
#pragma once

#include <cstdint>
#include <span>

#include "base/format.h"

namespace helix::cpu {

// out = x / sqrt(mean(x^2) + eps) * w over rows of `width` (RMSNorm); sums in fp32 in a fixed
// order. x and out may be the same. Strides are in values between rows.
template <class Weight, class Activation>
void rms_norm(int64_t rows, int64_t width, int64_t x_stride, int64_t out_stride,
              const Activation* x, const Weight* w, float eps, Activation* out);

// hidden += y, then out = rms_norm(hidden): the end of a block. hidden is rounded to its type
// first.
template <class Weight, class Activation>
void add_rms_norm(int64_t rows, int64_t width, Activation* hidden, const Activation* y,
                  const Weight* w, float eps, Activation* out);

// Rotates the last 2 * pairs values of each of `heads` vectors of `size` values a row. cosines,
// sines: [rows][pairs]. half-split pairs are (i, i + pairs), interleaved ones (2i, 2i + 1), within
// the rotated part.
struct RopeShape {
  int64_t rows = 0;
  int64_t heads = 0;
  int64_t size = 0;
  int64_t pairs = 0;
  bool interleaved = false;
};
template <class Activation>
void rope(const RopeShape& shape, const float* cosines, const float* sines, const Activation* x,
          Activation* out);

// out[r][i] = silu(gate) * up with x[r] = gate[width] then up[width]. silu(g) = g / (1 + exp(-g)).
template <class Activation>
void swiglu(int64_t rows, int64_t width, const Activation* x, Activation* out);

// out = the sum of `parts` arrays of `count`, in order, in fp32, rounded once.
template <class Activation>
void sum_in_order(int parts, int64_t count, const Activation* const* from, Activation* out);

template <class From, class To>
void convert(int64_t count, const From* from, To* to);

// Rows of an embedding table that holds tokens [first, first + count): zero for tokens of other
// ranks.
template <class Weight, class Activation>
void embed(std::span<const int32_t> tokens, int64_t first, int64_t count, int64_t width,
           const Weight* table, Activation* out);

// The largest logit and its global index; ties go to the lowest index. A NaN wins over everything,
// so that it is seen.
struct Best {
  float value;
  int32_t index;
};
template <class Activation>
Best argmax(std::span<const Activation> logits, int64_t first_index);

}  // namespace helix::cpu
