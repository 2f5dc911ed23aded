// The memory-bound kernels beside OpenBLAS and beside the time that this machine needs to read
// their data once. Five repeats; in each, reading, ours and OpenBLAS take turns and the least of
// each counts, so that a share compares what was measured in the same moment; the median of the
// five shares stands in the table.
//
// Times are what the threads worked, over their number: CPU clocks, because on a shared machine a
// wall clock measures the others, too. (`make bench` lets idle threads sleep instead of spin.) Wall
// times stand in the lines.
//
// Activations are fp32 beside fp32, and bf16 beside bf16, fp8 and nvfp4, as in the sweeps.
//
//   kernels [FILE [WORD]]   a JSON line for each row (whose name has WORD) is appended to FILE
#include <cblas.h>
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <fstream>
#include <functional>
#include <new>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/slice.h"
#include "base/version.h"
#include "bench/environment.h"
#include "execute/cpu/own_cores.h"
#include "execute/forced_codes.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/lanes.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/product.h"

namespace helix::cpu {
namespace {

constexpr int repeats = 5;
constexpr int turns = 6;                         // of which the least counts
constexpr int64_t piece_bytes = 32 << 20;        // what is read in a turn: beyond any cache here,
constexpr int64_t set_bytes = int64_t{1} << 28;  // out of so much, in turn

using Body = std::function<void()>;

struct Time {
  double cpu_us = 1e30;  // of all threads, over their number
  double wall_us = 1e30;
};
double now_us(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return 1e6 * static_cast<double>(time.tv_sec) + 1e-3 * static_cast<double>(time.tv_nsec);
}

// Turns begin when the threads' cores work for them alone (machine/own_core.h), within limits.
void wait_for_own_cores() {
  static std::vector<OwnCore> cores(static_cast<size_t>(omp_get_max_threads()));
  static Patience patience(2.5e5, 1.0 / 3);
  const double began = now_us(CLOCK_MONOTONIC);
  double waited_us = 0;
  for (bool own = false; !own && !patience.over(waited_us);) {
    own = true;
#pragma omp parallel reduction(&& : own)
    own = cores[static_cast<size_t>(omp_get_thread_num())].now();
    waited_us = now_us(CLOCK_MONOTONIC) - began;
  }
  patience.waited(waited_us);
}

void take(Time& least, const Body& body) {
  wait_for_own_cores();
  const double cpu = now_us(CLOCK_PROCESS_CPUTIME_ID);
  const double wall = now_us(CLOCK_MONOTONIC);
  body();
  least.wall_us = std::min(least.wall_us, now_us(CLOCK_MONOTONIC) - wall);
  least.cpu_us =
      std::min(least.cpu_us, (now_us(CLOCK_PROCESS_CPUTIME_ID) - cpu) / omp_get_max_threads());
}

constexpr float tensor_scale = 0.25F;

// Copies of `count` values, repeated every 64 K, in memory as the program takes it, first touched
// by the threads that read it.
template <class T>
class Copies {
 public:
  Copies(int64_t count, int64_t copies)
      : count_(count),
        copies_(copies),
        memory_(take_memory(static_cast<size_t>(copies * bytes_for<T>(count)))) {
    constexpr int64_t pattern = 1 << 16;
    std::mt19937 engine(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> values(pattern);
    for (float& value : values) value = uniform(engine);
    std::vector<std::byte> stored(static_cast<size_t>(bytes_for<T>(pattern)));
    encode(values.data(), pattern, values_at<T>(stored.data(), pattern, tensor_scale));
    const auto from = values_at<const T>(stored.data(), pattern, tensor_scale);
#pragma omp parallel for
    for (int64_t first = 0; first < count; first += pattern)
      for (int64_t copy = 0; copy < copies; ++copy)
        helix::copy(from, std::min(pattern, count - first), at(copy).at(first));
  }
  Values<const T> next() { return at(turn_++ % copies_); }

 private:
  Values<T> at(int64_t copy) const {
    return values_at<T>(memory_.get() + copy * bytes_for<T>(count_), count_, tensor_scale);
  }
  int64_t count_, copies_;
  int64_t turn_ = 0;
  Memory memory_;
};
template <class T>
int64_t copies_of(int64_t values) {
  return std::max<int64_t>(2, set_bytes / 2 / bytes_for<T>(values));
}

// Reads a piece with all threads. Eight streams a thread, as in a product: one alone is slower.
class Reader {
 public:
  Reader() : data_(set_bytes / 4, 1) {}
  void operator()() {
    constexpr int64_t size = piece_bytes / 4;
    constexpr int64_t stream = 1 << 12;
    constexpr int64_t streams = 8;
    const float* piece = data_.next().data + turn_++ % (set_bytes / piece_bytes) * size;
    float total = 0;
#pragma omp parallel for reduction(+ : total)
    for (int64_t b = 0; b < size / (stream * streams); ++b) {
      const float* block = piece + b * stream * streams;
      Lanes sum[streams];
      for (Lanes& lanes : sum) lanes = zero();
      for (int64_t i = 0; i < stream; i += lane_count) {
#pragma GCC unroll 8
        for (int64_t j = 0; j < streams; ++j) sum[j] = sum[j] + load(block + j * stream + i);
      }
      for (const Lanes& part : sum) total += cpu::sum(part);
    }
    sink_ = total;
  }

