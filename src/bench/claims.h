// What the paper claims (helix.md's table; arXiv 2507.07120), computed from priced points: ours
// beside the paper's, and the two points that each comes from.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/offers.h"

namespace helix {

// The sweep of a model, priced: HOP-B in real chunks, and in the paper's accounting.
struct Market {
  Sweep sweep;
  std::vector<Offer> offers;
  std::vector<Offer> paper_offers;  // of HOP-B's points the paper's price, else the same
};
Market market_of(const std::string& sweep_file, const Machine& machine, int threads);
// The same points on another machine.
void reprice(Market& market, const Machine& machine, int threads);

struct Claim {
  std::string_view model;
  std::string_view key;         // "r1-interactivity"
  std::string_view what;        // in words
  std::string_view definition;  // how it is computed
  bool percent = false;         // a loss; otherwise a ratio
  double paper = 0;
  double ours = 0;  // NaN: the two have nothing to compare
  Ratio points;     // ours = first over second, or 1 - first / second
};

// Claims on a model by its name ("deepseek-r1"); none on another model, or at several contexts.
std::vector<Claim> claims_of(const Market& market);

// The most that `first` has over `second` on two frontiers: of `worth`, at each `level` that a
// point of the first has and the second reaches, between neighbouring points of it by a power law.
Ratio largest_gap(std::span<const Offer> first, std::span<const Offer> second, Measure level,
                  Measure worth);

// The frontier of Helix with HOP-B, and without it.
struct Ablation {
  std::vector<Offer> on, off;
};
Ablation hop_b_ablation(const Market& market, bool paper_accounting);

}  // namespace helix
