#include "bench/routers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "bench/verification.h"
#include "judge/ffn.h"

namespace helix {

namespace {

// Scores closer than this, relative to themselves, are equals in fp32.
constexpr double near_tie = 1e-5;

}  // namespace

RouterCheck::RouterCheck(const Assignment& work, const std::vector<const Verdict*>& verdicts)
    : work_(work), verdicts_(verdicts), largest_(static_cast<size_t>(work.model->layers)) {
  const auto experts = static_cast<size_t>(work.model->experts.count);
  for (const Verdict* v : verdicts)
    for (size_t i = 0; i < v->router_logits.size(); ++i) {
      double& largest = largest_[i / experts % largest_.size()];
      largest = std::max(largest, std::abs(double{v->router_logits[i]}));
    }
}

std::span<const int32_t> RouterCheck::judged(int64_t step, int layer, int64_t request) const {
  const Verdict& v = *verdicts_[static_cast<size_t>(request)];
  if (step >= std::ssize(v.tokens)) return {};  // the first stages of a pipeline are ahead
  const auto chosen = static_cast<size_t>(work_.model->experts.chosen);
  return std::span(v.experts).subspan(
      static_cast<size_t>(step * work_.model->layers + layer) * chosen, chosen);
}

void RouterCheck::note(int64_t step, int layer, int64_t request, std::span<const float> logits,
                       std::span<const int32_t> choice) {
  const Verdict& v = *verdicts_[static_cast<size_t>(request)];
  const auto right =
      std::span(v.router_logits)
          .subspan(static_cast<size_t>(step * work_.model->layers + layer) * logits.size(),
                   logits.size());
  double worst = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double d = std::abs(double{logits[i]} - right[i]);
    if (!(d <= worst)) worst = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
  }
  met_.error = std::max(met_.error, worst / largest_[static_cast<size_t>(layer)]);
  met_.choices += std::ssize(choice);
  const auto experts = judged(step, layer, request);
  const int64_t differing = std::ranges::count_if(
      choice, [&](int32_t expert) { return !std::ranges::binary_search(experts, expert); });
  met_.differing += differing;
  if (differing > 0 && std::isfinite(worst) && !rightly_chosen(layer, logits, choice)) ++met_.wrong;
}

bool RouterCheck::rightly_chosen(int layer, std::span<const float> logits,
                                 std::span<const int32_t> choice) {
  const Experts& experts = work_.model->experts;
  const auto [bias, made] = biases_.try_emplace(layer);
  if (made && experts.bias) {
    std::vector<float> values(logits.size());
    Generator(*work_.model, work_.precision, work_.seed)
        .weights(W::router_bias, layer, {whole(experts.count), whole(1), whole(1), whole(1)},
                 values.data());
    bias->second.assign(values.begin(), values.end());
  }
  Vector gates;
  const JudgeRouting rule =
      choose_experts(experts, {logits.begin(), logits.end()}, bias->second, gates);
  return std::ranges::equal(rule.experts, choice) || rule.margin <= near_tie;
}

}  // namespace helix
