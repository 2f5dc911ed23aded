#include "execute/routing.h"

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

}  // namespace helix
