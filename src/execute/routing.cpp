#include "execute/routing.h"

#include <algorithm>
#include <vector>

namespace helix {

cpu::Routing routing_of(const Experts& e) {
  return {.experts = e.count,
          .chosen = e.chosen,
          .groups = e.groups,
          .chosen_groups = e.chosen_groups,
          .sigmoid = e.scoring == Scoring::sigmoid,
          .renormalise = e.renormalise,
          .scale = static_cast<float>(e.scale)};
}

Slice experts_of(const Place& me, int64_t experts, int dp) {
  const int expert_rank = dp * me.l.replica_ranks() + me.in_replica();
  return share(experts, me.l.ep, expert_rank / me.l.tpf);
}

bool note_choice(ForcedRouting& met, const cpu::Routing& routing, std::span<const float> scores,
                 std::span<const float> bias, std::span<const int32_t> judged,
                 std::span<const cpu::Choice> choice) {
  met.choices += std::ssize(choice);
  const int64_t differing = std::ranges::count_if(
      choice, [&](const cpu::Choice& c) { return !std::ranges::binary_search(judged, c.expert); });
  if (differing == 0) return false;
  met.differing += differing;
  std::vector<cpu::Choice> right;
  for (const int32_t expert : judged) right.push_back({expert, 0});
  met.shortfall = std::max(met.shortfall, cpu::shortfall(routing, scores, bias, right));
  return true;
}

}  // namespace helix
