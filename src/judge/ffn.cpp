#include "judge/ffn.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace helix {

namespace {

// The indices of the `count` largest, ascending; ties to the lowest index. `margin` shrinks to the
// distance between the last chosen and the first rejected.
std::vector<int32_t> largest(const Vector& scores, int64_t count, double& margin) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return scores[a] > scores[b]; });
  const auto kept = static_cast<size_t>(count);
  if (kept < order.size()) {
    const double weakest = scores[order[kept - 1]], rejected = scores[order[kept]];
    margin = std::min(margin, (weakest - rejected) / std::abs(weakest));
  }
  order.resize(kept);
  std::sort(order.begin(), order.end());
  return order;
}

Vector scores_of(Scoring scoring, Vector logits) {
  if (scoring == Scoring::sigmoid) {
    for (double& value : logits) value = 1 / (1 + std::exp(-value));
    return logits;
  }
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (double& value : logits) sum += value = std::exp(value - top);
  for (double& value : logits) value /= sum;
  return logits;
}

// Experts outside the best groups score -inf; a group's score is the sum of its two best.
void mask_groups(const Experts& experts, Vector& scores, double& margin) {
  if (experts.groups == 1) return;
  const int64_t size = experts.count / experts.groups;
  Vector sums;
  for (int64_t group = 0; group < experts.groups; ++group) {
    Vector mine(scores.begin() + group * size, scores.begin() + (group + 1) * size);
    std::partial_sort(mine.begin(), mine.begin() + 2, mine.end(), std::greater<>());
    sums.push_back(mine[0] + mine[1]);
  }
  const std::vector<int32_t> best = largest(sums, experts.chosen_groups, margin);
  for (int64_t i = 0; i < experts.count; ++i)
    if (!std::binary_search(best.begin(), best.end(), static_cast<int32_t>(i / size)))
      scores[i] = -std::numeric_limits<double>::infinity();
}

}  // namespace

Vector swiglu(const Vector& both) {
  const size_t width = both.size() / 2;
  Vector out(width);
  for (size_t i = 0; i < width; ++i) out[i] = both[i] / (1 + std::exp(-both[i])) * both[width + i];
  return out;
}

Vector gates_of(const Experts& experts, const Vector& logits, std::span<const int32_t> chosen) {
  const Vector scores = scores_of(experts.scoring, logits);
  Vector gates;
  for (const int32_t expert : chosen) gates.push_back(scores[expert]);
  const double sum = std::accumulate(gates.begin(), gates.end(), 1e-20);
  for (double& gate : gates) gate *= experts.scale / (experts.renormalise ? sum : 1);
  return gates;
}

JudgeRouting choose_experts(const Experts& experts, const Vector& logits, const Vector& bias,
                            Vector& gates) {
  Vector compared = scores_of(experts.scoring, logits);
  for (size_t i = 0; i < bias.size(); ++i) compared[i] += bias[i];
  JudgeRouting routing;
  mask_groups(experts, compared, routing.margin);
  routing.experts = largest(compared, experts.chosen, routing.margin);
  gates = gates_of(experts, logits, routing.experts);
  routing.gates.assign(gates.begin(), gates.end());
  routing.logits.assign(logits.begin(), logits.end());
  return routing;
}

Vector feed_forward(const Tensors& tensors, int64_t layer, const Vector& input,
                    JudgeRouting& routing) {
  const Model& model = tensors.model();
  if (layer < model.dense_layers)
    return tensors.times(W::down, layer, swiglu(tensors.times(W::up, layer, input)));
  const Vector bias = model.experts.bias ? tensors.values(W::router_bias, layer) : Vector();
  Vector logits = tensors.times(W::router, layer, input);
  const std::vector<float> skew = tensors.generator().routing_skew(layer);
  for (size_t i = 0; i < skew.size(); ++i) logits[i] += skew[i];
  Vector gates;
  routing = choose_experts(model.experts, logits, bias, gates);
  Vector sum(input.size());
  for (size_t i = 0; i < gates.size(); ++i) {
    const int32_t expert = routing.experts[i];
    const Vector middle = swiglu(tensors.times(W::experts_up, layer, expert, input));
    const Vector one = tensors.times(W::experts_down, layer, expert, middle);
    for (size_t h = 0; h < sum.size(); ++h) sum[h] += gates[i] * one[h];
  }
  if (model.experts.shared == 0) return sum;
  const Vector middle = swiglu(tensors.times(W::shared_up, layer, input));
  const Vector one = tensors.times(W::shared_down, layer, middle);
  for (size_t h = 0; h < sum.size(); ++h) sum[h] += one[h];
  return sum;
}

}  // namespace helix
