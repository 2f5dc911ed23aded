#include "layout/strategy.h"

#include <fmt/format.h>

#include <algorithm>

namespace helix {

const std::vector<Strategy>& strategies() {
  using enum Shares;
  static const std::vector<Strategy> table = {
      {"helix",
       "KVP x TPA, queries replicated, all-to-all of partial outputs; FFN over all ranks",
       {Query::replicate},
       {Merge::a2a},
       Ffn::all,
       {Moe::gather},
       sequence,
       false},
      {"dcp",
       "KVP x TPA as in vLLM and SGLang: queries gathered, log-sum-exps gathered, outputs "
       "reduce-scattered",
       {Query::gather, Query::replicate},
       {Merge::ag_rs, Merge::a2a},
       Ffn::all,
       {Moe::gather},
       sequence,
       false},
      {"medha",
       "KVP x TPA, partial outputs all-reduced; each KVP rank repeats W_O and FFN (not for "
       "MLA)",
       {Query::replicate},
       {Merge::all_reduce},
       Ffn::replica,
       {},
       sequence,
       true},
      {"tp",
       "heads over TPA ranks, KV heads stored twice when TPA > K",
       {Query::null},
       {Merge::null},
       Ffn::all,
       {Moe::gather},
       heads,
       true},
      {"dp_ep",
       "whole requests on each rank, FFN over all ranks",
       {Query::null},
       {Merge::null},
       Ffn::all,
       {Moe::dispatch, Moe::gather},
       nothing,
       true},
  };
  return table;
}

const Strategy* find_strategy(std::string_view name) {
  for (const Strategy& strategy : strategies())
    if (strategy.name == name) return &strategy;
  return nullptr;
}

std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> low;
  std::vector<int64_t> high;
  for (int64_t d = 1; d * d <= n; ++d) {
    if (n % d != 0) continue;
    low.push_back(d);
    if (d * d != n) high.push_back(n / d);
  }
  low.insert(low.end(), high.rbegin(), high.rend());
  return low;
}

