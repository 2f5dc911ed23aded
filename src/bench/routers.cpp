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
  const auto layers = static_cast<size_t>(work_.model->layers);
  const auto token =
      std::span(v.router_logits)
          .subspan(static_cast<size_t>(step) * layers * logits.size(), layers * logits.size());
  const auto right = token.subspan(static_cast<size_t>(layer) * logits.size(), logits.size());
  double largest = 0;
  double worst = 0;
  for (const float b : token) largest = std::max(largest, std::abs(double{b}));
  for (size_t i = 0; i < logits.size(); ++i) {
    const double d = std::abs(double{logits[i]} - right[i]);
    if (!(d <= worst)) worst = std::isnan(d) ? std::numeric_limits<double>::infinity() : d;
  }
  met_.error = std::max(met_.error, worst / largest);
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
