// Routers and experts.
#include <algorithm>
#include <limits>
#include <numeric>

#include "bench/tasks/judge.h"
#include "execute/routing.h"
#include "judge/ffn.h"

namespace helix {

namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();
constexpr double near_tie = 1e-4;  // of two scores: either choice is right
constexpr int64_t sampled_pairs = 6;
constexpr int64_t sampled_weights = int64_t{1} << 20;  // of one pair's products

double dot(const Vector& a, std::span<const float> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

}  // namespace

double TaskJudge::route(const TaskRecord& r) {
  const Experts& e = model_.experts;
  const Vector bias = e.bias ? tensors_.values(W::router_bias, r.layer) : Vector();
  const std::vector<float> skew = tensors_.generator().routing_skew(r.layer);
  const bool gathered = schedule_[r.task->reads[0]].dims[0].fill == Fill::stage_rows;
  const int64_t first_request = gathered ? requests_.stage_first : requests_.first;
  Sample gates;
  for (const int64_t row : rows(r, r.reads[0]->rows)) {
    const auto x = r.reads[0]->row(row);
    Vector logits = tensors_.times(W::router, r.layer, Vector(x.begin(), x.end()));
    for (size_t i = 0; i < skew.size(); ++i) logits[i] += static_cast<double>(skew[i]);
    std::vector<int32_t> taken;
    for (int64_t i = 0; i < e.chosen; ++i)
      taken.push_back(static_cast<int32_t>(r.writes[0]->at(row, 2 * i)));
    if (std::ranges::any_of(taken, [&](int32_t i) { return i < 0 || i >= e.count; }))
      return infinite;
    const int64_t request = first_request + row;
    const auto given = given_choice(work_, r.layer, request);
    if (!given.empty() && !std::ranges::equal(taken, given)) return infinite;
    Vector expected;
    const JudgeRouting judged = choose_experts(e, logits, bias, expected);
    const std::vector<int32_t>& own = given.empty() ? taken : own_choices_.at({r.layer, request});
    if (own != judged.experts && judged.margin > near_tie) return infinite;
    expected = gates_of(e, logits, taken);
    for (int64_t i = 0; i < e.chosen; ++i)
      gates.expect(row, 2 * i + 1, expected[static_cast<size_t>(i)]);
  }
  return off(gates, r);
}

double TaskJudge::experts(const TaskRecord& r) {
  return schedule_[r.task->reads[2]].weight == W::experts_up ? experts_up(r) : experts_down(r);
}

// Rows that chose one of this rank's experts, by that expert: gate and up of each.
double TaskJudge::experts_up(const TaskRecord& r) {
  const Content& choice = *r.reads[1];
  const Tensor& w = schedule_[r.task->reads[2]];
  const Slice held = w.dims[0].mine;
  const Slice width = w.dims[2].mine;
  pairs_.clear();
  for (int64_t row = 0; row < choice.rows; ++row)
    for (int64_t i = 0; i < choice.width / 2; ++i)
      if (const auto expert = static_cast<int64_t>(choice.at(row, 2 * i));
          expert >= held.first && expert < held.first + held.count)
        pairs_.push_back({row, expert, choice.at(row, 2 * i + 1)});
  std::ranges::stable_sort(pairs_, {}, &Pair::expert);
  Sample sample;
  for (const int64_t at : spread(std::ssize(pairs_), sampled_pairs, seed_of(r))) {
    const Pair& pair = pairs_[static_cast<size_t>(at)];
    const int64_t features = std::max<int64_t>(16, sampled_weights / model_.hidden);
    for (const int64_t feature : spread(2 * width.count, features, seed_of(r))) {
      const Part one = {{{pair.expert, 1},
                         {feature / width.count, 1},
                         {width.first + feature % width.count, 1},
                         whole(model_.hidden)}};
      sample.expect(at, feature,
                    dot(tensors_.values(w.weight, r.layer, one), r.reads[0]->row(pair.row)));
    }
  }
  return off(sample, r);
}

// Back to rows: the sum over a row's experts here, weighted by their gates.
double TaskJudge::experts_down(const TaskRecord& r) {
  const Tensor& w = schedule_[r.task->reads[2]];
  const Slice width = w.dims[2].mine;
  Sample sample;
  for (const int64_t row : rows(r, r.reads[1]->rows)) {
    const int64_t features = std::max<int64_t>(16, sampled_weights / width.count / sampled_pairs);
    for (const int64_t feature : spread(model_.hidden, features, seed_of(r))) {
      double sum = 0;
      for (size_t at = 0; at < pairs_.size(); ++at) {
        const Pair& pair = pairs_[at];
        if (pair.row != row) continue;
        const Part one = {{{pair.expert, 1}, {feature, 1}, width, {0, 1}}};
        sum += pair.gate * dot(tensors_.values(w.weight, r.layer, one),
                               r.reads[0]->row(static_cast<int64_t>(at)));
      }
      sample.expect(row, feature, sum);
    }
  }
  return off(sample, r);
}

}  // namespace helix
