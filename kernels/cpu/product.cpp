#include "kernels/cpu/product.h"

#include <cblas.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels/cpu/dots.h"
#include "kernels/cpu/parallel.h"

namespace helix::cpu {
namespace {

constexpr int64_t panel = 16;  // outputs that our kernel does at once
constexpr int64_t block_bytes =
    256 << 10;  // weights of a block: 10 to 30 us of reading between two polls
constexpr int64_t blas_outputs = 512;  // outputs of a block given to BLAS

// One matrix of a product: x [rows][inputs] and y [rows][outputs] with their strides between rows.
template <class Weight, class Activation>
struct Matrix {
  int64_t rows, inputs;
  const float* x;
  int64_t x_stride;
  Values<const Weight> w;
  Activation* y;
  int64_t y_stride;
};

// y[m][n] for Rows rows from m and `count` outputs from n.
template <int Rows, class Weight, class Activation>
void rows_of_panel(const Matrix<Weight, Activation>& a, int64_t m, int64_t n, int64_t count) {
  constexpr int columns = Rows < 3 ? 8 : 4;
  for (int64_t first = n; first < n + count; first += columns) {
    const int64_t left = std::min<int64_t>(columns, n + count - first);
    Values<const Weight> w[columns];
    for (int64_t c = 0; c < columns; ++c) w[c] = a.w.at((first + std::min(c, left - 1)) * a.inputs);
    float sums[16];
    store(dots<Rows, columns>(a.x + m * a.x_stride, a.x_stride, w, a.inputs) * code_scale(a.w),
          sums);
    for (int64_t r = 0; r < Rows; ++r) {
      Activation* y = a.y + (m + r) * a.y_stride + first;
      for (int64_t c = 0; c < left; ++c) y[c] = from_float<Activation>(sums[r * columns + c]);
    }
  }
}

template <class Weight, class Activation>
void our_block(const Matrix<Weight, Activation>& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; n += panel) {
    const int64_t count = std::min(panel, end - n);
    int64_t m = 0;
    for (; m + 4 <= a.rows; m += 4) rows_of_panel<4>(a, m, n, count);
    if (a.rows - m == 3) rows_of_panel<3>(a, m, n, count);
    if (a.rows - m == 2) rows_of_panel<2>(a, m, n, count);
    if (a.rows - m == 1) rows_of_panel<1>(a, m, n, count);
  }
}

void blas_block(const Matrix<float, float>& a, int64_t begin, int64_t end) {
  static const bool single = (openblas_set_num_threads(1), true);  // the threads are ours
  static_cast<void>(single);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(a.rows),
              static_cast<int>(end - begin), static_cast<int>(a.inputs), 1.0F, a.x,
              static_cast<int>(a.x_stride), a.w.data + begin * a.inputs, static_cast<int>(a.inputs),
              0.0F, a.y + begin, static_cast<int>(a.y_stride));
}

// x as fp32 with the same strides: converted once, because every output reads it.
template <class Activation>
const float* as_float(const Activation* x, int64_t rows, int64_t stride, int64_t width) {
  if constexpr (std::is_same_v<Activation, float>) {
    return x;
  } else {
    thread_local Scratch scratch;
    float* const converted = scratch.take(rows * stride);
    for (int64_t r = 0; r < rows; ++r) {
      for_lanes(width, [&](int64_t i, auto read, auto write) {
        write(read(x + r * stride + i), converted + r * stride + i);
      });
    }
    return converted;
  }
}

template <class Weight, class Activation>
void multiply(const ProductShape& shape, int64_t heads, const Activation* x,
              const Values<const Weight>& w, Activation* y, const std::function<void()>& poll) {
  if (shape.rows == 0 || shape.outputs == 0) return;
  constexpr bool fp32 = std::is_same_v<Weight, float> && std::is_same_v<Activation, float>;
  const bool wide = fp32 && shape.rows >= wide_rows && !shape.fixed_order && shape.inputs > 0;
  const int64_t row_bytes = std::max<int64_t>(1, bytes_for<Weight>(shape.inputs));
  const int64_t block =
      wide ? blas_outputs : std::max(panel, block_bytes / row_bytes / panel * panel);
  const int64_t blocks = (shape.outputs + block - 1) / block;
  const float* x_float = as_float(x, shape.rows * heads, shape.x_stride, shape.inputs);
  Poller poller(poll);
  for_blocks(
      heads * blocks, heads * shape.rows * shape.outputs * shape.inputs, poller, [&](int64_t i) {
        const int64_t head = i / blocks;
        const int64_t begin = i % blocks * block;
        const int64_t end = std::min(shape.outputs, begin + block);
        const Matrix<Weight, Activation> matrix{.rows = shape.rows,
                                                .inputs = shape.inputs,
                                                .x = x_float + head * shape.x_stride,
                                                .x_stride = heads * shape.x_stride,
                                                .w = w.at(head * shape.outputs * shape.inputs),
                                                .y = y + head * shape.y_stride,
                                                .y_stride = heads * shape.y_stride};
        if constexpr (fp32) {
          if (wide) return blas_block(matrix, begin, end);
        }
        our_block(matrix, begin, end);
      });
  poller.finish();
}

}  // namespace

template <class Weight, class Activation>
void product(const ProductShape& shape, const Activation* x, const Values<const Weight>& w,
             Activation* y, const std::function<void()>& poll) {
  multiply(shape, 1, x, w, y, poll);
}

template <class Weight, class Activation>
void product_per_head(const ProductShape& shape, int64_t heads, const Activation* x,
                      const Values<const Weight>& w, Activation* y) {
  multiply(shape, heads, x, w, y, {});
}

#define INSTANTIATE(Weight, Activation)                                                      \
  template void product(const ProductShape&, const Activation*, const Values<const Weight>&, \
                        Activation*, const std::function<void()>&);                          \
  template void product_per_head(const ProductShape&, int64_t, const Activation*,            \
                                 const Values<const Weight>&, Activation*);
#define FOR_ACTIVATIONS(Weight) INSTANTIATE(Weight, float) INSTANTIATE(Weight, bf16)
FOR_ACTIVATIONS(float)
FOR_ACTIVATIONS(bf16)
FOR_ACTIVATIONS(fp8)
FOR_ACTIVATIONS(nvfp4)
#undef FOR_ACTIVATIONS
#undef INSTANTIATE

}  // namespace helix::cpu
