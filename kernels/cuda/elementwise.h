// The small kernels between products, on a GPU. Twins: kernels/cpu/reference.h.
#pragma once

#include <cstdint>

#include "base/format.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

// hidden += y (rounded to its type), then out = hidden / sqrt(mean(hidden^2) + eps) * w. y may be
// null: the norm alone. width: a multiple of 8, at most 16384. w (plain numbers, as all weights
// here) is read ahead.
template <class Activation>
void add_rms_norm(int rows, int width, Activation* hidden, const Activation* y, const Stored& w,
                  float eps, Activation* out, const Launch& launch);

// RMSNorm of vectors within rows: `each` of `width` values, one after another, in rows that begin
// every x_stride and out_stride values. In place where x is out.
struct NormShape {
  int rows = 0;
  int each = 1;
  int width = 0;
  int64_t x_stride = 0;
  int64_t out_stride = 0;
};
template <class Activation>
void rms_norm(const NormShape& shape, const Activation* x, const Stored& w, float eps,
              Activation* out, const Launch& launch);

// As cpu::rope, of the first `heads` vectors of rows that begin every `stride` values. angles:
// [rows][2][pairs], cosines, then sines. x and out may be the same.
struct RopeShape {
  int rows = 0;
  int heads = 0;
  int size = 0;
  int pairs = 0;
  bool interleaved = false;
  int64_t stride = 0;
};
template <class Activation>
void rope(const RopeShape& shape, const float* angles, const Activation* x, Activation* out,
          const Launch& launch);

// The angles of each row's position, sines and cosines of position * frequency in fp64: [rows][2]
// [pairs].
void angles(int rows, int pairs, const int64_t* positions, const double* frequencies, float* out,
            const Launch& launch);

// out[r][i] = silu(gate) * up with x[r] = gate[width] then up[width].
// `rows_there` (device, may be null): how many of the rows there are.
template <class Activation>
void swiglu(int rows, int width, const int32_t* rows_there, const Activation* x, Activation* out,
            const Launch& launch);

// out[i] = the sum of `parts` arrays of `count`, `stride` values apart, in order, in fp32, rounded
// once. `from` and `out` may be the same.
template <class Activation>
void sum_in_order(int parts, int64_t count, int64_t stride, const Activation* from, Activation* out,
                  const Launch& launch);
// to += from.
template <class Activation>
void add(int64_t count, Activation* to, const Activation* from, const Launch& launch);

// Rows of an embedding table that holds tokens [first, first + count): zero for those of others.
template <class Activation>
void embed(int rows, int64_t first, int64_t count, int width, const int32_t* tokens,
           const Stored& table, Activation* out, const Launch& launch);

// As cpu::argmax, a row each: the largest logit, then the lowest index; a NaN wins.
struct Best {
  float value;
  int32_t index;
};
void pick(int rows, int width, int first_index, const Stored& logits, Best* best,
          const Launch& launch);

}  // namespace helix::cuda
