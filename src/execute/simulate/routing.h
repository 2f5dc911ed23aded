// How many experts the tokens of a layer choose, and how unevenly: what a simulated router decides.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "model/weights.h"

namespace helix::simulated {

// Of the EP ranks of one layer, a mean over draws: experts that some token chose, (token, expert)
// pairs, and tokens with at least one expert there. `busiest`: of the rank with the most, which the
// others wait for.
struct Choices {
  struct Count {
    double mean = 0;
    double busiest = 0;
  };
  Count touched, routed, tokens;
};

// The expectation of `touched.mean` where tokens choose independently and all experts are alike.
double expected_touched(const Experts& experts, int ep, double tokens);

// A seeded Monte Carlo: scores are normal logits plus the skew of Zipf's law, put through the
// model's own routing. The same draws for every EP, so that a wider EP is compared on the same
// tokens.
class Router {
 public:
  Router(const Model& model, double zipf, uint64_t seed);
  const Choices& choices(int64_t tokens, int ep);
  // One draw: of each of `tokens` tokens its experts, ascending.
  std::vector<int32_t> draw(int64_t number, int64_t tokens) const;

 private:
  std::span<const int32_t> experts_of(int64_t token, int64_t number, int64_t tokens) const;
  Choices drawn(int64_t tokens, int ep) const;

  Experts experts_;
  std::vector<std::vector<int32_t>> pools_;  // one a layer: chosen experts, token after token
  uint64_t stream_;
  std::map<std::pair<int64_t, int>, Choices> known_;  // tokens, EP
};

}  // namespace helix::simulated
