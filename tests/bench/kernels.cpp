// The memory-bound kernels beside OpenBLAS and beside the floor: the time this machine needs to
// read their data once. One run measures all three, so that the ratios can be compared.
#include <cblas.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <optional>
#include <random>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/product.h"

namespace helix::cpu {
namespace {

// The least of at least five runs and half a second, in microseconds: other work on the machine
// only adds.
template <class Body>
double least_us(Body&& body) {
  using Clock = std::chrono::steady_clock;
  body();
  double least = 1e30;
  double total = 0;
  for (int runs = 0; runs < 5 || (total < 5e5 && runs < 200); ++runs) {
    const auto start = Clock::now();
    body();
    const double us = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
    least = std::min(least, us);
    total += us;
  }
  return least;
}

// Rows of weights and of keys start on cache lines, as the program allocates them.
template <class T>
struct OnCacheLines {
  using value_type = T;
  OnCacheLines() = default;
  template <class U>
  explicit OnCacheLines(const OnCacheLines<U>&) {}
  T* allocate(size_t count) {
    return static_cast<T*>(operator new (count * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* data, size_t) { operator delete (data, std::align_val_t{64}); }
  bool operator==(const OnCacheLines&) const { return true; }
};
template <class T>
using Values = std::vector<T, OnCacheLines<T>>;

// Random bits would be NaNs: uniform values, repeated every 64 K.
template <class T>
Values<T> values(int64_t count) {
  std::mt19937 engine(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<T> pattern(1 << 16);
  for (T& value : pattern) value = from_float<T>(uniform(engine));
  Values<T> all(static_cast<size_t>(count));
#pragma omp parallel for
  for (int64_t i = 0; i < count; ++i) all[i] = pattern[i & 0xffff];
  return all;
}

// Bytes a microsecond of plain reading with all threads. 1 GiB, over four times any cache, in
// pieces that take as long as a kernel does: on a busy machine a longer piece would hardly ever run
// undisturbed.
double read_bandwidth() {
  constexpr int64_t pieces = 8;
  constexpr int64_t size = int64_t{1} << 25;  // values of a piece
  constexpr int64_t stream = 1 << 12;
  constexpr int64_t streams = 8;  // of a thread, as in a product: one alone is slower
  const auto data = values<float>(pieces * size);
  volatile float sink = 0;
  int64_t turn = 0;
  const double us = least_us([&] {
    const float* piece = &data[turn++ % pieces * size];
    float total = 0;
#pragma omp parallel for reduction(+ : total)
    for (int64_t b = 0; b < size / (stream * streams); ++b) {
      const float* block = piece + b * stream * streams;
      Lanes sum[streams] = {};
      for (int64_t i = 0; i < stream; i += lane_count) {
#pragma GCC unroll 8
        for (int64_t j = 0; j < streams; ++j) sum[j] += load(block + j * stream + i);
      }
      for (Lanes part : sum) total += cpu::sum(part);
    }
    sink = total;
  });
  return size * 4 / us;
}

struct Row {
  std::string kernel;
  double bytes, us;
  std::optional<double> blas_us;
};

void print(const Row& row, double bandwidth) {
  const double floor = row.bytes / bandwidth;
  fmt::print("{:<34} {:>9.1f} {:>9.0f} {:>9} {:>9.0f} {:>10} {:>12.0f} {:>10.1f}\n", row.kernel,
             row.bytes / 1e6, row.us, row.blas_us ? fmt::format("{:.0f}", *row.blas_us) : "-",
             floor, row.blas_us ? fmt::format("{:.2f}", *row.blas_us / row.us) : "-",
             100 * floor / row.us, row.bytes / row.us / 1e3);
}

// Several copies of the weights take turns, so that no cache holds them from one run to the next.
template <class Weight>
Row product_row(int64_t rows, const char* type) {
  constexpr int64_t outputs = 4096;
  constexpr int64_t inputs = 14336;
  constexpr int64_t copies = 2;
  const auto w = values<Weight>(copies * outputs * inputs);
  const auto x = values<float>(rows * inputs);
  std::vector<float> y(static_cast<size_t>(rows * outputs));
  const ProductShape shape{
      .rows = rows, .outputs = outputs, .inputs = inputs, .x_stride = inputs, .y_stride = outputs};
  int64_t turn = 0;
  const auto weights = [&] { return w.data() + turn++ % copies * outputs * inputs; };
  Row row{.kernel = fmt::format("product {} x {} x {} {}", rows, outputs, inputs, type),
          .bytes = double{outputs} * inputs * sizeof(Weight),
          .us = least_us([&] { product(shape, x.data(), weights(), y.data()); }),
          .blas_us = {}};
  if constexpr (std::is_same_v<Weight, float>) {
    openblas_set_num_threads(omp_get_max_threads());
    row.blas_us = least_us([&] {
      if (rows == 1) {
        cblas_sgemv(CblasRowMajor, CblasNoTrans, outputs, inputs, 1, weights(), inputs, x.data(), 1,
                    0, y.data(), 1);
      } else {
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(rows), outputs,
                    inputs, 1, x.data(), inputs, weights(), inputs, 0, y.data(), outputs);
      }
    });
    openblas_set_num_threads(1);
  }
  return row;
}

template <class Kv>
Row attention_row(const AttentionShape& shape, int64_t tokens, const char* name) {
  const bool latent = shape.head_size != shape.value_size;
  const auto k = values<Kv>(shape.kv_heads * tokens * shape.head_size);
  const auto v = values<Kv>(latent ? 0 : shape.kv_heads * tokens * shape.value_size);
  const auto q = values<float>(shape.heads * shape.head_size);
  const PartialLayout part{.rows = 1,
                           .heads = shape.heads,
                           .value_size = shape.value_size,
                           .element_bytes = sizeof(float)};
  std::vector<std::byte> out(static_cast<size_t>(part.bytes()));
  std::vector<KvView<Kv>> views;
  for (int64_t h = 0; h < shape.kv_heads; ++h) {
    const Kv* keys = k.data() + h * tokens * shape.head_size;
    views.push_back({.k = keys,
                     .v = latent ? keys : v.data() + h * tokens * shape.value_size,
                     .k_stride = shape.head_size,
                     .v_stride = latent ? shape.head_size : shape.value_size,
                     .tokens = tokens});
  }
  return {.kernel = name,
          .bytes = static_cast<double>((k.size() + v.size()) * sizeof(Kv)),
          .us = least_us(
              [&] { decode_attention<float, Kv>(shape, q.data(), views, part, out.data(), {}); }),
          .blas_us = {}};
}

void run() {
  const double bandwidth = read_bandwidth();
  fmt::print("{} threads; measured reading {:.1f} GB/s\n", omp_get_max_threads(), bandwidth / 1e3);
  fmt::print("{:<34} {:>9} {:>9} {:>9} {:>9} {:>10} {:>12} {:>10}\n", "kernel", "read_MB",
             "ours_us", "blas_us", "floor_us", "blas/ours", "floor_share%", "ours_GB/s");
  for (int64_t rows : {1, 4}) {
    print(product_row<float>(rows, "fp32"), bandwidth);
    print(product_row<bf16>(rows, "bf16"), bandwidth);
  }
  print(product_row<float>(32, "fp32"), bandwidth);
  const AttentionShape gqa{
      .rows = 1, .heads = 32, .kv_heads = 8, .head_size = 128, .value_size = 128, .scale = 0.088F};
  print(attention_row<float>(gqa, 16384, "GQA 32/8 D 128, 16384 tokens fp32"), bandwidth);
  print(attention_row<bf16>(gqa, 16384, "GQA 32/8 D 128, 16384 tokens bf16"), bandwidth);
  const AttentionShape mla{
      .rows = 1, .heads = 128, .kv_heads = 1, .head_size = 576, .value_size = 512, .scale = 0.07F};
  print(attention_row<bf16>(mla, 16384, "MLA 128 heads, 16384 tokens bf16"), bandwidth);
}

}  // namespace
}  // namespace helix::cpu

int main() { helix::cpu::run(); }
