#include "judge/partial.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "judge/memory.h"

namespace helix {

namespace {

constexpr int64_t block_positions = 256;

// Sums over positions met so far, by weights relative to the largest logit among them.
struct Running {
  double top = -std::numeric_limits<double>::infinity();
  double sum = 0;
  Vector output;

  void add(double logit, const float* value) {
    if (logit > top) {
      const double shrink = std::exp(top - logit);
      sum *= shrink;
      for (double& x : output) x *= shrink;
      top = logit;
    }
    const double weight = std::exp(logit - top);
    sum += weight;
    for (size_t i = 0; i < output.size(); ++i) output[i] += weight * static_cast<double>(value[i]);
  }
};

// Of positions from the i-th on: whole runs, or a part of one.
Generator::Positions block_at(const Generator::Positions& all, int64_t i) {
  Generator::Positions some = all;
  some.first = all.at(i);
  const int64_t most = all.run >= block_positions ? std::min(block_positions, all.run - i % all.run)
                                                  : block_positions / all.run * all.run;
  some.count = std::min(most, all.count - i);
  return some;
}

}  // namespace

std::vector<PartialOutput> PartialAttention::outputs(const Tensors& tensors,
                                                     std::span<const Vector> queries) const {
  const Attention& a = tensors.model().attention;
  const double scale = softmax_scale(tensors.model());
  std::vector<Running> heads(queries.size());
  for (Running& head : heads) head.output.resize(static_cast<size_t>(a.value_size));
  const auto add = [&](int64_t count, const float* keys, const float* values, int64_t stride) {
    for (size_t head = 0; head < heads.size(); ++head)
      for (int64_t i = 0; i < count; ++i)
        heads[head].add(scale * dot(keys + i * a.head_size, queries[head].data(), a.head_size),
                        values + i * stride);
  };
  std::vector<float> keys(static_cast<size_t>(block_positions * a.head_size));
  std::vector<float> values(a.mla() ? 0 : static_cast<size_t>(block_positions * a.value_size));
  for (int64_t i = 0; i < positions.count;) {
    const Generator::Positions some = block_at(positions, i);
    tensors.generator().history(layer, request, history, kv_head, some, keys.data(),
                                a.mla() ? nullptr : values.data());
    add(some.count, keys.data(), a.mla() ? keys.data() : values.data(),
        a.mla() ? a.head_size : a.value_size);
    tensors.beat()();
    i += some.count;
  }
  if (!newest_key.empty()) {
    KvMemory rounded(tensors, 0, request, history);
    rounded.append(layer, kv_head, newest_key, newest_value);
    const std::vector<float> newest = rounded.newest(layer);
    add(1, newest.data(), newest.data() + (a.mla() ? 0 : a.head_size), 0);
  }
  std::vector<PartialOutput> outputs;
  for (Running& head : heads) {
    for (double& x : head.output) x = head.sum > 0 ? x / head.sum : 0;
    outputs.push_back({std::move(head.output), head.top + std::log(head.sum)});
  }
  return outputs;
}

}  // namespace helix
