#include "layout/layout.h"

#include "layout/strategy.h"

namespace helix {

std::string_view name_of(Query query) {
  static constexpr std::string_view names[] = {"null", "replicate", "gather"};
  return names[static_cast<int>(query)];
}
std::string_view name_of(Merge merge) {
  static constexpr std::string_view names[] = {"null", "a2a", "ag_rs", "all_reduce"};
  return names[static_cast<int>(merge)];
}
std::string_view name_of(Mla mla) {
  static constexpr std::string_view names[] = {"null", "latent", "value"};
  return names[static_cast<int>(mla)];
}
std::string_view name_of(Ffn ffn) { return ffn == Ffn::all ? "all" : "replica"; }
std::string_view name_of(Moe moe) {
  static constexpr std::string_view names[] = {"null", "gather", "dispatch"};
  return names[static_cast<int>(moe)];
}

std::string describe(const Layout& l) {
  const Strategy* strategy = find_strategy(l.strategy);
  std::string text(l.strategy);
  std::string before = " ";
  const auto width = [&](const char* name, int value, bool shown) {
    if (!shown) return;
    text += before + name + " " + std::to_string(value);
    before = " x ";
  };
  const auto option = [&](std::string_view name, bool shown) {
    if (shown) (text += ", ") += name;
  };
  width("PP", l.pp, l.pp > 1);
  width("DP", l.dp, l.dp > 1);
  width("KVP", l.kvp, l.kvp > 1);
  width("TPA", l.tpa, l.tpa > 1 || (l.kvp == 1 && l.dp == 1));
  before = " -> ";
  width("TPF", l.tpf, true);
  width("EP", l.ep, l.ep > 1);
  if (strategy == nullptr) return text;
  option(name_of(l.query), l.query != Query::null && l.query != strategy->query.front());
  option(name_of(l.merge), l.merge != Merge::null && l.merge != strategy->merge.front());
  option(name_of(l.mla), l.mla == Mla::value);
  option(name_of(l.moe), l.moe != Moe::null && (l.moe != Moe::gather || strategy->moe.size() > 1));
  return text;
}

}  // namespace helix