namespace {

bool moe(const Case& c) { return c.model.experts.count > 0; }
bool exchanges(const Case& c) { return c.layout.kvp > 1; }
bool heads_travel(const Case& c) {
  const Layout& l = c.layout;
  return l.kvp > 1 && (l.merge != Merge::all_reduce || l.query == Query::gather);
}
// Replicas whose tokens meet at shared experts.
bool tokens_meet(const Case& c) { return moe(c) && c.layout.dp > 1 && c.strategy.ffn == Ffn::all; }
int64_t ffn_ranks(const Case& c) {
  return c.layout.ffn == Ffn::all ? c.layout.stage_ranks() : c.layout.tpa;
}

// nvfp4 is cut in blocks of 16, the remainder at the lowest index, so it need not divide.
bool cuts(int64_t width, int64_t parts, Format format) {
  return format == Format::nvfp4 ? parts <= (width + 15) / 16 : width % parts == 0;
}
std::string cut_text(std::string_view what, int64_t width, Format format) {
  if (format == Format::nvfp4)
    return fmt::format("{} {} has {} blocks of 16 in nvfp4, one for each rank at least", what,
                       width, (width + 15) / 16);
  return fmt::format("must divide {} {}", what, width);
}
// Who shares a dense FFN.
std::string dense_ranks(const Case& c) {
  const Layout& l = c.layout;
  if (l.ffn == Ffn::replica) return "tpa";
  return l.moe == Moe::dispatch ? "kvp x tpa" : "the ranks of a stage";
}

std::string divisors_of(int64_t n) {
  std::string text;
  for (const int64_t divisor : divisors(n)) {
    if (text.size() > 60 && divisor != n) continue;
    text += (text.empty() ? "" : ", ") + std::to_string(divisor);
  }
  return text;
}

template <class T>
bool allows(const std::vector<T>& allowed, T value) {
  return std::ranges::find(allowed, value) != allowed.end();
}
template <class T>
std::string allowed_text(const Case& c, const std::vector<T>& allowed) {
  std::string names;
  for (const T value : allowed) (names += names.empty() ? "" : ", ") += name_of(value);
  return fmt::format("{} allows {}", c.strategy.name, names);
}

// Blocks of 16 run along what is contracted, and along a token's numbers in the cache.
bool fills_blocks(const Case& c) {
  const Model& m = c.model;
  const Attention& a = m.attention;
  const auto whole = [](std::initializer_list<int64_t> widths) {
    return std::ranges::all_of(widths, [](int64_t width) { return width % 16 == 0; });
  };
  const Precision& p = c.precision;
  return (p.attention != Format::nvfp4 ||
          whole({m.hidden, a.output_size(), a.q_lora, a.kv_lora, a.nope})) &&
         (p.weights != Format::nvfp4 ||
          whole({m.hidden, m.ffn, m.experts.shared * m.experts.width})) &&
         (p.experts != Format::nvfp4 || whole({m.hidden, m.experts.width})) &&
         (p.lm_head != Format::nvfp4 || whole({m.hidden})) &&
         (p.kv != Format::nvfp4 || whole({a.head_size, a.value_size}));
}

std::string positive_text(const Case&) { return "1 or more"; }
template <int Layout::*width>
bool positive(const Case& c) {
  return c.layout.*width >= 1;
}

// The first rules let the later ones divide.
constexpr Rule table[] = {
    {"pp", positive<&Layout::pp>, positive_text},
    {"dp", positive<&Layout::dp>, positive_text},
    {"kvp", positive<&Layout::kvp>, positive_text},
    {"tpa", positive<&Layout::tpa>, positive_text},
    {"tpf", positive<&Layout::tpf>, positive_text},
    {"ep", positive<&Layout::ep>, positive_text},
    {"strategy",
     [](const Case& c) {
       return !c.model.attention.mla() || c.strategy.merge.front() != Merge::all_reduce;
     },
     [](const Case& c) {
       return fmt::format("{} is not for MLA models: helix, dcp, tp, dp_ep", c.strategy.name);
     }},
    {"precision", fills_blocks,
     [](const Case& c) {
       return fmt::format("nvfp4 has blocks of 16, and {} has a width that is no multiple of it",
                          c.model.name);
     }},
    {"pp", [](const Case& c) { return c.layout.pp <= c.model.layers; },
     [](const Case& c) {
       return fmt::format("from 1 to {}, a layer for each stage", c.model.layers);
     }},
    {"kvp",
     [](const Case& c) { return (c.strategy.shares == Shares::sequence) == (c.layout.kvp >= 2); },
     [](const Case& c) {
       return c.strategy.shares == Shares::sequence
                  ? fmt::format("{} shards the KV cache over 2 ranks or more (1: tp)",
                                c.strategy.name)
                  : fmt::format("{} has KVP 1", c.strategy.name);
     }},
    {"tpa", [](const Case& c) { return c.strategy.shares != Shares::nothing || c.layout.tpa == 1; },
     [](const Case& c) { return fmt::format("{} has TPA 1", c.strategy.name); }},
    {"tpa",
     [](const Case& c) {
       return c.strategy.shares != Shares::heads || c.layout.dp == 1 || c.layout.tpa >= 2;
     },
     [](const Case&) -> std::string { return "tp with DP > 1 has TPA 2 or more (1: dp_ep)"; }},
    {"dp", [](const Case& c) { return c.strategy.shares != Shares::nothing || c.layout.dp >= 2; },
     [](const Case& c) {
       return fmt::format("{} has a replica a rank, 2 or more (1: tp)", c.strategy.name);
     }},
    {"query",
     [](const Case& c) { return !exchanges(c) || allows(c.strategy.query, c.layout.query); },
     [](const Case& c) { return allowed_text(c, c.strategy.query); }},
    {"merge",
     [](const Case& c) { return !exchanges(c) || allows(c.strategy.merge, c.layout.merge); },
     [](const Case& c) { return allowed_text(c, c.strategy.merge); }},
    {"merge",
     [](const Case& c) {
       return !exchanges(c) || c.strategy.name == "helix" || c.layout.query != Query::replicate ||
              c.layout.merge != Merge::a2a;
     },
     [](const Case& c) {
       return fmt::format("{} with replicated queries and a2a is helix, and is named so",
                          c.strategy.name);
     }},
    {"mla",
     [](const Case& c) {
       return !exchanges(c) || !c.model.attention.mla() || c.layout.mla != Mla::null;
     },
     [](const Case&) -> std::string { return "MLA exchanges latent or value"; }},
    {"ffn", [](const Case& c) { return c.layout.ffn == c.strategy.ffn; },
     [](const Case& c) { return allowed_text(c, std::vector{c.strategy.ffn}); }},
    {"moe", [](const Case& c) { return c.layout.moe != Moe::dispatch || tokens_meet(c); },
     [](const Case& c) {
       return fmt::format("dispatch needs {}: null or gather", !moe(c) ? "a model with experts"
                                                               : c.strategy.ffn == Ffn::all
                                                                   ? "DP > 1"
                                                                   : "an FFN over all ranks");
     }},
    {"moe", [](const Case& c) { return c.layout.moe != Moe::null || !tokens_meet(c); },
     [](const Case&) -> std::string { return "experts at DP > 1 need gather or dispatch"; }},
    {"ep",
     [](const Case& c) {
       return moe(c) ? c.model.experts.count % c.layout.ep == 0 : c.layout.ep == 1;
     },
     [](const Case& c) {
       return moe(c) ? fmt::format("must divide the {} experts: {}", c.model.experts.count,
                                   divisors_of(c.model.experts.count))
                     : "a dense model has EP 1";
     }},
    {"tpf", [](const Case& c) { return int64_t{c.layout.tpf} * c.layout.ep == ffn_ranks(c); },
     [](const Case& c) {
       return fmt::format("tpf x ep must be {} {}",
                          c.layout.ffn == Ffn::all ? "the ranks of a stage," : "TPA,",
                          ffn_ranks(c));
     }},
    {"tpa", [](const Case& c) { return c.model.attention.query_heads % c.layout.tpa == 0; },
     [](const Case& c) {
       return fmt::format("must divide the {} query heads: {}", c.model.attention.query_heads,
                          divisors_of(c.model.attention.query_heads));
     }},
    {"tpa",
     [](const Case& c) {
       const int64_t k = c.model.attention.kv_heads;
       return k % c.layout.tpa == 0 || c.layout.tpa % k == 0;
     },
     [](const Case& c) {
       return fmt::format("must divide the {} KV heads or be a multiple",
                          c.model.attention.kv_heads);
     }},
    {"kvp",
     [](const Case& c) {
       return !heads_travel(c) || c.model.attention.query_heads % c.layout.replica_ranks() == 0;
     },
     [](const Case& c) {
       return fmt::format("kvp x tpa must divide the {} query heads: {}",
                          c.model.attention.query_heads,
                          divisors_of(c.model.attention.query_heads));
     }},
    {"ranks",
     [](const Case& c) {
       return c.model.dense_layers == 0 ||
              cuts(c.model.ffn, c.layout.dense_width(), c.precision.weights);
     },
     [](const Case& c) {
       return dense_ranks(c) +
              " share a dense FFN: " + cut_text("F", c.model.ffn, c.precision.weights);
     }},
    {"tpf",
     [](const Case& c) {
       return !moe(c) || cuts(c.model.experts.width, c.layout.tpf, c.precision.experts);
     },
     [](const Case& c) {
       return cut_text("the expert width", c.model.experts.width, c.precision.experts);
     }},
    {"ranks",
     [](const Case& c) {
       const int64_t width = c.model.experts.shared * c.model.experts.width;
       return !moe(c) || width == 0 || cuts(width, c.layout.dense_width(), c.precision.weights);
     },
     [](const Case& c) {
       return dense_ranks(c) + " share the shared expert: " +
              cut_text("its width", c.model.experts.shared * c.model.experts.width,
                       c.precision.weights);
     }},
};

}  // namespace

std::span<const Rule> rules() { return table; }

const Rule* broken_rule(const Case& c) {
  for (const Rule& rule : table)
    if (!rule.holds(c)) return &rule;
  return nullptr;
}

std::optional<Refusal> refuse(const Model& model, const Precision& precision,
                              const Layout& layout) {
  const Strategy* strategy = find_strategy(layout.strategy);
  if (strategy == nullptr) return Refusal{"strategy", "is none of `list layouts`"};
  const Case c{model, precision, layout, *strategy};
  const Rule* rule = broken_rule(c);
  if (rule == nullptr) return std::nullopt;
  return Refusal{std::string(rule->knob), rule->text(c)};
}

Layout canonical(const Model& model, Layout l) {
  const Strategy* strategy = find_strategy(l.strategy);
  if (strategy != nullptr) l.ffn = strategy->ffn;
  if (l.kvp == 1) {
    l.query = Query::null;
    l.merge = Merge::null;
  }
  if (l.kvp == 1 || !model.attention.mla()) l.mla = Mla::null;
  if (l.dp == 1 || model.experts.count == 0 || l.ffn == Ffn::replica) l.moe = Moe::null;
  return l;
}

}  // namespace helix
