// Weights that a rank holds, kept from one executor to the next: points of a sweep that share them
// load or generate them once.
#pragma once

#include <compare>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/weights.h"

namespace helix {

// Zeroed memory that frees itself, aligned to 64 bytes, and where it comes from: throws RunError
// when there is not enough.
using Block = std::unique_ptr<std::byte, std::function<void(std::byte*)>>;
using Allocate = std::function<Block(size_t bytes)>;

// The part of a layer's weight that a rank has.
struct WeightSlice {
  W weight;
  int64_t layer;
  Part part;
  friend bool operator<(const WeightSlice& a, const WeightSlice& b);
};

class HeldWeights {
 public:
  struct Held {
    Block data;
    double bytes = 0;
    bool filled = false;  // with the weight's values
  };

  // Up to `spare_bytes` stay, though the next executor does not need them.
  explicit HeldWeights(double spare_bytes = 0) : spare_bytes_(spare_bytes) {}

  // Before memory is taken: lets go of all but these of these values (what they depend on, beside
  // the slice), unless there is room for all.
  void keep(const std::string& values, const std::vector<WeightSlice>& wanted);
  // As it is held, or new and to be filled; of the values that were named last.
  std::shared_ptr<Held> hold(const WeightSlice& slice, double bytes, const Allocate& allocate);
  void clear() { held_.clear(); }
  double bytes() const;

 private:
  double spare_bytes_;
  std::string values_;
  std::map<std::string, std::map<WeightSlice, std::shared_ptr<Held>>> held_;  // by values
};

}  // namespace helix