 private:
  Copies<float> data_;
  int64_t turn_ = 0;
  volatile float sink_ = 0;
};

// a = b + s c, STREAM's: counted as three arrays.
double triad_gb_per_s() {
  constexpr int64_t count = 1 << 24;
  Copies<float> b(count, 1), c(count, 1);
  std::vector<float> a(count);
  Time least;
  for (int turn = 0; turn < repeats * turns; ++turn)
    take(least, [&] {
      const float* from = b.next().data;
      const float* more = c.next().data;
#pragma omp parallel for simd
      for (int64_t i = 0; i < count; ++i) a[i] = from[i] + 3.0F * more[i];
    });
  return 3.0 * count * sizeof(float) / least.cpu_us / 1e3;
}

// fp32 multiply-adds on registers, two operations each: the floor of what many heads or rows share.
double fma_gflop_per_s() {
  constexpr int64_t rounds = 20000;
  constexpr int chains = 12;
  volatile float sink = 0;
  Time least;
  for (int turn = 0; turn < repeats * turns; ++turn)
    take(least, [&] {
#pragma omp parallel
      {
        Lanes sums[chains];
        for (Lanes& sum : sums) sum = zero();
        for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
          for (Lanes& sum : sums) sum = multiply_add(sum, all(0.999F), all(0.001F));
        }
        float total = 0;
        for (const Lanes& one : sums) total += cpu::sum(one);
        sink = total;
      }
    });
  return 2.0 * rounds * chains * lane_count * omp_get_max_threads() / least.cpu_us / 1e3;
}

struct Row {
  std::string kernel;
  double bytes;  // read once
  double flops;
  Body ours;
  Body blas = {};  // none: OpenBLAS has no such product
};

double median(std::array<double, repeats> values) {
  std::ranges::sort(values);
  return values[repeats / 2];
}

class Table {
 public:
  Table(const char* file, const char* only) : only_(only) {
    if (file != nullptr) file_.open(file, std::ios::app);
    const double triad = triad_gb_per_s();
    facts_ = environment(0, nullptr).facts;
    fmt::print(
        "{} threads, {} lanes a register; triad {:.1f} GB/s; multiply-adds {:.0f} GFLOP/s; medians "
        "of {} repeats, each the least of {} turns\n",
        omp_get_max_threads(), register_lanes, triad, fma_gflop_per_s(), repeats, turns);
    fmt::print("{:<36} {:>8} {:>9} {:>9} {:>9} {:>10} {:>8} {:>13} {:>9}\n", "kernel", "read MB",
               "ours us", "blas us", "read us", "ours GB/s", "GFLOP/s", "share of read",
               "blas/ours");
    triad_ = triad;
  }

