// The counter-based generator of base/random.h on a GPU: the same source, the same bits.
#pragma once

#include <cstdint>

#include "base/format.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

// Value i of the stream is fma(uniform, scale, offset): one rounding, on any machine.
struct Draw {
  uint64_t stream = 0;
  float scale = 1;
  float offset = 0;
};

// Which values of the stream: `rows` of `width`; row r begins at value
// first + (r / run * jump + r % run) * stride. A slice of a matrix is one run.
struct Drawn {
  int64_t first = 0;
  int64_t rows = 1;
  int64_t width = 0;
  int64_t stride = 0;
  int64_t run = int64_t{1} << 62;
  int64_t jump = 0;
};

// out: [rows][width], as its format stores it with its scale, as base/format.h's encode does; all
// planes 16-byte aligned. nvfp4: width is a multiple of 16.
template <class T>
void generate(const Draw& draw, const Drawn& which, const Values<T>& out, const Launch& launch);
template <class T>
void generate(const Draw& draw, const Drawn& which, T* out, const Launch& launch) {
  generate(draw, which, Values<T>(out), launch);
}

}  // namespace helix::cuda
