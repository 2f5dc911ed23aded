// Mixture of experts: which experts the tokens choose, and this rank's share of them.
#include "kernels/cpu/moe.h"

#include <algorithm>
#include <utility>

#include "execute/cpu/executor.h"
#include "execute/routing.h"
#include "execute/types.h"

namespace helix::cpu {

void CpuExecutor::route(const Task& task, int layer) {
  const Array in = array(task.reads[0], all_chunks);
  auto* choices = array(task.writes[0], all_chunks).as<Choice>();
  Routing routing = routing_of(work_.model->experts);
  routing.skew = skew_[static_cast<size_t>(layer)];
  const auto experts = static_cast<size_t>(routing.experts);
  const auto chosen = static_cast<size_t>(routing.chosen);
  std::vector<float> logits(static_cast<size_t>(in.rows) * experts);
  with_types(
      weight_format(task.reads[1]), work_.precision.activations, [&]<class T, class A>(T*, A*) {
        router_logits(routing, in.rows, in.width, in.as<A>(),
                      reinterpret_cast<const T*>(weight(task.reads[1], layer)), logits.data());
      });
  std::span<const float> bias;
  if (task.reads.size() > 2) bias = {stored(task.reads[2], layer).as<float>().data, experts};
  const bool gathered = schedule_[task.reads[0]].dims[0].fill == Fill::stage_rows;
  const int64_t first_request = store_.now().requests.first + (gathered ? 0 : requests_.first);
  std::vector<float> scores = logits;
  std::vector<int32_t> own(chosen);
  for (size_t row = 0; row < static_cast<size_t>(in.rows); ++row) {
    const std::span mine(scores.data() + row * experts, experts);
    const std::span choice(choices + row * chosen, chosen);
    score(routing, mine);
    choose(routing, mine, bias, choice);
    const int64_t request = first_request + static_cast<int64_t>(row);
    const auto forced = forced_choice(layer, request);
    if (forced.empty()) continue;
    std::ranges::transform(choice, own.begin(), &Choice::expert);
    if (hooks_.routing.own)
      hooks_.routing.own(step_, layer, request, std::span(logits).subspan(row * experts, experts),
                         own);
    for (size_t i = 0; i < chosen; ++i) choice[i].expert = forced[i];
    set_gates(routing, mine, choice);
  }
}

// Who chose my experts, by ascending expert, then row.
void CpuExecutor::pair_up(const Array& choice, const Slice& mine) {
  pairs_ = {};
  const int64_t chosen = choice.extents[1];
  const std::span choices(choice.as<const Choice>(), static_cast<size_t>(choice.rows * chosen));
  std::vector<int64_t> next(static_cast<size_t>(mine.count),
                            0);  // of an expert: how many, then where
  const auto held = [&](const Choice& c) {
    return c.expert >= mine.first && c.expert < mine.first + mine.count;
  };
  for (const Choice& c : choices)
    if (held(c)) ++next[static_cast<size_t>(c.expert - mine.first)];
  int64_t pairs = 0;
  for (int64_t expert = 0; expert < mine.count; ++expert) {
    const int64_t count = std::exchange(next[static_cast<size_t>(expert)], pairs);
    if (count > 0) pairs_.experts.push_back({expert, pairs, count});
    pairs += count;
  }
  pairs_.row_of.resize(static_cast<size_t>(pairs));
  pairs_.gates.resize(static_cast<size_t>(pairs));
  for (size_t i = 0; i < choices.size(); ++i) {
    if (!held(choices[i])) continue;
    const auto at =
        static_cast<size_t>(next[static_cast<size_t>(choices[i].expert - mine.first)]++);
    pairs_.row_of[at] = static_cast<int32_t>(static_cast<int64_t>(i) / chosen);
    pairs_.gates[at] = choices[i].gate;
  }
  present_.routed = static_cast<double>(pairs);
  present_.touched = static_cast<double>(pairs_.experts.size());
}

// Up: the rows that chose an expert, gathered by expert. Down: back to rows, weighted by the gates.
void CpuExecutor::experts(const Task& task, int layer) {
  const Array choice = array(task.reads[1], all_chunks);
  const Id w = task.reads[2];
  const bool up = schedule_[w].weight == W::experts_up;
  if (up) pair_up(choice, schedule_[w].dims[0].mine);
  const Array in = array(task.reads[0], all_chunks);
  const Array out = array(task.writes[0], all_chunks);
  with_stored(weight_format(w), work_.precision.activations, [&]<class T, class A>(T*, A*) {
    const Values<const T> weights = stored(w, layer).as<T>();
    if (up)
      return experts_product(pairs_.experts, pairs_.row_of, out.width, in.width, in.as<A>(),
                             weights, out.as<A>());
    expert_sums_.resize(pairs_.row_of.size() * static_cast<size_t>(out.width));
    experts_product(pairs_.experts, {}, out.width, in.width, in.as<A>(), weights,
                    expert_sums_.data());
    sum_pairs(pairs_.row_of, pairs_.gates, out.rows, out.width, expert_sums_.data(), out.as<A>());
  });
  if (!up) observed_[static_cast<size_t>(store_.now_index())].add(present_);
}

}  // namespace helix::cpu
