// `export`: a point's model and decode in files that others' programs read.
#pragma once

#include <string>

#include "bench/world.h"
#include "execute/factory.h"

namespace helix {

struct ExportOptions {
  std::string point;   // a sweep of one point
  std::string folder;  // new, or empty
  bool model = true;   // with its weights
  std::string exchange = "auto";
  ExecutorChoice how = {};
};

// Decodes the point's steps, each rank its part, and writes to the folder:
//   config.json, model.safetensors  the model, as Hugging Face folders have it; fp32 or bf16, what
//                                   is quantised as the fp32 numbers it stands for
//   decode.safetensors              lengths [batch]; input_ids, tokens [steps][batch]; logits
//                                   [steps][batch][vocabulary]; and the history,
//     history.LAYER.REQUEST.key and .value [K][length][D], keys after RoPE; MLA: .latent
//     [length][kv_lora] after its norm and .rotated_key [length][rope], pairs side by side;
//     or the prompt that makes it
// A point whose weights are a folder's, or of which the model is not wanted, gets
// decode.safetensors alone.
// Collective over the world; returns the exit code.
int export_point(World& world, const ExportOptions& options);

}  // namespace helix
