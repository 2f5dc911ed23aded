// What a card reaches at its best: its memory, our kernels on what its second cache holds, and
// nodes of a graph that do next to nothing.
#include <algorithm>
#include <limits>
#include <vector>

#include "execute/cuda/read_rate.h"
#include "execute/factory.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/product.h"

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

template <class Weight>
double product_rate(const Graphs& card) {
  const ProductShape shape{64, 4096, 4096, 4096, 4096};  // as many rows as share what is read of w
  constexpr int64_t values = int64_t{4096} * 4096;
  const Buffer<std::byte> x = zeros(int64_t{shape.rows} * shape.inputs * 2);
  const Buffer<std::byte> y = zeros(int64_t{shape.rows} * shape.outputs * 2);
  const Buffer<std::byte> w = zeros(bytes_for<Weight>(values));
  const auto weights = values_at<const Weight>(w.data(), values, 1);
  const double us = card.node_us([&](bool dependent) {
    product(shape, as<const bf16>(x), weights, as<bf16>(y), card.how(dependent));
  });
  return 1e6 * 2 * shape.rows * static_cast<double>(values) / us;
}

double attention_rate(const Graphs& card, Format format) {
  constexpr int tokens = 4096;
  const AttentionShape shape{
      .rows = 4, .heads = 32, .kv_heads = 2, .head_size = 128, .value_size = 128, .scale = 1};
  const int64_t values = int64_t{tokens} * shape.head_size;  // of a pair, in one plane
  const Buffer<std::byte> q = zeros(int64_t{shape.rows} * shape.heads * shape.head_size * 2);
  const Buffer<std::byte> kv = zeros(2 * shape.pairs() * values * 2);
  const Buffer<std::byte> scales = zeros(2 * shape.pairs() * values / nvfp4_block);
  const PartialLayout part{
      .rows = shape.rows, .heads = shape.heads, .value_size = shape.value_size, .element_bytes = 2};
  const Buffer<std::byte> out = zeros(part.bytes());
  std::vector<int64_t> keys, planes;
  for (int pair = 0; pair < shape.pairs(); ++pair) {
    keys.push_back(2 * pair * values);
    planes.push_back((2 * pair + 1) * values);
  }
  const Buffer<int64_t> keys_at{std::span<const int64_t>(keys)};
  const Buffer<int64_t> values_from{std::span<const int64_t>(planes)};
  const std::vector<int32_t> lengths(static_cast<size_t>(shape.rows), tokens);
  const Buffer<int32_t> counts{std::span<const int32_t>(lengths)};
  const Buffer<std::byte> memory = zeros(AttentionPlan::bytes(shape, card.blocks()));
  const AttentionPlan plan(shape, card.blocks(), memory.data());
  cut_attention(plan, counts.data(), card.how(false));
  const KvView view{.base = kv.data(),
                    .format = format,
                    .keys = keys_at.data(),
                    .values = values_from.data(),
                    .tokens = counts.data(),
                    .block_scales = format == Format::nvfp4 ? as<fp8>(scales) : nullptr};
  const double us = card.node_us([&](bool dependent) {
    decode_attention(plan, as<const bf16>(q), view, part, out.data(), card.how(dependent));
  });
  return 1e6 * 4 * shape.heads * shape.rows * static_cast<double>(values) / us;
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
  peaks.product_flops_per_s[at(Format::bf16)] = product_rate<bf16>(card);
  peaks.product_flops_per_s[at(Format::fp8)] = product_rate<fp8>(card);
  peaks.product_flops_per_s[at(Format::nvfp4)] = product_rate<nvfp4>(card);
  for (const Format format : {Format::bf16, Format::fp8, Format::nvfp4})
    peaks.attention_flops_per_s[at(format)] = attention_rate(card, format);
  const Buffer<std::byte> two = zeros(256);
  const auto small = [&](bool dependent) {
    add(8, as<bf16>(two), as<const bf16>(two) + 64, card.how(dependent));
  };
  peaks.node_us = card.node_us([&](bool) { small(false); });
  peaks.dependent_node_us = card.node_us(small);
  return peaks;
}

}  // namespace helix::cuda
