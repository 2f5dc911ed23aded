// What is decoded: the architecture of a model. Symbols are those of the paper (shared words:
// README.md).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/format.h"
#include "base/json.h"

namespace helix {

// As the attention kernel sees it: MLA is one KV head of kv_lora + rope numbers, of which kv_lora
// are the value.
struct Attention {
  int64_t query_heads = 0;  // Q
  int64_t kv_heads = 0;     // K; MLA 1
  int64_t head_size = 0;    // D; MLA kv_lora + rope
  int64_t value_size = 0;   // Dv that a head gives out before W_UV; MLA kv_lora
  bool qk_norm = false;     // RMSNorm over D of each query and key head, before RoPE
  // MLA alone, 0 elsewhere.
  int64_t q_lora = 0;  // 0: the query comes straight from the hidden state
  int64_t kv_lora = 0;
  int64_t nope = 0;
  int64_t rope = 0;
  int64_t v = 0;

  bool mla() const { return kv_lora > 0; }
  int64_t query_size() const { return mla() ? nope + rope : head_size; }  // a head, as projected
  int64_t output_size() const { return mla() ? v : value_size; }          // a head, as W_O reads it
  int64_t rotated() const { return mla() ? rope : head_size; }  // numbers of a head that RoPE turns
};

enum class RopeScaling : uint8_t { none, llama3, yarn };

struct Rope {
  double theta = 1e4;
  bool interleaved = false;  // pairs (2i, 2i + 1); otherwise half-split (i, i + D/2)
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;
  double original_positions = 0;
  double low = 1;             // llama3
  double high = 4;            // llama3
  double beta_fast = 32;      // yarn
  double beta_slow = 1;       // yarn
  double mscale_all_dim = 0;  // yarn
};

enum class Scoring : uint8_t { softmax, sigmoid };

struct Experts {
  int64_t count = 0;   // E; 0: every layer is dense
  int64_t chosen = 0;  // k
  int64_t width = 0;   // M
  int64_t shared = 0;  // shared experts, run as one MLP of shared * width
  int64_t groups = 1;
  int64_t chosen_groups = 1;
  Scoring scoring = Scoring::softmax;
  bool bias = false;         // added to the scores for the choice, not for the weight
  bool renormalise = false;  // weights are divided by their sum
  double scale = 1;
};

class Checkpoint;

struct Model {
  std::string name;
  int64_t layers = 0;        // L
  int64_t dense_layers = 0;  // leading layers with a dense FFN; all of them without experts
  int64_t hidden = 0;        // H
  int64_t ffn = 0;           // F, 0 where no layer is dense
  int64_t vocabulary = 0;
  int64_t max_positions = 0;
  double norm_eps = 1e-5;
  bool tied = false;    // the LM head is the embedding
  bool marked = false;  // made peaky at known positions (model/marks.h); tiny models
  Attention attention;
  Rope rope;
  Experts experts;
  std::shared_ptr<const Checkpoint> checkpoint;  // its weights; null: a generator's
};

// How each part is stored. Dense FFN and shared expert follow `weights`.
struct Precision {
  Format weights = Format::bf16;
  Format kv = Format::bf16;
  Format activations = Format::bf16;
  Format attention = Format::bf16;
  Format experts = Format::bf16;
  Format lm_head = Format::bf16;
  // Embedding, norms and router.
  Format small() const { return weights == Format::fp32 ? Format::fp32 : Format::bf16; }
  friend bool operator==(const Precision&, const Precision&) = default;
};

// A preset's name ("llama-3.1-8b") or the path of a model file, relative to `folder` when it has a
// slash or ends in .json. Throws InputError at `where` for a name nobody knows, with the nearest
// one.
Model load_model(const Node& where, const std::string& folder);
Model read_model(const std::string& path);
std::vector<std::string> preset_names();
std::string preset_path(const std::string& name);

// The model cut to its first layers: no fewer than its leading dense ones, where it has experts.
Model at_depth(const Model& model, int64_t layers);

// Where configs/ stands: HELIX_BENCH_CONFIGS, or beside the folder of the program's own file.
std::string configs_folder();

// Reads {"weights":, "kv":, "activations":, "attention"?:, "experts"?:, "lm_head"?:}.
Precision read_precision(const Node& node);

// RoPE's angle a position, [rotated / 2], in radians, with the model's scaling.
std::vector<double> rope_frequencies(const Model& model);
// What the logits are multiplied by: D^-0.5, and YaRN's squared factor m^2 for MLA.
double softmax_scale(const Model& model);

}  // namespace helix
