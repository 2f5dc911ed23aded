#include "judge/judge.h"

#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "judge/attention.h"
#include "judge/ffn.h"
#include "judge/memory.h"

namespace helix {

namespace {

void add(Vector& to, const Vector& what) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += what[i];
}

// One request's decoding.
struct Pass {
  const Tensors& tensors;
  MlaForm form;
  const JudgeHooks& hooks;
  KvMemory memory;

  Vector normed(const Vector& x, W weight, int64_t layer) const {
    Vector y = x;
    rms_norm(y, tensors.values(weight, layer), tensors.model().norm_eps);
    return y;
  }

  // A token's way through all layers; fills in what the step records.
  void step(int64_t index, int64_t position, JudgeStep& step) {
    const Model& model = tensors.model();
    Vector x = tensors.values(W::embed, 0, step.input);
    step.routing.resize(static_cast<size_t>(model.layers));
    for (int64_t layer = 0; layer < model.layers; ++layer) {
      SeeWeights see;
      if (hooks.attention)
        see = [&](int64_t head, std::span<double> weights) {
          hooks.attention(index, layer, head, weights);
        };
      const Vector attention_input = normed(x, W::attention_norm, layer);
      add(x, attend(tensors, memory, layer, position, attention_input, form, see));
      add(x, feed_forward(tensors, layer, normed(x, W::ffn_norm, layer), step.routing[layer]));
      step.appended.push_back(memory.newest(layer));
      step.codes.push_back(memory.newest_codes(layer));
      if (hooks.hidden) hooks.hidden(index, layer, x);
    }
    step.logits = tensors.times(W::lm_head, 0, normed(x, W::attention_norm, model.layers));
  }
};

void check_formats(const Precision& p) {
  for (const Format format : {p.weights, p.attention, p.experts, p.lm_head, p.kv})
    if (format == Format::fp4) throw RunError("fp4 is priced, never decoded: nvfp4 is");
}

}  // namespace

int32_t greedy(std::span<const double> logits, double& margin) {
  int32_t token = 0;
  double best = -std::numeric_limits<double>::infinity(), second = best;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double logit = logits[i];
    if (!std::isfinite(logit)) throw RunError("the judge's logits are not finite");
    if (logit > best) {
      second = std::exchange(best, logit);
      token = static_cast<int32_t>(i);
    } else if (logit > second) {
      second = logit;
    }
  }
  margin = best - second;
  return token;
}

Judge::Judge(const Generator& generator, JudgeOptions options)
    : options_(std::move(options)), tensors_(generator, options_.cached_values, options_.progress) {
  check_formats(generator.precision());
}

std::vector<JudgeStep> Judge::decode(int64_t request, int64_t history, int64_t steps,
                                     const JudgeHooks& hooks,
                                     std::span<const int32_t> prompt) const {
  const bool prompted = !prompt.empty();
  if (prompted && std::ssize(prompt) != history + 1)
    throw RunError("a prompt has one token more than the history");
  Pass pass = {tensors_, options_.mla, hooks,
               KvMemory(tensors_, options_.cached_values, request, prompted ? 0 : history)};
  for (int64_t i = 0; prompted && i < history; ++i) {
    JudgeStep read;
    read.input = prompt[i];
    pass.step(i - history, i, read);
  }
  std::vector<JudgeStep> done(static_cast<size_t>(steps));
  int32_t token = prompted ? prompt.back() : tensors_.generator().first_token(request);
  for (int64_t i = 0; i < steps; ++i) {
    done[i].input = token;
    pass.step(i, history + i, done[i]);
    token = done[i].token = greedy(done[i].logits, done[i].margin);
  }
  return done;
}

}  // namespace helix
