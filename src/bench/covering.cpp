#include "bench/covering.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "base/random.h"

namespace helix {

namespace {

using Pair = std::tuple<int, int, int, int>;  // axis, value, axis, value

template <class Visit>
void for_pairs(const Trial& c, Visit visit) {
  for (int a = 0; a < static_cast<int>(c.size()); ++a)
    for (int b = a + 1; b < static_cast<int>(c.size()); ++b)
      visit(Pair{a, c[static_cast<size_t>(a)], b, c[static_cast<size_t>(b)]});
}

std::set<Pair> pairs_of(const std::vector<Trial>& cases) {
  std::set<Pair> pairs;
  for (const Trial& c : cases) for_pairs(c, [&](const Pair& p) { pairs.insert(p); });
  return pairs;
}

}  // namespace

std::vector<Trial> full_product(const std::vector<int>& levels,
                                const std::function<bool(const Trial&)>& allowed) {
  std::vector<Trial> cases;
  Trial c(levels.size(), 0);
  for (bool more = true; more;) {
    if (allowed(c)) cases.push_back(c);
    more = false;
    for (size_t axis = levels.size(); axis-- > 0 && !more;) {
      more = ++c[axis] < levels[axis];
      if (!more) c[axis] = 0;
    }
  }
  return cases;
}

std::vector<Trial> covering_array(const std::vector<int>& levels,
                                  const std::function<bool(const Trial&)>& allowed, uint64_t seed,
                                  const std::vector<Trial>& met) {
  const std::vector<Trial> all = full_product(levels, allowed);
  std::set<Pair> missing = pairs_of(all);
  for (const Pair& p : pairs_of(met)) missing.erase(p);
  std::vector<Trial> chosen;
  constexpr uint64_t candidates = 64;
  for (uint64_t round = 0; !missing.empty(); ++round) {
    const Trial* best = nullptr;
    int64_t most = 0;
    const auto consider = [&](const Trial& c) {
      int64_t gain = 0;
      for_pairs(c, [&](const Pair& p) { gain += missing.contains(p) ? 1 : 0; });
      if (gain > most) best = &c, most = gain;
    };
    for (uint64_t i = 0; i < candidates; ++i)
      consider(all[combine(combine(seed, round), i) % all.size()]);
    if (best == nullptr)  // none of the random ones helps: any that does
      for (const Trial& c : all) consider(c);
    for_pairs(*best, [&](const Pair& p) { missing.erase(p); });
    chosen.push_back(*best);
  }
  return chosen;
}

PairCoverage pair_coverage(const std::vector<Trial>& cases, const std::vector<Trial>& possible) {
  const std::set<Pair> have = pairs_of(cases);
  const std::set<Pair> wanted = pairs_of(possible);
  PairCoverage coverage;
  coverage.possible = static_cast<int64_t>(wanted.size());
  for (const Pair& p : wanted) coverage.covered += have.contains(p) ? 1 : 0;
  return coverage;
}

}  // namespace helix
