// All legal small layouts of all presets, with every option: for what must hold of each.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "layout/strategy.h"
#include "schedule/schedule.h"

namespace helix {

inline const std::vector<Model>& models() {
  static const std::vector<Model> all = [] {
    std::vector<Model> list;
    for (const std::string& name : preset_names()) list.push_back(read_model(preset_path(name)));
    return list;
  }();
  return all;
}

inline std::string text_of(const Layout& l) {
  std::string text(l.strategy);
  for (const int width : {l.pp, l.dp, l.kvp, l.tpa, l.tpf, l.ep})
    text += " " + std::to_string(width);
  for (const auto name :
       {name_of(l.query), name_of(l.merge), name_of(l.mla), name_of(l.ffn), name_of(l.moe)})
    text += " " + std::string(name);
  return text;
}

// All layouts of up to 8 ranks, with every option.
template <class Visit>
void for_all_layouts(Visit visit) {
  const Precision precision;
  for (const Model& model : models())
    for (const Strategy& strategy : strategies())
      for (const int64_t ranks : {1, 2, 4, 6, 8}) {
        LayoutQuery query;
        query.pp = {1, 2};
        query.dp = {1, 2, 4};
        query.tpa = divisors(ranks);
        query.merge = strategy.merge;
        query.query = strategy.query;
        if (model.attention.mla()) query.mla = {Mla::latent, Mla::value};
        if (strategy.shares == Shares::nothing) query.dp.clear();
        if (model.experts.count > 0) query.moe = strategy.moe;
        for (const Layout& layout : layouts(model, precision, strategy, ranks, query)) {
          SCOPED_TRACE(model.name + " " + text_of(layout));
          visit(model, layout);
          if (testing::Test::HasFailure()) return;  // of one layout
        }
      }
}

inline const Precision bf16_everywhere;

inline Schedule build(const Model& model, const Layout& layout, int chunks = 1, int rank = 0) {
  return build_schedule({&model, layout, bf16_everywhere, chunks}, rank);
}

}  // namespace helix
