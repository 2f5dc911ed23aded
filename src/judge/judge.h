// The judge: one request decoded in float64, against which every executor is held. It knows no
// shards, tiles, layouts or kernels, and computes each formula in the plainest way that its size
// allows.
//
// Only what defines the model is rounded: weights and history come rounded from the generator, and
// what the model appends to its cache is rounded to the cache's format. Sums run in an order that
// does not depend on the threads.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "judge/tensors.h"

namespace helix {

// Which experts a layer chose; empty where it is dense.
struct JudgeRouting {
  std::vector<int32_t> experts;  // by index
  std::vector<float> gates;      // what each one's output is multiplied by
  std::vector<float> logits;     // of the router, an expert each
  // How far the choice is from another one: the weakest chosen score minus the strongest rejected
  // one, relative to the former; the same of groups, whichever is less. Scores are those compared:
  // bias included.
  double margin = std::numeric_limits<double>::infinity();
};

struct JudgeStep {
  int32_t input = 0;  // the token at position history + step
  int32_t token = 0;  // the greedy choice, the next step's input; the lowest index of equals
  double margin = 0;  // its logit minus the second best
  std::vector<double> logits;         // [vocabulary]
  std::vector<JudgeRouting> routing;  // a layer
  std::vector<std::vector<float>>
      appended;  // a layer: keys [K][D], then values [K][Dv] (MLA: [kv_lora + rope])
  // Where the cache is quantised, a layer: each KV head's key, then its value, as stored.
  std::vector<std::vector<std::byte>> codes;
};

// Steps count from 0; those of a prompt before it.
struct JudgeHooks {
  // Softmax weights of one query head over positions 0 … the newest. A test may change them: a
  // negative control.
  std::function<void(int64_t step, int64_t layer, int64_t head, std::span<double> weights)>
      attention = {};
  // The hidden state that leaves a layer.
  std::function<void(int64_t step, int64_t layer, std::span<const double> hidden)> hidden = {};
};

// MLA is checked in its expanded form, keys and values of every head made from the latent, unless
// that is too dear: then W_UK is absorbed into the query, as executors do.
enum class MlaForm : uint8_t { automatic, expanded, absorbed };

struct JudgeOptions {
  int64_t cached_values = int64_t{64}
                          << 20;  // models up to this size are generated once; so is the history
  MlaForm mla = MlaForm::automatic;
  Beat progress = {};  // called after each block of rows or positions, by one thread
};

// Decodes for one caller at a time: the weights it has met are kept in `tensors_`.
class Judge {
 public:
  // Throws RunError where the generator cannot make a format.
  explicit Judge(const Generator& generator, JudgeOptions options = {});

  // `steps` tokens after `history` of them, each fed the one before; the first is the generator's.
  // With a prompt, of history + 1 tokens, these are decoded in place of the generator's history,
  // and its last token is the first of the steps.
  std::vector<JudgeStep> decode(int64_t request, int64_t history, int64_t steps,
                                const JudgeHooks& hooks = {},
                                std::span<const int32_t> prompt = {}) const;

 private:
  JudgeOptions options_;
  Tensors tensors_;
};

// The largest logit's index, the lowest of equals; `margin` is its distance from the second best.
// Throws RunError on what is not finite.
int32_t greedy(std::span<const double> logits, double& margin);

}  // namespace helix
