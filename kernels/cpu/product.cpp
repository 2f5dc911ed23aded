#include "kernels/cpu/product.h"

#include <cblas.h>

#include <algorithm>
#include <bit>
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

// How far ahead of a sum its weights are fetched: some 2000 cycles of reading, four times a
// memory's latency. Without it the two take turns where there is much to compute.
template <class Weight>
constexpr int64_t fetched_ahead = 32 * line_values<Weight>;

// Inputs that a panel is computed with at once, in bytes of x: where there is least to compute for
// a byte of x, in bf16, it pays that they stay in the first cache from one group of columns to the
// next; else long rows are read faster than short pieces (measured).
template <class Weight>
constexpr int64_t x_bytes = std::is_same_v<Weight, bf16> ? 8 << 10 : 64 << 10;

// One matrix of a product: x [rows][x_stride], arranged in the order of w's lines, and y
// [rows][outputs] with its stride between rows.
template <class Weight, class X, class Out>
struct Matrix {
  int64_t rows, inputs;
  const X* x;
  int64_t x_stride;
  Values<const Weight> w;
  Out* y;
  int64_t y_stride;
};

// y[m][n] for Rows rows from m and outputs [begin, end), a panel, in groups of columns, and
// x_bytes at a time.
template <int Rows, class Weight, class X, class Out>
void rows_of_panel(const Matrix<Weight, X, Out>& a, int64_t m, int64_t begin, int64_t end,
                   int64_t block_end) {
  constexpr int columns = Rows < 3 ? 8 : 4;
  constexpr int64_t cut = x_bytes<Weight> / std::bit_ceil(unsigned{Rows}) / sizeof(X);
  const X* const x = a.x + m * a.x_stride;
  Lanes sum[panel / columns][16];
  for (auto& group : sum) std::ranges::fill(group, zero());
  for (int64_t k = 0; k < a.inputs; k += cut) {
    const int64_t count = std::min(cut, a.inputs - k);
    for (int64_t first = begin; first < end; first += columns) {
      Values<const Weight> w[columns];
      for (int64_t c = 0; c < columns; ++c)
        w[c] = a.w.at(std::min(first + c, end - 1) * a.inputs + k);
      // After these inputs of these columns comes the next group, the next cut, or the next panel.
      const int64_t next = first + columns < end ? (first + columns) * a.inputs + k
                           : k + cut < a.inputs  ? begin * a.inputs + k + cut
                           : end < block_end     ? end * a.inputs
                                                 : 0;
      // What has been read already (m > 0), or is another block's, is not asked for.
      const int64_t in_cut = m == 0 ? fetched_ahead<Weight> : 0;
      const int64_t beyond =
          m == 0 && next != 0 ? in_cut + next - (first * a.inputs + k + count) : 0;
      Lanes(&kept)[16] = sum[(first - begin) / columns];
      Lanes own[16];  // in registers
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) own[i] = kept[i];
      add_dots<Rows>(
          x + k, a.x_stride, w, count,
          [&](int c, int64_t i) {
            prefetch_line(w[c], i + (i + in_cut < count ? in_cut : beyond));
          },
          own);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) kept[i] = own[i];
    }
  }
  for (int64_t first = begin; first < end; first += columns) {
    float dots[16];
    store(sums(sum[(first - begin) / columns]) * a.w.scale, dots);
    for (int64_t r = 0; r < Rows; ++r) {
      Out* y = a.y + (m + r) * a.y_stride + first;
      for (int64_t c = 0; c < std::min<int64_t>(columns, end - first); ++c)
        y[c] = from_float<Out>(dots[r * columns + c]);
    }
  }
}

template <class Weight, class X, class Out>
void our_block(const Matrix<Weight, X, Out>& a, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; n += panel) {
    const int64_t panel_end = std::min(n + panel, end);
    int64_t m = 0;
    for (; m + 4 <= a.rows; m += 4) rows_of_panel<4>(a, m, n, panel_end, end);
    if (a.rows - m == 3) rows_of_panel<3>(a, m, n, panel_end, end);
    if (a.rows - m == 2) rows_of_panel<2>(a, m, n, panel_end, end);
    if (a.rows - m == 1) rows_of_panel<1>(a, m, n, panel_end, end);
  }
}

