// `claims`: the paper's sweeps priced on one machine, its claims computed, and what its figures are
// drawn from (analysis/paper.py).
#pragma once

#include <string>
#include <vector>

#include "bench/claims.h"

namespace helix {

struct ClaimsOptions {
  std::vector<std::string> sweeps;  // empty: all of configs/sweeps/paper
  std::string machine = "gb200-nvl72";
  std::string folder;        // claims.md and paper.json go there; "": neither is written
  bool sensitivity = false;  // each claim again with each factor of the machine halved and doubled
  int threads = 0;           // 0: the cores this process may use
};
// Prints the claims. Throws InputError, and writes nothing, for a bad sweep or machine.
int claims(const ClaimsOptions& options);

// A sweep's part of the figures: "roofline" of Figure 1, "frontier" of one context, or "crossover"
// of several, by which of these the sweep is.
Json figure_of(const Market& market, const Machine& machine);

// Figure 1: the time to read one layer's KV and weights on the fullest rank, at the memory's peak.
// W_O is read at the width it is run at; the formula of the paper charges it at TPA.
struct LayerReads {
  double kv_us = 0;
  double weights_us = 0;
  double weights_formula_us = 0;
};
LayerReads layer_reads(const Point& point, const Machine& machine);

// Factors that a price depends on, put together where they stand for one thing: halved and doubled
// together, an efficiency to 1 at most.
struct Factor {
  std::string_view name;
  std::vector<double Machine::*> parts;
  double neutral;  // where it has no effect
};
const std::vector<Factor>& factors();
// Those that have an effect on this machine.
std::vector<const Factor*> factors_of(const Machine& machine);
Machine scaled(const Machine& machine, const Factor& factor, double by);

// Claims as a table of Markdown, with definitions and points.
struct Variation {
  std::string name;           // "kernel time x 2"
  std::vector<Claim> claims;  // in the order of the others
};
std::string claims_text(const std::vector<Market>& markets, const std::vector<Claim>& claims,
                        const std::vector<Variation>& variations, const Machine& machine);

}  // namespace helix
