// Layouts of four ranks, one or more of each strategy, whose single tasks are judged.
#pragma once

#include <functional>
#include <vector>

#include "layout/layout.h"

namespace helix {

inline const Layout helix_4{.strategy = "helix",
                            .kvp = 2,
                            .tpa = 2,
                            .tpf = 4,
                            .query = Query::replicate,
                            .merge = Merge::a2a};

inline Layout with(Layout layout, const std::function<void(Layout&)>& change) {
  change(layout);
  return layout;
}

// Of a dense model with heads, and of one with experts and MLA.
inline std::vector<Layout> dense_layouts() {
  return {helix_4,
          with(helix_4,
               [](Layout& l) {
                 l.strategy = "dcp";
                 l.query = Query::gather;
                 l.merge = Merge::ag_rs;
               }),
          with(helix_4,
               [](Layout& l) {
                 l.strategy = "medha";
                 l.merge = Merge::all_reduce;
                 l.ffn = Ffn::replica;
                 l.tpf = 2;
               }),
          {.strategy = "tp", .pp = 2, .tpa = 2, .tpf = 2},
          {.strategy = "dp_ep", .dp = 4, .tpf = 4, .moe = Moe::gather}};
}
inline std::vector<Layout> moe_layouts() {
  const Layout latent{.strategy = "helix",
                      .kvp = 4,
                      .tpf = 2,
                      .ep = 2,
                      .query = Query::replicate,
                      .merge = Merge::a2a,
                      .mla = Mla::latent};
  return {latent,
          with(latent, [](Layout& l) { l.mla = Mla::value; }),
          with(latent,
               [](Layout& l) {
                 l.dp = 2;
                 l.kvp = 2;
                 l.moe = Moe::dispatch;
               }),
          {.strategy = "dp_ep", .dp = 4, .tpf = 1, .ep = 4, .moe = Moe::dispatch},
          {.strategy = "tp", .tpa = 4, .tpf = 1, .ep = 4}};
}

}  // namespace helix
