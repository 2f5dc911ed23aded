// What a card reaches at its best: its memory, what the executor calls for products and attention,
// and nodes of a graph that do next to nothing.
#include <algorithm>
#include <limits>
#include <vector>

#include "execute/cuda/read_rate.h"
#include "execute/factory.h"
#include "execute/types.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/generate.h"
#include "kernels/cuda/plain.h"

namespace helix::cuda {

namespace {

constexpr int replays = 12;

Buffer<std::byte> zeros(int64_t bytes) {
  Buffer<std::byte> buffer(bytes);
  HELIX_CUDA(cudaMemset(buffer.data(), 0, static_cast<size_t>(bytes)));
  return buffer;
}
template <class T>
T* as(const Buffer<std::byte>& buffer) {
  return reinterpret_cast<T*>(buffer.data());
}

class Graphs {
 public:
  Graphs() : stream_(make_stream()) {
    int device = 0;
    HELIX_CUDA(cudaGetDevice(&device));
    HELIX_CUDA(cudaDeviceGetAttribute(&blocks_, cudaDevAttrMultiProcessorCount, device));
  }
  int blocks() const { return blocks_; }
  Launch how(bool dependent) const { return {stream_.get(), blocks_, dependent}; }

  // Microseconds of one more node: what 2 n more of them add to a graph of n, each the fastest of
  // some replays.
  template <class Node>
  double node_us(const Node& node) const {
    constexpr int nodes = 20;
    return (graph_us(3 * nodes, node) - graph_us(nodes, node)) / (2 * nodes);
  }

 private:
  template <class Node>
  double graph_us(int nodes, const Node& node) const {
    HELIX_CUDA(cudaDeviceSynchronize());  // what the default stream has filled
    node(false);                          // cuBLASLt gets ready at the first of a shape
    HELIX_CUDA(cudaStreamSynchronize(stream_.get()));
    const OwnedGraphExec graph = capture(stream_.get(), [&] {
      for (int i = 0; i < nodes; ++i) node(i > 0);
    });
    const OwnedEvent begin = make_event();
    const OwnedEvent end = make_event();
    float best_ms = std::numeric_limits<float>::infinity();
    for (int i = 0; i < replays; ++i) {
      HELIX_CUDA(cudaEventRecord(begin.get(), stream_.get()));
      HELIX_CUDA(cudaGraphLaunch(graph.get(), stream_.get()));
      HELIX_CUDA(cudaEventRecord(end.get(), stream_.get()));
      HELIX_CUDA(cudaEventSynchronize(end.get()));
      float ms = 0;
      HELIX_CUDA(cudaEventElapsedTime(&ms, begin.get(), end.get()));
      best_ms = std::min(best_ms, ms);
    }
    return 1e3 * static_cast<double>(best_ms);
  }

