// Which layouts are legal: the table of strategies, one table of rules, and all layouts of a number of ranks.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "layout/layout.h"
#include "model/model.h"

namespace helix {

// A strategy fixes some choices and leaves others; a new one is a row of the table in strategy.cpp.
struct Strategy {
  std::string_view name;
  std::string_view what;  // one line for `list layouts`
  std::vector<Query> query;  // allowed, its own choice first
  std::vector<Merge> merge;
  Ffn ffn;
  bool kvp;  // shards the KV cache over KVP >= 2 ranks
};
const std::vector<Strategy>& strategies();
const Strategy* find_strategy(std::string_view name);

// Why a layout is not legal: the knob, what is wrong with it and what is allowed, in words.
struct Refusal {
  std::string knob;  // "kvp", "tpa", …: the JSON key to point at
  std::string text;
};
std::optional<Refusal> refuse(const Model& model, const Precision& precision, const Layout& layout);

// What does not apply becomes null: exchanges at KVP 1, MLA's choice on GQA, MoE's choice on dense models or DP 1.
Layout canonical(const Model& model, Layout layout);

// Which values of each knob to try; an empty list means all. `query`, `merge`, `mla`, `moe`: empty means the
// strategy's own choice (MLA: latent; DP > 1: dispatch and gather for dp_ep, else gather).
struct LayoutQuery {
  std::vector<int64_t> pp = {1}, dp = {1}, kvp, tpa, tpf, ep;
  std::vector<Query> query;
  std::vector<Merge> merge;
  std::vector<Mla> mla;
  std::vector<Moe> moe;
};
// All legal, canonical, distinct layouts of one strategy on exactly `ranks` ranks, in a stable order. With tpa empty,
// helix, dcp and medha keep TPA <= K (no KV head is stored twice). `refused` hears of each combination of listed
// widths that fills the ranks but is not legal.
using OnRefusal = std::function<void(const Layout&, const Refusal&)>;
std::vector<Layout> layouts(const Model& model, const Precision& precision, const Strategy& strategy, int64_t ranks,
                            const LayoutQuery& query = {}, const OnRefusal& refused = {});

// The legal layout whose widths are nearest to `layout` (the same strategy and ranks first); nullopt when there is none.
std::optional<Layout> nearest_legal(const Model& model, const Precision& precision, const Layout& layout);

}  // namespace helix