  void add(const Row& row) {
    if (row.kernel.find(only_) == std::string::npos) return;
    std::array<double, repeats> ours, blas, read, shares, ratios, wall;
    row.ours();
    if (row.blas) row.blas();
    for (size_t r = 0; r < repeats; ++r) {
      Time our_time, blas_time, read_time;
      for (int turn = 0; turn < turns; ++turn) {
        take(read_time, [&] { reader_(); });
        take(our_time, row.ours);
        if (row.blas) take(blas_time, row.blas);
      }
      ours[r] = our_time.cpu_us;
      wall[r] = our_time.wall_us;
      blas[r] = blas_time.cpu_us;
      read[r] = row.bytes / piece_bytes * read_time.cpu_us;
      shares[r] = read[r] / ours[r];
      ratios[r] = blas[r] / ours[r];
    }
    fmt::print("{:<36} {:>8.1f} {:>9.0f} {:>9} {:>9.0f} {:>10.1f} {:>8.0f} {:>12.0f}% {:>9}\n",
               row.kernel, row.bytes / 1e6, median(ours),
               row.blas ? fmt::format("{:.0f}", median(blas)) : "-", median(read),
               row.bytes / median(ours) / 1e3, row.flops / median(ours) / 1e3, 100 * median(shares),
               row.blas ? fmt::format("{:.2f}", median(ratios)) : "-");
    std::fflush(stdout);
    Json line = {{"schema", "helix-bench/kernels/1"},
                 {"kernel", row.kernel},
                 {"bytes", row.bytes},
                 {"flops", row.flops},
                 {"ours_us", ours},
                 {"ours_wall_us", wall},
                 {"blas_us", row.blas ? Json(blas) : Json()},
                 {"read_us", read},
                 {"share_of_read", median(shares)},
                 {"triad_gb_per_s", triad_},
                 {"threads", omp_get_max_threads()},
                 {"commit", short_commit(version().commit, version().dirty)},
                 {"environment", facts_}};
    if (file_.is_open()) file_ << line.dump() << '\n';
  }

