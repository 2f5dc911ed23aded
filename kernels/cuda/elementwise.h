// The small kernels between products, on a GPU. Twins: kernels/cpu/reference.h.
#pragma once

#include <cstdint>

#include "base/format.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

// hidden += y (rounded to its type), then out = hidden / sqrt(mean(hidden^2) + eps) * w. y may be
// null: the norm alone. width: a multiple of 8, at most 16384. w is read ahead.
template <class Weight, class Activation>
void add_rms_norm(int rows, int width, Activation* hidden, const Activation* y, const Weight* w,
                  float eps, Activation* out, const Launch& launch);

// As cpu::rope. x and out may not be the same.
struct RopeShape {
  int rows = 0;
  int heads = 0;
  int size = 0;
  int pairs = 0;
  bool interleaved = false;
};
template <class Activation>
void rope(const RopeShape& shape, const float* cosines, const float* sines, const Activation* x,
          Activation* out, const Launch& launch);

// out[r][i] = silu(gate) * up with x[r] = gate[width] then up[width].
template <class Activation>
void swiglu(int rows, int width, const Activation* x, Activation* out, const Launch& launch);

}  // namespace helix::cuda