void blas_block(const Matrix<float, float, float>& a, int64_t begin, int64_t end) {
  static const bool single = (openblas_set_num_threads(1), true);  // the threads are ours
  static_cast<void>(single);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(a.rows),
              static_cast<int>(end - begin), static_cast<int>(a.inputs), 1.0F, a.x,
              static_cast<int>(a.x_stride), a.w.data + begin * a.inputs, static_cast<int>(a.inputs),
              0.0F, a.y + begin, static_cast<int>(a.y_stride));
}

// x in the order of w's lines: arranged once, because every output reads it.
template <class Weight, class Activation>
const Operand<Weight, Activation>* arranged(const Activation* x, int64_t rows,
                                            const ProductShape& shape, int64_t stride) {
  static thread_local Scratch scratch;
  auto* const to = scratch.take<Operand<Weight, Activation>>(rows * stride);
  for (int64_t r = 0; r < rows; ++r)
    arrange<Weight>(x + r * shape.x_stride, shape.inputs, to + r * stride);
  return to;
}

template <class Weight, class Activation, class Out>
void multiply(const ProductShape& shape, int64_t heads, const Activation* x,
              const Values<const Weight>& w, Out* y, const std::function<void()>& poll) {
  if (shape.rows == 0 || shape.outputs == 0) return;
  using X = Operand<Weight, Activation>;
  constexpr bool fp32 = std::is_same_v<Weight, float> && std::is_same_v<Activation, float> &&
                        std::is_same_v<Out, float>;
  const bool wide = fp32 && shape.rows >= wide_rows && !shape.fixed_order && shape.inputs > 0;
  const int64_t row_bytes = std::max<int64_t>(1, bytes_for<Weight>(shape.inputs));
  const int64_t block =
      wide ? blas_outputs : std::max(panel, block_bytes / row_bytes / panel * panel);
  const int64_t blocks = (shape.outputs + block - 1) / block;
  int64_t x_stride = shape.x_stride;
  const X* operand = nullptr;
  if constexpr (fp32) operand = x;
  if (!wide) {
    x_stride = round_up(shape.inputs, line_values<Weight>);
    operand = arranged<Weight>(x, shape.rows * heads, shape, x_stride);
  }
  Poller poller(poll);
  for_blocks(heads * blocks, heads * shape.rows * shape.outputs * shape.inputs, poller,
             [&](int64_t i) {
               const int64_t head = i / blocks;
               const int64_t begin = i % blocks * block;
               const int64_t end = std::min(shape.outputs, begin + block);
               const Matrix<Weight, X, Out> matrix{.rows = shape.rows,
                                                   .inputs = shape.inputs,
                                                   .x = operand + head * x_stride,
                                                   .x_stride = heads * x_stride,
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

template <class Weight, class Activation, class Out>
void product(const ProductShape& shape, const Activation* x, const Values<const Weight>& w, Out* y,
             const std::function<void()>& poll) {
  multiply(shape, 1, x, w, y, poll);
}

template <class Weight, class Activation>
void product_per_head(const ProductShape& shape, int64_t heads, const Activation* x,
                      const Values<const Weight>& w, Activation* y) {
  multiply(shape, heads, x, w, y, {});
}

#define PRODUCT(Weight, Activation, Out)                                                           \
  template void product(const ProductShape&, const Activation*, const Values<const Weight>&, Out*, \
                        const std::function<void()>&);
#define FOR_ACTIVATIONS(Weight)                                              \
  PRODUCT(Weight, float, float)                                              \
  PRODUCT(Weight, bf16, bf16)                                                \
  PRODUCT(Weight, bf16, float)                                               \
  template void product_per_head(const ProductShape&, int64_t, const float*, \
                                 const Values<const Weight>&, float*);       \
  template void product_per_head(const ProductShape&, int64_t, const bf16*,  \
                                 const Values<const Weight>&, bf16*);
FOR_ACTIVATIONS(float)
FOR_ACTIVATIONS(bf16)
FOR_ACTIVATIONS(fp8)
FOR_ACTIVATIONS(nvfp4)
#undef FOR_ACTIVATIONS
#undef PRODUCT

}  // namespace helix::cpu
