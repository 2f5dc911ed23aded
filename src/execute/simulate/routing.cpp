#include "execute/simulate/routing.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "base/random.h"
#include "judge/ffn.h"

namespace helix::simulated {

namespace {

constexpr int64_t tokens_chosen = 4096;    // with their experts, in all layers together
constexpr int64_t skewed_layers = 8;       // that differ in who is popular
constexpr int64_t tokens_drawn = 100'000;  // in all draws together
constexpr int64_t least_draws = 32;
constexpr int64_t most_draws = 2000;
constexpr uint64_t router_stream = 1200;  // apart from those of model/ and bench/

// Normal with variance 1, nearly: what matters is the order of the logits, and their tail.
double normal(uint64_t stream, uint64_t index) {
  double sum = 0;
  for (uint64_t i = 0; i < 12; i += 4) {
    const uint64_t hash = mix(stream + (3 * index + i / 4) * golden);
    for (unsigned lane = 0; lane < 4; ++lane) sum += uniform(hash, lane);
  }
  return sum / 2;  // each has variance 1/3
}

constexpr std::array<Choices::Count Choices::*, 3> counts = {&Choices::touched, &Choices::routed,
                                                             &Choices::tokens};

}  // namespace

double expected_touched(const Experts& e, int ep, double tokens) {
  const double chance = static_cast<double>(e.chosen) / static_cast<double>(e.count);
  return static_cast<double>(e.count) / ep * (1 - std::pow(1 - chance, tokens));
}

Router::Router(const Model& model, double zipf, uint64_t seed)
    : experts_(model.experts), stream_(combine(seed, router_stream)) {
  const Generator generator(model, Precision{}, seed, zipf);
  const auto count = static_cast<size_t>(experts_.count);
  Vector logits(count), gates;
  uint64_t index = 0;
  const int64_t layers = zipf > 0 ? skewed_layers : 1;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const std::vector<float> skew = generator.routing_skew(model.dense_layers + layer);
    std::vector<int32_t>& pool = pools_.emplace_back();
    for (int64_t token = 0; token < tokens_chosen / layers; ++token) {
      for (size_t e = 0; e < count; ++e)
        logits[e] = normal(stream_, index++) + (skew.empty() ? 0 : skew[e]);
      const auto chosen = choose_experts(experts_, logits, {}, gates).experts;
      pool.insert(pool.end(), chosen.begin(), chosen.end());
    }
  }
}

namespace {

// Which experts the tokens of a layer choose.
struct Tally {
  std::vector<int64_t> pairs;  // an expert
  std::vector<int64_t> with;   // tokens with an expert there, an EP rank

  void begin() {
    std::fill(pairs.begin(), pairs.end(), 0);
    std::fill(with.begin(), with.end(), 0);
  }
  void add(std::span<const int32_t> chosen, int64_t held) {
    int64_t before = -1;
    for (const int32_t expert : chosen) {  // ascending
      ++pairs[static_cast<size_t>(expert)];
      if (expert / held == before) continue;
      before = expert / held;
      ++with[static_cast<size_t>(before)];
    }
  }
};

}  // namespace

std::span<const int32_t> Router::experts_of(int64_t token, int64_t number, int64_t tokens) const {
  const std::span<const int32_t> pool = pools_[static_cast<size_t>(number) % pools_.size()];
  const auto chosen = static_cast<size_t>(experts_.chosen);
  const uint64_t stream = combine(stream_, static_cast<uint64_t>(tokens) + 1);
  const uint64_t hash = mix(stream + static_cast<uint64_t>(number * tokens + token) * golden);
  return pool.subspan(hash % (pool.size() / chosen) * chosen, chosen);
}

std::vector<int32_t> Router::draw(int64_t number, int64_t tokens) const {
  std::vector<int32_t> all;
  for (int64_t token = 0; token < tokens; ++token) {
    const std::span<const int32_t> chosen = experts_of(token, number, tokens);
    all.insert(all.end(), chosen.begin(), chosen.end());
  }
  return all;
}

const Choices& Router::choices(int64_t tokens, int ep) {
  const auto [known, isnew] = known_.try_emplace({tokens, ep});
  if (isnew) known->second = drawn(tokens, ep);
  return known->second;
}

Choices Router::drawn(int64_t tokens, int ep) const {
  const auto ranks = static_cast<size_t>(ep);
  const int64_t held = experts_.count / ep;
  const int64_t draws =
      std::clamp(tokens_drawn / std::max<int64_t>(tokens, 1), least_draws, most_draws);
  Tally draw{std::vector<int64_t>(static_cast<size_t>(experts_.count)),
             std::vector<int64_t>(ranks)};
  Choices sum;
  for (int64_t d = 0; d < draws; ++d) {
    draw.begin();
    for (int64_t t = 0; t < tokens; ++t) draw.add(experts_of(t, d, tokens), held);
    std::array<double, 3> most = {};
    for (size_t rank = 0; rank < ranks; ++rank) {
      std::array<double, 3> mine = {0, 0, static_cast<double>(draw.with[rank])};
      for (auto e = rank * static_cast<size_t>(held); e < (rank + 1) * static_cast<size_t>(held);
           ++e) {
        mine[0] += draw.pairs[e] > 0 ? 1 : 0;
        mine[1] += static_cast<double>(draw.pairs[e]);
      }
      for (size_t i = 0; i < mine.size(); ++i) {
        (sum.*counts[i]).mean += mine[i];
        most[i] = std::max(most[i], mine[i]);
      }
    }
    for (size_t i = 0; i < most.size(); ++i) (sum.*counts[i]).busiest += most[i];
  }
  for (const auto count : counts) {
    (sum.*count).mean /= static_cast<double>(draws * ep);
    (sum.*count).busiest /= static_cast<double>(draws);
  }
  return sum;
}

}  // namespace helix::simulated
