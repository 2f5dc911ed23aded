// The table of legality against the rules in plain words, written here anew.
#include "layout/strategy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "tests/unit/layout_cases.h"

namespace helix {
namespace {

bool among(std::string_view word, std::initializer_list<std::string_view> words) {
  return std::ranges::find(words, word) != words.end();
}

// May `parts` ranks share a width? In nvfp4 whole blocks of 16 are dealt out.
bool may_share(int64_t width, int64_t parts, Format format) {
  if (format == Format::nvfp4) return std::ceil(double(width) / 16) >= double(parts);
  return width / parts * parts == width;
}

bool choices_are_legal(const Model& m, const Layout& l) {
  const bool moe = m.experts.count > 0;
  if (l.ffn != (l.strategy == "medha" ? Ffn::replica : Ffn::all)) return false;
  if (l.moe == Moe::dispatch && (!moe || l.dp == 1 || l.strategy == "medha")) return false;
  if (l.moe == Moe::null && moe && l.dp > 1 && l.strategy != "medha") return false;
  if (l.kvp == 1) return true;
  if (m.attention.mla() && l.mla == Mla::null) return false;
  const auto is = [&](Query query, Merge merge) { return l.query == query && l.merge == merge; };
  if (l.strategy == "helix") return is(Query::replicate, Merge::a2a);
  if (l.strategy == "medha") return is(Query::replicate, Merge::all_reduce);
  return is(Query::gather, Merge::ag_rs) || is(Query::gather, Merge::a2a) ||
         is(Query::replicate, Merge::ag_rs);
}

bool widths_are_legal(const Model& m, const Precision& p, const Layout& l) {
  const int64_t q = m.attention.query_heads;
  const int64_t k = m.attention.kv_heads;
  const int64_t a = l.kvp * l.tpa;
  const int64_t n = l.dp * a;
  if (l.pp > m.layers) return false;
  if (among(l.strategy, {"helix", "dcp", "medha"}) && l.kvp < 2) return false;
  if (among(l.strategy, {"tp", "dp_ep"}) && l.kvp != 1) return false;
  if (l.strategy == "dp_ep" && (a != 1 || l.dp < 2)) return false;
  if (l.strategy == "tp" && l.dp > 1 && l.tpa < 2) return false;
  if (l.strategy == "medha" && m.attention.mla()) return false;
  if (l.tpf * l.ep != (l.strategy == "medha" ? l.tpa : n)) return false;
  if (q % l.tpa != 0 || (k % l.tpa != 0 && l.tpa % k != 0)) return false;
  const bool heads_move = among(l.strategy, {"helix", "dcp"});
  if (heads_move && q % a != 0) return false;
  const int64_t dense = l.strategy == "medha" ? l.tpa : l.moe == Moe::dispatch ? a : n;
  if (m.dense_layers > 0 && !may_share(m.ffn, dense, p.weights)) return false;
  if (m.experts.count == 0) return l.ep == 1;
  if (m.experts.shared > 0 && !may_share(m.experts.shared * m.experts.width, dense, p.weights))
    return false;
  return m.experts.count % l.ep == 0 && may_share(m.experts.width, l.tpf, p.experts);
}

void set_choices(Layout& l, int64_t code) {
  l.query = static_cast<Query>(code % 3);
  l.merge = static_cast<Merge>(code / 3 % 4);
  l.mla = static_cast<Mla>(code / 12 % 3);
  l.ffn = static_cast<Ffn>(code / 36 % 2);
  l.moe = static_cast<Moe>(code / 72 % 3);
}
constexpr int64_t choice_codes = 216;

// Widths of all kinds, legal or not: N up to 12, FFN widths that fit and that do not.
template <class Visit>
void for_all_widths(const Model& m, Visit visit) {
  for (const int pp : {1, static_cast<int>(m.layers), static_cast<int>(m.layers) + 1})
    for (int dp = 1; dp <= 4; ++dp)
      for (int kvp = 1; kvp <= 12; ++kvp)
        for (int tpa = 1; dp * kvp * tpa <= 12; ++tpa)
          for (const int tpf : {1, 2, 3, 4, 5, 6, 8, 12})
            for (const int ep : {1, 2, 3, 4, 6, 8, 12}) {
              if (tpf * ep > 12) continue;
              visit(Layout{.pp = pp, .dp = dp, .kvp = kvp, .tpa = tpa, .tpf = tpf, .ep = ep});
            }
}

TEST(Legality, AgreesWithTheRulesInWords) {
  int64_t legal = 0;
  Dice dice;
  for (const Model& m : all_models())
    for_all_widths(m, [&](Layout l) {
      for (const Strategy& strategy : strategies())
        for (int trial = 0; trial < 3; ++trial) {
          l.strategy = strategy.name;
          set_choices(l, dice.roll(choice_codes));
          if (trial > 0) l.ffn = strategy.ffn;
          if (trial > 1) l.query = strategy.query.front(), l.merge = strategy.merge.front();
          const Precision p = precisions()[static_cast<size_t>(dice.roll(3))];
          const auto refusal = refuse(m, p, l);
          const bool expected = widths_are_legal(m, p, l) && choices_are_legal(m, l);
          ASSERT_EQ(!refusal, expected)
              << m.name << ": " << describe(l) << " " << name_of(l.query) << " " << name_of(l.merge)
              << (refusal ? " " + refusal->knob + ": " + refusal->text : "");
          legal += expected ? 1 : 0;
        }
    });
  EXPECT_GT(legal, 2000);  // the two do not only agree on refusing
}

using Flat = std::tuple<int, int, int, int, int, int, Query, Merge, Mla, Ffn, Moe>;
Flat flat(const Layout& l) {
  return {l.pp, l.dp, l.kvp, l.tpa, l.tpf, l.ep, l.query, l.merge, l.mla, l.ffn, l.moe};
}

// What the enumeration should give: every layout in words, each choice tried.
std::set<Flat> legal_by_search(const Model& m, const Precision& p, std::string_view strategy,
                               int ranks) {
  std::set<Flat> found;
  for (int pp = 1; pp <= ranks; ++pp)
    for (int dp = 1; dp <= ranks; ++dp)
      for (int kvp = 1; kvp <= ranks; ++kvp)
        for (int tpa = 1; tpa <= ranks; ++tpa) {
          if (pp * dp * kvp * tpa != ranks) continue;
          const bool sharded = strategy != "tp" && strategy != "dp_ep";
          if (sharded && tpa > m.attention.kv_heads) continue;
          for (int tpf = 1; tpf <= ranks; ++tpf)
            for (int ep = 1; tpf * ep <= ranks; ++ep)
              for (int64_t code = 0; code < choice_codes; ++code) {
                Layout l{.strategy = strategy,
                         .pp = pp,
                         .dp = dp,
                         .kvp = kvp,
                         .tpa = tpa,
                         .tpf = tpf,
                         .ep = ep};
                set_choices(l, code);
                if (widths_are_legal(m, p, l) && choices_are_legal(m, l))
                  found.insert(flat(canonical(m, l)));
              }
        }
  return found;
}

TEST(Layouts, AreAllThatIsLegal) {
  LayoutQuery everything;
  everything.pp = everything.dp = {};
  everything.query = {Query::replicate, Query::gather};
  everything.merge = {Merge::a2a, Merge::ag_rs, Merge::all_reduce};
  everything.mla = {Mla::latent, Mla::value};
  everything.moe = {Moe::null, Moe::gather, Moe::dispatch};
  for (const char* name : {"tiny-llama", "tiny-deepseek", "tiny-qwen3-moe", "tiny-v2-lite"})
    for (const int ranks : {1, 2, 3, 4, 6, 8, 12})
      for (const Strategy& strategy : strategies()) {
        const Model m = preset(name);
        std::set<Flat> found;
        for (const Layout& l : layouts(m, {}, strategy, ranks, everything)) {
          EXPECT_TRUE(found.insert(flat(l)).second) << "twice: " << describe(l);
          EXPECT_EQ(l, canonical(m, l));
          EXPECT_EQ(l.ranks(), ranks);
          EXPECT_FALSE(refuse(m, {}, l)) << describe(l);
        }
        EXPECT_EQ(found, legal_by_search(m, {}, strategy.name, ranks))
            << name << " " << strategy.name << " on " << ranks;
      }
}

TEST(Layouts, TakeListsAndOwnChoices) {
  const Model r1 = preset("deepseek-r1");
  const auto of = [&](const char* strategy, int64_t ranks, const LayoutQuery& query) {
    return layouts(r1, {}, *find_strategy(strategy), ranks, query);
  };
  for (const Layout& l : of("helix", 64, {})) EXPECT_EQ(l.tpa, 1);  // MLA: K is 1
  LayoutQuery two;
  two.tpa = {2};
  two.tpf = {8};
  two.kvp = {32};
  ASSERT_EQ(of("helix", 64, two).size(), 1U);
  EXPECT_EQ(describe(of("helix", 64, two)[0]), "helix KVP 32 x TPA 2 -> TPF 8 x EP 8");
  two.mla = {Mla::latent, Mla::value};
  EXPECT_EQ(describe(of("helix", 64, two).at(1)), "helix KVP 32 x TPA 2 -> TPF 8 x EP 8, value");
  // tp and dp_ep have their widths whatever is listed.
  EXPECT_EQ(describe(of("tp", 8, two).at(0)), "tp TPA 8 -> TPF 8");
  LayoutQuery ep;
  ep.ep = {64};
  ASSERT_EQ(of("dp_ep", 64, ep).size(), 2U);
  EXPECT_EQ(describe(of("dp_ep", 64, ep)[0]), "dp_ep DP 64 -> TPF 1 x EP 64, dispatch");
  EXPECT_EQ(describe(of("dp_ep", 64, ep)[1]), "dp_ep DP 64 -> TPF 1 x EP 64, gather");
}

TEST(Layouts, SayWhatTheyRefuse) {
  const Model m = preset("tiny-llama");
  std::map<std::string, int> refused;
  LayoutQuery query;
  query.ep = {2};
  query.query = {Query::gather};
  const auto count = [&](const Layout& l, const Rule& rule) {
    ++refused[std::string(rule.knob)];
    EXPECT_EQ(refuse(m, {}, l)->knob, rule.knob);
  };
  EXPECT_TRUE(layouts(m, {}, *find_strategy("helix"), 8, query, count).empty());
  EXPECT_EQ(refused.size(), 1U);
  EXPECT_EQ(refused["query"], 3);  // KVP 8, 4, 2
}

TEST(Layouts, TooManyRanksAreNone) {
  const Model m = preset("tiny-llama");
  for (const int64_t ranks : {int64_t{0}, int64_t{-8}, int64_t{1} << 40})
    for (const Strategy& strategy : strategies())
      EXPECT_TRUE(layouts(m, {}, strategy, ranks).empty());
}

std::string refusal_of(const Model& m, const Layout& l) {
  const auto refusal = refuse(m, {}, l);
  return refusal ? refusal->knob + ": " + refusal->text : "legal";
}

TEST(Refusal, NamesTheKnobAndWhatIsAllowed) {
  const Model llama = preset("tiny-llama");
  const Model deepseek = preset("tiny-deepseek");
  const Layout helix{.strategy = "helix",
                     .kvp = 4,
                     .tpa = 2,
                     .tpf = 8,
                     .query = Query::replicate,
                     .merge = Merge::a2a};
  EXPECT_EQ(refusal_of(llama, helix), "legal");
  Layout l = helix;
  l.kvp = 1;
  EXPECT_EQ(refusal_of(llama, l), "kvp: helix shards the KV cache over 2 ranks or more (1: tp)");
  l = helix;
  l.tpf = 4;
  EXPECT_EQ(refusal_of(llama, l), "tpf: tpf x ep must be the ranks of a stage, 8");
  l = helix;
  l.tpa = 3;
  l.tpf = 12;
  EXPECT_EQ(refusal_of(llama, l), "tpa: must divide the 16 query heads: 1, 2, 4, 8, 16");
  l = helix;
  l.kvp = 16;
  l.tpf = 32;
  EXPECT_EQ(refusal_of(llama, l), "kvp: kvp x tpa must divide the 16 query heads: 1, 2, 4, 8, 16");
  l = helix;
  l.pp = 5;
  EXPECT_EQ(refusal_of(llama, l), "pp: from 1 to 4, a layer for each stage");
  l = helix;
  l.moe = Moe::dispatch;
  EXPECT_EQ(refusal_of(llama, l), "moe: dispatch needs a model with experts: null or gather");
  l = helix;
  l.mla = Mla::latent;
  l.moe = Moe::dispatch;
  EXPECT_EQ(refusal_of(deepseek, l), "moe: dispatch needs DP > 1: null or gather");
  l.moe = Moe::null;
  l.tpf = 1;
  l.ep = 8;
  EXPECT_EQ(refusal_of(deepseek, l), "legal");
  l.strategy = "dcp";
  EXPECT_EQ(refusal_of(deepseek, l),
            "merge: dcp with replicated queries and a2a is helix, and is named so");
  l.strategy = "hélix";
  EXPECT_EQ(refusal_of(deepseek, l), "strategy: is none of `list layouts`");
  l = {.strategy = "medha",
       .kvp = 2,
       .query = Query::replicate,
       .merge = Merge::all_reduce,
       .ffn = Ffn::replica};
  EXPECT_EQ(refusal_of(deepseek, l),
            "strategy: medha is not for MLA models: helix, dcp, tp, dp_ep");
  EXPECT_EQ(refusal_of(llama, l), "legal");
}

TEST(Refusal, SurvivesAnyNumbers) {
  const Model m = preset("tiny-deepseek");
  for (const int bad : {0, -1, -2147483647, 2147483647})
    for (int Layout::*width :
         {&Layout::pp, &Layout::dp, &Layout::kvp, &Layout::tpa, &Layout::tpf, &Layout::ep}) {
      Layout l;
      l.*width = bad;
      EXPECT_TRUE(refuse(m, {}, l));
      EXPECT_TRUE(nearest_legal(m, {}, l));
    }
}

double width_distance(const Layout& a, const Layout& b) {
  const auto one = [](double x, double y) { return std::abs(std::log2(x / y)); };
  return one(a.pp, b.pp) + one(a.dp, b.dp) + one(a.kvp, b.kvp) + one(a.tpa, b.tpa) +
         one(a.tpf, b.tpf) + one(a.ep, b.ep);
}

TEST(Nearest, IsLegalAndNearest) {
  for (const Model& m : all_models())
    for (const Strategy& strategy : strategies())
      for (const int ranks : {2, 4, 7, 8})
        for (const int kvp : {1, 2, 3, 8}) {
          Layout l{.strategy = strategy.name, .kvp = kvp, .tpa = 2, .tpf = 5};
          l.ffn = strategy.ffn;
          const auto near = nearest_legal(m, {}, l, ranks);
          ASSERT_TRUE(near) << m.name << " " << describe(l);
          EXPECT_FALSE(refuse(m, {}, *near));
          LayoutQuery all;
          all.pp = all.dp = {};
          all.tpa = divisors(ranks);
          for (const Layout& other : layouts(m, {}, strategy, ranks, all)) {
            EXPECT_EQ(near->strategy, strategy.name);
            EXPECT_EQ(near->ranks(), ranks);
            EXPECT_LE(width_distance(*near, l), width_distance(other, l) + 1e-12);
          }
        }
}

TEST(Nearest, OfALegalLayoutIsItself) {
  for (const Model& m : all_models())
    for (const Strategy& strategy : strategies())
      for (const Layout& l : layouts(m, {}, strategy, 8)) EXPECT_EQ(nearest_legal(m, {}, l), l);
}

TEST(Nearest, LooksElsewhereWhereTheRanksHaveNone) {
  const Model m = preset("tiny-llama");
  const auto near = nearest_legal(m, {}, {.strategy = "helix", .kvp = 7, .tpf = 7});
  ASSERT_TRUE(near);
  EXPECT_EQ(near->strategy, "helix");
  EXPECT_EQ(describe(*near), "helix KVP 8 -> TPF 8");
}

}  // namespace
}  // namespace helix
