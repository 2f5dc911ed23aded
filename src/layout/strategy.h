// Which layouts are legal: the table of strategies, one table of rules, and all layouts of a number
// of ranks.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "layout/layout.h"
#include "model/model.h"

namespace helix {

// What the A ranks of an attention replica share out: the sequence (KVP >= 2) and heads, heads
// alone (KVP 1), or nothing (A 1: each rank has whole requests).
enum class Shares : uint8_t { sequence, heads, nothing };

// A strategy fixes some choices and leaves others; a new one is a row of the table in strategy.cpp.
struct Strategy {
  std::string_view name;
  std::string_view what;     // one line for `list layouts`
  std::vector<Query> query;  // allowed, its own choice first; null where nothing is exchanged
  std::vector<Merge> merge;
  Ffn ffn;
  std::vector<Moe> moe;  // its own choices where DP > 1 replicas share experts
  Shares shares;
  bool baseline;  // the paper's Baseline is the best of these
};
const std::vector<Strategy>& strategies();
const Strategy* find_strategy(std::string_view name);

// One rule of legality. `holds` is cheap; `text` says in words what is allowed, without the
// layout's own value of the knob, so that refusals can be counted by it.
struct Case {
  const Model& model;
  const Precision& precision;
  const Layout& layout;
  const Strategy& strategy;
};
struct Rule {
  std::string_view knob;  // the JSON key to point at
  bool (*holds)(const Case&);
  std::string (*text)(const Case&);
};
std::span<const Rule> rules();

// Why a layout is not legal.
struct Refusal {
  std::string knob;
  std::string text;
};
std::optional<Refusal> refuse(const Model& model, const Precision& precision, const Layout& layout);
const Rule* broken_rule(const Case& c);  // the first that does not hold; null: legal

// What does not apply becomes null: exchanges at KVP 1, MLA's choice there and on GQA, MoE's choice
// on dense models, at DP 1 and where each replica has its own experts. `ffn` is the strategy's.
Layout canonical(const Model& model, Layout layout);

// Which values of each knob to try; an empty list means all, for the choices below the strategy's
// own (MLA: latent), and so does a null in it. tp takes no list for kvp and tpa, dp_ep none for dp,
// kvp and tpa: their widths follow from the ranks.
struct LayoutQuery {
  std::vector<int64_t> pp = {1}, dp = {1}, kvp, tpa, tpf, ep;
  std::vector<Query> query;
  std::vector<Merge> merge;
  std::vector<Mla> mla;
  std::vector<Ffn> ffn;
  std::vector<Moe> moe;
};
// All legal, canonical, distinct layouts of one strategy on exactly `ranks` ranks, widths
// ascending. With tpa empty, helix, dcp and medha keep TPA <= K (no KV head is stored twice).
// `refused` hears of each combination of widths and choices that fills the ranks but is not legal.
using OnRefusal = std::function<void(const Layout&, const Rule&)>;
std::vector<Layout> layouts(const Model& model, const Precision& precision,
                            const Strategy& strategy, int64_t ranks, const LayoutQuery& query = {},
                            const OnRefusal& refused = {});

// The legal layout whose widths are nearest to `layout`: of its strategy on `ranks` (0: its own)
// ranks, else of its strategy on the nearest other number, else of another strategy. nullopt when
// there is none.
std::optional<Layout> nearest_legal(const Model& model, const Precision& precision,
                                    const Layout& layout, int64_t ranks = 0);

// Divisors of n, ascending.
std::vector<int64_t> divisors(int64_t n);

}  // namespace helix
