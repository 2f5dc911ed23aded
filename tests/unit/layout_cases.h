// What tests of layouts share: the models, formats whose shards are cut differently, cases by dice.
#pragma once

#include <string>
#include <vector>

#include "base/random.h"
#include "model/model.h"

namespace helix {

inline Model preset(const std::string& name) { return read_model(preset_path(name)); }
inline std::vector<Model> all_models() {
  std::vector<Model> models;
  for (const std::string& name : preset_names()) models.push_back(preset(name));
  return models;
}

// Test cases from a counter: small numbers.
struct Dice {
  uint64_t state = 1;
  int64_t roll(int64_t sides) {
    return static_cast<int64_t>(mix(++state * golden) % static_cast<uint64_t>(sides));
  }
};

inline std::vector<Precision> precisions() {
  Precision packed;
  packed.weights = packed.experts = Format::nvfp4;
  Precision mixed;
  mixed.experts = Format::nvfp4;
  return {Precision{}, packed, mixed};
}

}  // namespace helix
