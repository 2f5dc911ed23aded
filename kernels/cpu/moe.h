// Mixture of experts: which experts a token chooses, and the products of the rows that chose one.
#pragma once

#include <cstdint>
#include <span>

#include "base/format.h"

namespace helix::cpu {

// How a router's scores become a choice (the four routings: docs and model files).
struct Routing {
  int64_t experts = 0;
  int64_t chosen = 0;
  int64_t groups = 1;         // of experts / groups consecutive experts
  int64_t chosen_groups = 1;  // by the sum of their two best; the others are masked with -inf
  bool sigmoid = false;       // else softmax over all experts
  bool renormalise = false;   // gates are divided by their sum
  float scale = 1;
  std::span<const float> skew = {};  // of a layer: added to the logits, an expert each; or empty
};

struct Choice {
  int32_t expert;
  float gate;
};

// logits[r][e] = x[r] w[e] + skew[e], in fp32 and in a fixed order (never BLAS): ranks that hold
// the same x decide the same. x: [rows][width], w: [experts][width].
template <class Weight, class Activation>
void router_logits(const Routing& routing, int64_t rows, int64_t width, const Activation* x,
                   const Weight* w, float* logits);
// In place: a row's logits become scores, their sigmoid or softmax.
void score(const Routing& routing, std::span<float> row);

// The choice of one row, by ascending expert. Experts compete with score + bias (`bias` may be
// empty), and ties go to the lowest index; gates come of the scores alone. NaN gates stay NaN.
void choose(const Routing& routing, std::span<const float> scores, std::span<const float> bias,
            std::span<Choice> out);
// Gates of a row whose experts are given.
void set_gates(const Routing& routing, std::span<const float> scores, std::span<Choice> choice);

// The rows that chose each of one rank's experts: pairs [first, first + count) of `rows`.
struct ExpertRows {
  int64_t expert;  // of those that `w` holds
  int64_t first;
  int64_t count;
};

// y[p][n] = sum over k of x[row of pair p][k] w[expert of p][n][k]; sums in fp32, each expert's
// weights read once for all its rows. `row_of` may be empty: pair p reads row p.
// x: [..][inputs], w: [..][outputs][inputs], y: [pairs][outputs].
template <class Weight, class Activation, class Out>
void experts_product(std::span<const ExpertRows> experts, std::span<const int32_t> row_of,
                     int64_t outputs, int64_t inputs, const Activation* x,
                     const Values<const Weight>& w, Out* y);

// out[r] = sum over the pairs of row r, in the order of pairs, of gate * y[p], rounded once; zero
// where there is none. y: [pairs][width], out: [rows][width].
template <class Activation>
void sum_pairs(std::span<const int32_t> row_of, std::span<const float> gates, int64_t rows,
               int64_t width, const float* y, Activation* out);

}  // namespace helix::cpu
