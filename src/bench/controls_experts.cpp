#include "bench/controls_experts.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>

#include "kernels/cpu/moe.h"

namespace helix {

namespace {

using cpu::Choice;

struct Scores {  // of one row, an expert each
  std::vector<double> own;
  std::vector<double> competing;  // with bias
};

class Router {
 public:
  explicit Router(const Assignment& work)
      : experts_(work.model->experts),
        generator_(*work.model, work.precision, work.seed, work.zipf) {}
  const Experts& experts() const { return experts_; }

  Scores scores(int layer, std::span<const float> x) {
    const Layer& l = layers_.try_emplace(layer, generator_, layer).first->second;
    Scores s;
    for (size_t e = 0; e < static_cast<size_t>(experts_.count); ++e)
      s.own.push_back(std::inner_product(x.begin(), x.end(), l.weights.begin() + e * x.size(),
                                         l.skew.empty() ? 0.0 : l.skew[e]));
    const bool sigmoid = experts_.scoring == Scoring::sigmoid;
    for (double& value : s.own) value = sigmoid ? 1 / (1 + std::exp(-value)) : std::exp(value);
    const double sum = sigmoid ? 1 : std::accumulate(s.own.begin(), s.own.end(), 0.0);
    for (double& value : s.own) value /= sum;
    s.competing = s.own;
    for (size_t e = 0; e < l.bias.size(); ++e) s.competing[e] += l.bias[e];
    return s;
  }

 private:
  struct Layer {
    std::vector<float> weights, bias, skew;
    Layer(const Generator& generator, int layer) : skew(generator.routing_skew(layer)) {
      const auto read = [&](W which, std::vector<float>& to) {
        const Extents e = extents_of(generator.model(), which);
        to.resize(static_cast<size_t>(e[0] * e[1]));
        generator.weights(which, layer, {whole(e[0]), whole(e[1]), whole(1), whole(1)}, to.data());
      };
      read(W::router, weights);
      if (generator.model().experts.bias) read(W::router_bias, bias);
    }
  };
  const Experts& experts_;
  Generator generator_;
  std::map<int, Layer> layers_;
};

// Calls `change(experts, scores, choice)` on each row after it was routed.
template <class Change>
void after_route(Executor& executor, const Assignment& work, Change change) {
  executor.hooks().after = [&executor, change, router = std::make_shared<Router>(work)](
                               const Task& task, int layer) {
    if (task.op != Op::route) return;
    const TensorView in = executor.view(task.reads[0], all_chunks);
    const TensorView out = executor.view(task.writes[0], all_chunks);
    const auto chosen = static_cast<size_t>(router->experts().chosen);
    const auto width = static_cast<size_t>(in.values);
    for (size_t row = 0; row < static_cast<size_t>(in.rows); ++row)
      change(router->experts(),
             router->scores(layer, {reinterpret_cast<const float*>(in.data) + row * width, width}),
             std::span(reinterpret_cast<Choice*>(out.data) + row * chosen, chosen));
  };
}

void set_gates(const Experts& experts, const std::vector<double>& from, bool renormalise,
               std::span<Choice> choice) {
  double sum = 1e-20;
  for (const Choice& c : choice) sum += from[static_cast<size_t>(c.expert)];
  for (Choice& c : choice)
    c.gate = static_cast<float>(from[static_cast<size_t>(c.expert)] * experts.scale /
                                (renormalise ? sum : 1));
}

// The indices of the `count` largest, ties to the lowest index.
std::vector<size_t> largest(const std::vector<double>& values, int64_t count) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return values[a] > values[b]; });
  order.resize(static_cast<size_t>(count));
  std::ranges::sort(order);
  return order;
}

}  // namespace

void gates_not_renormalised(Executor& executor, const Assignment& work) {
  after_route(executor, work, [](const Experts& e, const Scores& s, std::span<Choice> choice) {
    set_gates(e, s.own, false, choice);
  });
}

void expert_run_twice(Executor& executor, const Assignment& work) {
  after_route(executor, work, [](const Experts&, const Scores&, std::span<Choice> choice) {
    choice.front().gate *= 2;  // one output, summed twice
  });
}

void bias_as_weight(Executor& executor, const Assignment& work) {
  after_route(executor, work, [](const Experts& e, const Scores& s, std::span<Choice> choice) {
    set_gates(e, s.competing, e.renormalise, choice);
  });
}

void groups_masked_with_zero(Executor& executor, const Assignment& work) {
  after_route(executor, work, [](const Experts& e, const Scores& s, std::span<Choice> choice) {
    const auto size = static_cast<size_t>(e.count / e.groups);
    std::vector<double> sums;
    for (size_t first = 0; first < s.competing.size(); first += size) {
      std::vector<double> group(s.competing.begin() + first, s.competing.begin() + first + size);
      std::ranges::partial_sort(group, group.begin() + 2, std::greater<>());
      sums.push_back(group[0] + group[1]);
    }
    const std::vector<size_t> best = largest(sums, e.chosen_groups);
    std::vector<double> masked = s.competing;
    for (size_t i = 0; i < masked.size(); ++i)
      if (!std::ranges::binary_search(best, i / size)) masked[i] = 0;
    const std::vector<size_t> chosen = largest(masked, e.chosen);
    for (size_t i = 0; i < choice.size(); ++i) choice[i].expert = static_cast<int32_t>(chosen[i]);
    set_gates(e, s.own, e.renormalise, choice);
  });
}

}  // namespace helix
