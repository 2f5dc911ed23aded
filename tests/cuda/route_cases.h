// The router's logits and choices, and the lists of pairs, against the plain twins.
#pragma once

#include <set>
#include <string>

#include "kernels/cpu/reference_moe.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/moe.h"
#include "tests/cuda/testing.h"

namespace helix::cuda {

struct RouteCase {
  int rows, width, experts, chosen, groups = 1, chosen_groups = 1;
  bool sigmoid = false, biased = false, skewed = false, forced = false, level = false;
};

template <class Activation>
void route_case(const RouteCase& c) {
  auto x = normals<Activation>(int64_t{c.rows} * c.width);
  // Equal scores go to the lowest index; a row that is NaN chooses as many as any other.
  if (c.level) std::fill(x.begin(), x.end(), from_float<Activation>(0));
  const int broken = c.level || c.rows < 3 ? -1 : c.rows - 1;
  if (broken >= 0) x.back() = from_float<Activation>(nan);
  auto w = normals<bf16>(int64_t{c.experts} * c.width);
  for (bf16& value : w) value = to_bf16(to_float(value) / std::sqrt(1.0F * c.width));
  const auto bias = c.biased ? normals<float>(c.experts) : std::vector<float>();
  const auto skew = c.skewed ? normals<float>(c.experts) : std::vector<float>();
  cpu::Routing plain{.experts = c.experts,
                     .chosen = c.chosen,
                     .groups = c.groups,
                     .chosen_groups = c.chosen_groups,
                     .sigmoid = c.sigmoid,
                     .renormalise = c.sigmoid,
                     .scale = 2.5F,
                     .skew = skew};
  std::vector<float> expected(int64_t{c.rows} * c.experts);
  cpu::reference::router_logits(plain, c.rows, c.width, x.data(), w.data(), expected.data());

  std::vector<int32_t> forced(int64_t{c.rows} * c.chosen, -1);
  for (int row = 0; c.forced && row < c.rows; row += 2) {
    for (int i = 0; i < c.chosen; ++i) forced[row * c.chosen + i] = i + row % 2;
  }
  const Buffer<Activation> xs{std::span<const Activation>(x)};
  const Buffer<bf16> ws{std::span<const bf16>(w)};
  const Buffer<float> biases{std::span<const float>(bias)}, skews{std::span<const float>(skew)};
  const Buffer<int32_t> told{std::span<const int32_t>(forced)}, own(std::ssize(forced));
  const Buffer<float> logits(std::ssize(expected));
  const Buffer<Choice> choices(std::ssize(forced));
  const Routing routing{c.experts, c.chosen,  c.groups, c.chosen_groups,
                        c.sigmoid, c.sigmoid, 2.5F,     c.skewed ? skews.data() : nullptr};
  route(routing, c.rows, c.width, xs.data(), stored(ws), c.biased ? stored(biases) : Stored{},
        {told.data(), own.data()}, logits.data(), choices.data(), how());
  HELIX_CUDA(cudaStreamSynchronize(stream.get()));

  const std::string what = std::string("route ") + name_of<Activation> + " " +
                           std::to_string(c.rows) + " x " + std::to_string(c.width) + ", " +
                           std::to_string(c.chosen) + " of " + std::to_string(c.experts) +
                           (c.groups > 1 ? " in " + std::to_string(c.groups) + " groups" : "") +
                           (c.sigmoid ? ", sigmoid" : "") + (c.biased ? ", bias" : "") +
                           (c.skewed ? ", skew" : "") + (c.forced ? ", forced" : "") +
                           (c.level ? ", equals" : "");
  const std::vector<float> made = logits.read();
  expect_close(made, expected, 1e-5, what + ": logits");
  bool same = true, whole = true;
  std::vector<float> gates, plain_gates;
  const auto here = choices.read();
  const auto chose = own.read();
  for (int row = 0; row < c.rows; ++row) {
    const auto* const mine = &here[row * c.chosen];
    const std::span<const int32_t> chosen(&chose[row * c.chosen], c.chosen);
    whole &= std::set<int32_t>(chosen.begin(), chosen.end()).size() == chosen.size() &&
             std::is_sorted(chosen.begin(), chosen.end()) && chosen[0] >= 0 &&
             chosen.back() < c.experts;
    if (row == broken) continue;
    std::vector<float> scores(made.begin() + row * c.experts, made.begin() + (row + 1) * c.experts);
    std::vector<cpu::Choice> best(c.chosen);
    cpu::reference::score(plain, scores);
    cpu::reference::choose(plain, scores, bias, best);
    float sum = 0;
    for (int i = 0; i < c.chosen; ++i) {
      same &= best[i].expert == chosen[i];
      const bool is_told = forced[row * c.chosen] >= 0;
      const int goes_on = is_told ? forced[row * c.chosen + i] : best[i].expert;
      same &= mine[i].expert == goes_on;
      sum += scores[goes_on];
    }
    for (int i = 0; i < c.chosen; ++i) {
      gates.push_back(mine[i].gate);
      plain_gates.push_back(scores[mine[i].expert] * plain.scale / (c.sigmoid ? sum : 1));
    }
  }
  expect(whole, what + ": as many, each once, ascending");
  expect(same, what + ": the twin's choices");
  expect_close(gates, plain_gates, 1e-5, what + ": gates");
}

inline void pair_case(int rows, int there, int chosen, int experts, int first, int count) {
  std::vector<Choice> choices;
  for (int row = 0; row < rows; ++row) {
    std::set<int32_t> mine;
    while (std::ssize(mine) < chosen) mine.insert(integer(0, experts - 1));
    for (const int32_t expert : mine) choices.push_back({expert, 1});
  }
  std::vector<int32_t> begins = {0}, row_of, pair_of(rows * chosen, -1);
  int64_t touched = 0;
  for (int expert = first; expert < first + count; ++expert) {
    for (int i = 0; i < there * chosen; ++i) {
      if (choices[i].expert != expert) continue;
      pair_of[i] = static_cast<int32_t>(row_of.size());
      row_of.push_back(i / chosen);
    }
    touched += std::ssize(row_of) > begins.back() ? 1 : 0;
    begins.push_back(static_cast<int32_t>(row_of.size()));
  }
  const Buffer<Choice> given{std::span<const Choice>(choices)};
  const std::vector<int32_t> nothing(rows * chosen, -7);
  const Buffer<int32_t> b(count + 1), r{std::span<const int32_t>(nothing)}, p(rows * chosen);
  const std::vector<int32_t> said = {there};
  const Buffer<int32_t> told{std::span<const int32_t>(said)};
  const std::vector<int64_t> before = {5, 6, 7};
  const Buffer<int64_t> met{std::span<const int64_t>(before)};
  pair_up(rows, there == rows ? nullptr : told.data(), chosen, given.data(), first, count,
          {b.data(), r.data(), p.data()}, met.data(), how());
  HELIX_CUDA(cudaStreamSynchronize(stream.get()));
  const std::string what = "pairs of " + std::to_string(there) + " of " + std::to_string(rows) +
                           " rows, experts " + std::to_string(first) + " to " +
                           std::to_string(first + count - 1) + " of " + std::to_string(experts);
  row_of.resize(rows * chosen, -7);
  expect(b.read() == begins && r.read() == row_of && p.read() == pair_of, what);
  expect(met.read() == std::vector<int64_t>{5 + begins.back(), 6 + touched, 8}, what + ": counted");
}

template <class Activation>
void route_cases(bool quick) {
  for (const int rows : {1, 3, 20}) {
    route_case<Activation>({rows, 96, 8, 2});
    route_case<Activation>({rows, 64, 60, 4, 1, 1, false, false, true, true});
    route_case<Activation>({rows, 64, 64, 8, 8, 4, true, true, true});
    route_case<Activation>({rows, 32, 40, 6, 5, 2, false, true, false, false, true});
  }
  if (quick) return;
  route_case<Activation>({64, 7168, 256, 8, 8, 4, true, true, true});
  route_case<Activation>({8, 7168, 256, 8, 8, 4, true, true, false, true});
  route_case<Activation>({5, 5120, 160, 6, 8, 3, false, false, true});
  route_case<Activation>({33, 2048, 512, 10, 1, 1, false, true});
}

inline void pair_cases() {
  pair_case(1, 1, 2, 8, 0, 8);
  pair_case(7, 7, 2, 8, 4, 2);
  pair_case(64, 64, 8, 256, 32, 32);
  pair_case(200, 131, 8, 256, 0, 256);
  pair_case(70, 0, 4, 60, 30, 30);
  pair_case(300, 300, 6, 512, 0, 512);
}

}  // namespace helix::cuda