 private:
  Reader reader_;
  std::string only_;
  std::ofstream file_;
  Json facts_;
  double triad_ = 0;
};

template <class Weight, class Activation>
void product_row(Table& table, int64_t rows, const char* type) {
  constexpr int64_t outputs = 4096;
  constexpr int64_t inputs = 7168;
  Copies<Weight> w(outputs * inputs, copies_of<Weight>(outputs * inputs));
  Copies<Activation> x(rows * inputs, 1);
  std::vector<Activation> y(static_cast<size_t>(rows * outputs));
  const ProductShape shape{
      .rows = rows, .outputs = outputs, .inputs = inputs, .x_stride = inputs, .y_stride = outputs};
  const Activation* input = x.next().data;
  Row row{.kernel = fmt::format("product {} x {} x {} {}", rows, outputs, inputs, type),
          .bytes = static_cast<double>(bytes_for<Weight>(outputs * inputs)),
          .flops = 2.0 * static_cast<double>(rows) * outputs * inputs,
          .ours = [&] { product(shape, input, w.next(), y.data()); }};
  if constexpr (std::is_same_v<Weight, float>) {
    row.blas = [&] {  // on our threads: its own spin between calls
      const float* weights = w.next().data;
      const int threads = omp_get_max_threads();
#pragma omp parallel for schedule(static)
      for (int t = 0; t < threads; ++t) {
        const Slice mine = share(outputs, threads, t);
        const auto count = static_cast<int>(mine.count);
        const float* a = weights + mine.first * inputs;
        if (rows == 1) {
          cblas_sgemv(CblasRowMajor, CblasNoTrans, count, inputs, 1, a, inputs, input, 1, 0,
                      y.data() + mine.first, 1);
        } else {
          cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(rows), count,
                      inputs, 1, input, inputs, a, inputs, 0, y.data() + mine.first, outputs);
        }
      }
    };
  }
  table.add(row);
}

// One request; `paged`: its blocks of 64 tokens in reverse order.
template <class Kv, class Activation>
void attention_row(Table& table, const AttentionShape& shape, int64_t tokens,
                   const std::string& name, bool paged = false) {
  const bool latent = shape.head_size != shape.value_size;
  const int64_t k_values = shape.kv_heads * tokens * shape.head_size;
  const int64_t v_values = latent ? 0 : shape.kv_heads * tokens * shape.value_size;
  Copies<Kv> kv(k_values + v_values, copies_of<Kv>(k_values + v_values));
  Copies<Activation> q(shape.heads * shape.head_size, 1);
  const Activation* query = q.next().data;
  const PartialLayout part{.rows = 1,
                           .heads = shape.heads,
                           .value_size = shape.value_size,
                           .element_bytes = sizeof(Activation)};
  std::vector<std::byte> out(static_cast<size_t>(part.bytes()));
  std::vector<int32_t> blocks(static_cast<size_t>(tokens / tile_tokens));
  for (size_t i = 0; i < blocks.size(); ++i)
    blocks[i] = static_cast<int32_t>(blocks.size() - 1 - i);
  table.add({.kernel = name,
             .bytes = static_cast<double>(bytes_for<Kv>(k_values + v_values)),
             .flops = 2.0 * static_cast<double>(shape.heads * tokens) *
                      static_cast<double>(shape.head_size + shape.value_size),
             .ours = [&] {
               const auto all = kv.next();
               std::vector<KvView<Kv>> views;
               for (int64_t h = 0; h < shape.kv_heads; ++h) {
                 const auto keys = all.at(h * tokens * shape.head_size);
                 views.push_back(
                     {.k = keys,
                      .v = latent ? keys : all.at(k_values + h * tokens * shape.value_size),
                      .k_stride = shape.head_size,
                      .v_stride = latent ? shape.head_size : shape.value_size,
                      .tokens = tokens,
                      .block_table = paged ? blocks.data() : nullptr,
                      .block_tokens = tile_tokens});
               }
               decode_attention<Activation, Kv>(shape, query, views, part, out.data(), {});
             }});
}

void run(const char* file, const char* only) {
  openblas_set_num_threads(1);
  Table table(file, only);
  for (const int64_t rows : {1, 4, 16}) {
    product_row<float, float>(table, rows, "fp32");
    product_row<bf16, bf16>(table, rows, "bf16");
    product_row<fp8, bf16>(table, rows, "fp8");
    product_row<nvfp4, bf16>(table, rows, "nvfp4");
  }
  const AttentionShape gqa{
      .rows = 1, .heads = 32, .kv_heads = 8, .head_size = 128, .value_size = 128, .scale = 0.088F};
  attention_row<float, float>(table, gqa, 8192, "GQA 32/8 D 128, 8192 tokens fp32");
  attention_row<bf16, bf16>(table, gqa, 16384, "GQA 32/8 D 128, 16384 tokens bf16");
  attention_row<bf16, bf16>(table, gqa, 16384, "  the same, paged", true);
  attention_row<fp8, bf16>(table, gqa, 32768, "GQA 32/8 D 128, 32768 tokens fp8");
  attention_row<nvfp4, bf16>(table, gqa, 65536, "GQA 32/8 D 128, 65536 tokens nvfp4");
  // A head for each KV head: what memory alone limits.
  const AttentionShape mha{
      .rows = 1, .heads = 8, .kv_heads = 8, .head_size = 128, .value_size = 128, .scale = 0.088F};
  attention_row<fp8, bf16>(table, mha, 32768, "MHA 8/8 D 128, 32768 tokens fp8");
  attention_row<nvfp4, bf16>(table, mha, 65536, "MHA 8/8 D 128, 65536 tokens nvfp4");
  // Bound by arithmetic on CPUs: 16 heads do 30 FLOP a byte of bf16, 128 do 242.
  AttentionShape mla{
      .rows = 1, .heads = 16, .kv_heads = 1, .head_size = 576, .value_size = 512, .scale = 0.07F};
  attention_row<float, float>(table, mla, 8192, "MLA 16 heads, 8192 tokens fp32");
  attention_row<bf16, bf16>(table, mla, 8192, "MLA 16 heads, 8192 tokens bf16");
  attention_row<fp8, bf16>(table, mla, 8192, "MLA 16 heads, 8192 tokens fp8");
  attention_row<nvfp4, bf16>(table, mla, 8192, "MLA 16 heads, 8192 tokens nvfp4");
  mla.heads = 128;
  attention_row<bf16, bf16>(table, mla, 4096, "MLA 128 heads, 4096 tokens bf16");
}

}  // namespace
}  // namespace helix::cpu

int main(int argc, char** argv) {
  // A thread that spins is not counted in the process's time until it sleeps.
  const char* waiting = std::getenv("OMP_WAIT_POLICY");
  if (waiting == nullptr || std::string_view(waiting) != "passive") {
    fmt::print(stderr, "set OMP_WAIT_POLICY=passive, as make bench does\n");
    return 2;
  }
  helix::cpu::move_code();
  helix::cpu::run(argc > 1 ? argv[1] : nullptr, argc > 2 ? argv[2] : "");
}
