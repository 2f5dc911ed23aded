// The weights of a model: one table of tensors and their global shapes, and the values a generator
// gives them.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/format.h"
#include "base/slice.h"
#include "model/model.h"

namespace helix {

// As executed: K with V, gate with up. A norm of layer L (one past the last) is the final norm.
enum class W : uint8_t {
  embed,
  lm_head,
  attention_norm,
  ffn_norm,
  q,
  kv,
  q_norm,
  k_norm,
  o,  // GQA; q and o also MLA (q: W_UQ, or W_Q without query latent)
  dq,
  q_latent_norm,
  dkv,
  kv_latent_norm,
  uk,
  uv,  // MLA
  up,
  down,
  router,
  router_bias,
  experts_up,
  experts_down,
  shared_up,
  shared_down,
};
inline constexpr int weight_count = 23;

std::string_view name_of(W weight);  // "W_Q", "attention_norm"

// Global extents, outputs first, contraction last; unused leading extents are absent (rank < 4:
// trailing 1s are never added: dims[0 .. rank) are used and the rest are 1).
//   embed, lm_head [V][H] · norms [H] (q_norm, k_norm [D]; latents [q_lora], [kv_lora]) · q
//   [Q][D][H or q_lora] kv [2][K][D][H]: keys, then values · o [H][Q][Dv] · dq [q_lora][H] · dkv
//   [kv_lora + rope][H] uk [Q][kv_lora][nope] · uv [Q][v][kv_lora] · up [2][F][H]: gate, then up ·
//   down [H][F] · router [E][H] router_bias [E] · experts_up [E][2][M][H] · experts_down [E][H][M]
//   · shared_up [2][shared*M][H] · shared_down
using Extents = std::array<int64_t, 4>;
using Part = std::array<Slice, 4>;
Extents extents_of(const Model& model, W weight);
int64_t fan_in(const Model& model, W weight);
Format format_of(const Precision& precision, W weight);
bool in_layer(const Model& model, W weight, int64_t layer);  // does layer `layer` have this tensor

// Parameters of the whole model, from the shapes; a tied LM head is counted once.
int64_t parameters(const Model& model);
// Those that one token's step reads: chosen experts only, the whole embedding counted (helix.md's
// convention).
int64_t active_parameters(const Model& model);

// The values of a model, by (seed, tensor, layer, global index): any rank makes any part, the same
// bits.
class Generator {
 public:
  Generator(const Model& model, const Precision& precision, uint64_t seed, double zipf = 0)
      : model_(&model), precision_(precision), seed_(seed), zipf_(zipf) {}

  // Fills out[...] with the part of a weight, row-major, as it is stored: T is the weight's format,
  // and the scale of `out` is scale(). Or with what the stored values mean, in fp32. Of nvfp4 the
  // part is cut at multiples of 16.
  template <class T>
  void weights(W weight, int64_t layer, const Part& part, const Values<T>& out) const;
  void weights(W weight, int64_t layer, const Part& part, float* out) const;
  // A quantised tensor's scale: a constant of (tensor, layer), so that a shard needs no one else's
  // maximum. 1 where the format has none.
  float scale(W weight, int64_t layer) const;
  // Rounds values of a weight to what its format holds; of nvfp4 whole blocks.
  void round(W weight, int64_t layer, int64_t count, float* values) const;

  // Which tokens of a history: `count` of them in runs of `run`, the runs `jump` positions apart.
  // Token i stands at first + i / run * jump + i % run; as it is, one run.
  struct Positions {
    int64_t first = 0;
    int64_t count = 0;
    int64_t run = int64_t{1} << 62;
    int64_t jump = 0;
    int64_t at(int64_t i) const { return first + i / run * jump + i % run; }
  };
  // History of one request of `length` tokens, for one KV head.
  // k: [count][head_size] after RoPE, v: [count][value_size] (MLA: v is not written, k is latent
  // then rotated key). As stored, with kv_scale(), or what that means, in fp32 (MLA: v is null).
  template <class T>
  void history(int64_t layer, int64_t request, int64_t length, int64_t kv_head, Positions positions,
               const Values<T>& k, const Values<T>& v) const;
  void history(int64_t layer, int64_t request, int64_t length, int64_t kv_head, Positions positions,
               float* k, float* v) const;
  float kv_scale(int64_t layer, int64_t kv_head) const;  // of keys and values

  // Where values come from: value i of a tensor is uniform_at(stream, i) * scale + offset
  // (base/random.h), rounded, and then, in a marked model, changed. Keys of W::kv are drawn
  // `key_gain` times as large.
  struct Draw {
    uint64_t stream;
    float scale;
    float offset = 0;  // norms are near 1
  };
  Draw draw(W weight, int64_t layer) const;
  Draw key_draw(int64_t layer, int64_t request, int64_t kv_head) const;
  Draw value_draw(int64_t layer, int64_t request, int64_t kv_head) const;
  float key_gain(W weight) const;

  // The token that request `request` decodes first.
  int32_t first_token(int64_t request) const;

  // What is added to the logits of a layer's router, an expert each, so that experts are chosen
  // about as Zipf's law has it: the one of rank r in proportion to r^-zipf. Ranks are a permutation
  // of each layer's own. Empty where nothing is skewed.
  std::vector<float> routing_skew(int64_t layer) const;

  const Model& model() const { return *model_; }
  const Precision& precision() const { return precision_; }
  uint64_t seed() const { return seed_; }
  double zipf() const { return zipf_; }

 private:
  // Calls out(first, values) for runs of values of the part, `first` counted in it.
  template <class Out>
  void draw_weights(W weight, int64_t layer, const Part& part, Out&& out) const;
  template <class Out>
  void draw_history(int64_t layer, int64_t request, int64_t length, int64_t kv_head,
                    const Positions& positions, Out&& keys, Out&& values) const;

  const Model* model_;
  Precision precision_;
  uint64_t seed_;
  double zipf_;
};

}  // namespace helix
