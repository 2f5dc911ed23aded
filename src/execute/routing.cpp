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

std::span<const int32_t> given_choice(const Assignment& work, int layer, int64_t request) {
  if (work.choices.empty()) return {};
  const int64_t batch = std::ssize(work.lengths), chosen = work.model->experts.chosen;
  const int64_t at = ((layer - work.model->dense_layers) * batch + request) * chosen;
  return std::span(work.choices).subspan(static_cast<size_t>(at), static_cast<size_t>(chosen));
}

Slice experts_of(const Place& me, int64_t experts, int dp) {
  const int expert_rank = dp * me.l.replica_ranks() + me.in_replica();
  return share(experts, me.l.ep, expert_rank / me.l.tpf);
}

}  // namespace helix
