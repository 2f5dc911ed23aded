// The judge's weights: read in blocks of rows, from memory where the model is small, else generated
// as needed.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <vector>

#include "model/weights.h"

namespace helix {

using Beat = std::function<void()>;
using Vector = std::vector<double>;

// Work of fewer products stays in one thread: waking others costs a core that another rank may
// want.
constexpr int64_t parallel_products = 10'000'000;

// Sum of a[i] b[i]: the judge's only product.
double dot(const float* a, const double* b, int64_t count);

class Tensors {
 public:
  Tensors(const Generator& generator, int64_t cached_values, Beat beat);

  const Generator& generator() const { return generator_; }
  const Model& model() const { return generator_.model(); }
  const Beat& beat() const { return beat_; }

  // All rows of a weight, or of the part with index `first` of its first axis, times x.
  Vector times(W weight, int64_t layer, std::span<const double> x) const;
  Vector times(W weight, int64_t layer, int64_t first, std::span<const double> x) const;
  // The values of a whole tensor; of one index of the first axis; of any part.
  Vector values(W weight, int64_t layer) const;
  Vector values(W weight, int64_t layer, int64_t first) const;
  Vector values(W weight, int64_t layer, const Part& part) const;

 private:
  Part whole_part(W weight) const;
  Vector times(W weight, int64_t layer, const Part& part, std::span<const double> x) const;
  void draw(W weight, int64_t layer, const Part& part, float* out) const;
  // A whole tensor in memory, null where the model is not kept. Not from inside a parallel region.
  const float* kept(W weight, int64_t layer) const;

  Generator generator_;
  Beat beat_;
  bool keep_;
  mutable std::map<std::pair<W, int64_t>, std::vector<float>> memory_;
};

}  // namespace helix
