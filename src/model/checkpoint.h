// The weights of a published checkpoint in place of the generator's.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "model/published.h"

namespace helix {

class Checkpoint {
 public:
  // Opens a Hugging Face folder and checks every tensor of the model; values are read later. Throws
  // InputError, naming file and tensor.
  Checkpoint(std::string folder, const Model& model);

  // Values [first, first + count) of a weight of a layer, counted through all its extents, as fp32:
  // of an index of its leading axes, no further than to the end of its last one. What is stored as
  // fp8 is multiplied by the scale of its block of 128 x 128 rows and columns of the whole tensor.
  void read(W weight, int64_t layer, int64_t first, int64_t count, float* out) const;

  // The largest |value| of the tensors that hold a weight of a layer, all experts together: a
  // quantised copy is scaled by it, the same on all ranks. Reads them whole once; 0 if all are 0.
  float largest(W weight, int64_t layer) const;

  const std::string& folder() const { return folder_; }
  const TensorFolder& tensors() const { return tensors_; }

 private:
  struct Stored {
    const StoredTensor* values;
    const StoredTensor* scales;  // of blocks; null: none
  };
  Stored find(const std::string& name, const Shape& shape) const;
  static void convert(const Stored& from, int64_t index, int64_t stride, int64_t count, float* out);

  std::string folder_;
  Attention attention_;
  TensorFolder tensors_;
  struct Parts {
    std::vector<Stored> parts;
    int64_t values;  // of each
  };
  std::map<std::pair<W, int64_t>, Parts> weights_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<W, int64_t>, float> largest_;
};

}  // namespace helix