  OwnedStream stream_;
  int blocks_ = 0;
};

double copy_rate(const Graphs& card) {
  constexpr int64_t bytes = int64_t{1} << 29;
  const Buffer<std::byte> from = zeros(bytes), to = zeros(bytes);
  const double us = card.node_us([&](bool) {
    HELIX_CUDA(cudaMemcpyAsync(to.data(), from.data(), static_cast<size_t>(bytes),
                               cudaMemcpyDeviceToDevice, card.how(false).stream));
  });
  return 1e6 * static_cast<double>(bytes) / us;
}

// Not zeros: a card is quicker on them, for they take less power.
Buffer<std::byte> drawn(const Graphs& card, Format format, int64_t values) {
  Buffer<std::byte> buffer(static_cast<int64_t>(static_cast<double>(values) * bytes_of(format)));
  with_stored(format, [&]<class T>(T*) {
    generate({}, {.width = values}, values_at<T>(buffer.data(), values, 1), card.how(false));
  });
  return buffer;
}

// By whatever carries out an executor's products of so many rows: the fastest of these.
template <class Activation>
double product_rate(const Graphs& card, Format weights, std::initializer_list<int> rows_of) {
  constexpr Format activations = std::is_same_v<Activation, float> ? Format::fp32 : Format::bf16;
  constexpr int side = 4096;
  constexpr int64_t values = int64_t{side} * side;
  const int64_t most = std::max(rows_of) * int64_t{side};
  const Buffer<std::byte> x = drawn(card, activations, most), w = drawn(card, weights, values);
  const Buffer<std::byte> y = zeros(most * int64_t{sizeof(Activation)});
  const Stored stored{.base = w.data(), .count = values, .format = weights};
  ProductLibrary library;
  double best = 0;
  for (const int rows : rows_of) {
    const double us = card.node_us([&](bool dependent) {
      any_product(ProductShape{rows, side, side, side, side}, as<const Activation>(x), stored,
                  as<Activation>(y), card.how(dependent), &library);
    });
    best = std::max(best, 1e6 * 2 * rows * static_cast<double>(values) / us);
  }
  return best;
}

double attention_rate(const Graphs& card, Format format, const AttentionShape& shape) {
  constexpr int tokens = 4096;
  const int64_t planes = shape.value_size < shape.head_size ? 1 : 2;  // MLA: keys alone
  const int64_t plane = int64_t{tokens} * shape.head_size;            // of a pair
  const int64_t count = shape.pairs() * planes * plane;
  const Buffer<std::byte> kv = drawn(card, format, count);
  const Buffer<std::byte> q =
      drawn(card, Format::bf16, int64_t{shape.rows} * shape.heads * shape.head_size);
  const PartialLayout part{
      .rows = shape.rows, .heads = shape.heads, .value_size = shape.value_size, .element_bytes = 2};
  const Buffer<std::byte> out = zeros(part.bytes());
  std::vector<int64_t> first_keys, first_values;
  for (int pair = 0; pair < shape.pairs(); ++pair) {
    first_keys.push_back(pair * planes * plane);
    first_values.push_back(first_keys.back() + (planes - 1) * plane);
  }
  const Buffer<int64_t> keys{std::span<const int64_t>(first_keys)};
  const Buffer<int64_t> values{std::span<const int64_t>(first_values)};
  const std::vector<int32_t> lengths(static_cast<size_t>(shape.rows), tokens);
  const Buffer<int32_t> counts{std::span<const int32_t>(lengths)};
  const Buffer<std::byte> memory = zeros(AttentionPlan::bytes(shape, card.blocks()));
  const AttentionPlan plan(shape, card.blocks(), memory.data());
  cut_attention(plan, counts.data(), card.how(false));
  KvView view{.base = kv.data(),
              .format = format,
              .keys = keys.data(),
              .values = values.data(),
              .tokens = counts.data()};
  if (format == Format::nvfp4) view.block_scales = values_at<nvfp4>(kv.data(), count, 1).scales;
  const double us = card.node_us([&](bool dependent) {
    decode_attention(plan, as<const bf16>(q), view, part, out.data(), card.how(dependent));
  });
  const double sizes = shape.head_size + shape.value_size;
  return 1e6 * 2 * shape.rows * shape.heads * tokens * sizes / us;
}

// Grouped queries, and MLA's latents, which more of them share.
constexpr AttentionShape attention_shapes[] = {
    {.rows = 4, .heads = 32, .kv_heads = 2, .head_size = 128, .value_size = 128, .scale = 1},
    {.rows = 32, .heads = 128, .kv_heads = 1, .head_size = 576, .value_size = 512, .scale = 1}};

// What ProductLibrary::better says of more rows, as a machine file can say it.
int library_rows() {
  int rows = 0;
  while (rows < 1024 && !ProductLibrary::better({.rows = rows + 1})) ++rows;
  return rows < 1024 ? rows : 0;
}

}  // namespace

Peaks measure_peaks() {
  const Graphs card;
  size_t free = 0;
  size_t total = 0;
  HELIX_CUDA(cudaMemGetInfo(&free, &total));
  Peaks peaks{.memory_bytes = static_cast<double>(total),
              .read_bytes_per_s = read_rate(card.blocks()),
              .copy_bytes_per_s = copy_rate(card)};
  const auto at = [](Format format) { return static_cast<size_t>(format); };
  peaks.product_flops_per_s[at(Format::fp32)] = product_rate<float>(card, Format::fp32, {16});
  for (const Format format : {Format::bf16, Format::fp8, Format::nvfp4}) {
    // As many as share what is read of w, and so many that they fill the card.
    peaks.product_flops_per_s[at(format)] = product_rate<bf16>(card, format, {64, 256, 2048});
    for (const AttentionShape& shape : attention_shapes) {
      double& most = peaks.attention_flops_per_s[at(format)];
      most = std::max(most, attention_rate(card, format, shape));
    }
  }
  const Buffer<std::byte> two = zeros(256);
  const auto small = [&](bool dependent) {
    add(8, as<bf16>(two), as<const bf16>(two) + 64, card.how(dependent));
  };
  peaks.node_us = card.node_us([&](bool) { small(false); });
  peaks.dependent_node_us = card.node_us(small);
  peaks.library_rows = library_rows();
  return peaks;
}

}  // namespace helix::cuda
