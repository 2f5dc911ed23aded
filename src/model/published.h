// How published checkpoints (Hugging Face folders) name and shape the weights of a model.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/safetensors.h"
#include "model/weights.h"

namespace helix {

// A checkpoint holds a weight of a layer in equal parts, each as large as the last and in the
// weight's own order: keys and values, gate and up, one for each expert. Only "kv_b_proj" is
// different: it holds, head after head, `nope` rows of W_UK turned over, [nope][kv_lora], and the
// head's rows of W_UV.
std::vector<std::string> published_names(const Model& model, W weight, int64_t layer);
// [outputs, inputs] of each of its parts; norms and biases have one extent.
Shape published_shape(const Model& model, W weight);

// Where part `part` stands in its weight.
Part published_part(const Model& model, W weight, int64_t part);

// The tensors of a whole model, in order of the layers. `weight` is W_UK for kv_b_proj.
struct Published {
  std::string name;
  Shape shape;
  W weight;
  int64_t layer;
  int64_t part;
};
std::vector<Published> published_tensors(const Model& model);

// config.json of a model. Throws InputError at `where` for what no such file says.
Json published_config(const Model& model, const Precision& precision);

// The model of a Hugging Face folder, named after it, with its checkpoint. Throws InputError for
// what config.json says and no model here does, and for whatever is wrong with the tensors.
Model read_published(const std::string& folder);

}  // namespace helix
