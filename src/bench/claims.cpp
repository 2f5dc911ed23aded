#include "bench/claims.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "layout/strategy.h"

namespace helix {

namespace {

double batch_of(const Offer& o) { return static_cast<double>(o.batch); }
double per_user(const Offer& o) { return o.per_user(); }
double per_gpu(const Offer& o) { return o.per_gpu(); }
double any(const Offer&) { return 0; }

bool is_tp(const Point& p) { return p.layout.strategy == "tp"; }

// Helix over its rivals: with the best `worth` at the same `level`.
struct Gain {
  std::string_view model, key, what, definition;
  Wanted rivals;
  Measure level, worth;
  double paper;
};
const std::vector<Gain>& gains() {
  static const std::vector<Gain> table = {
      {"deepseek-r1", "r1-interactivity", "R1: interactivity (TTL) against the best Baseline",
       "least TTL of the Baseline over least TTL of Helix, at the same batch or more; the largest "
       "over batches",
       is_baseline, batch_of, per_user, 1.5},
      {"deepseek-r1", "r1-users", "R1: users at one TTL",
       "most requests under Helix over most under the Baseline, at the same TTL or less; the "
       "largest over TTLs",
       is_baseline, per_user, batch_of, 32},
      {"deepseek-r1", "r1-throughput", "R1: tokens/s/GPU at one TTL",
       "most tokens/s/GPU of Helix over those of the Baseline, at the same TTL or less; the "
       "largest "
       "over TTLs",
       is_baseline, per_user, per_gpu, 32},
      {"llama-3.1-405b", "llama-interactivity", "Llama-405B: highest interactivity",
       "least TTL of the Baseline over least TTL of Helix, at any batch", is_baseline, any,
       per_user, 1.13},
      {"llama-3.1-405b", "llama-users", "Llama-405B: users against TP at one TTL",
       "most requests under Helix over most under tp, at the same TTL or less; the largest over "
       "TTLs",
       is_tp, per_user, batch_of, 4},
      {"llama-3.1-405b", "llama-throughput", "Llama-405B: tokens/s/GPU against TP at one TTL",
       "most tokens/s/GPU of Helix over those of tp, at the same TTL or less; the largest over "
       "TTLs",
       is_tp, per_user, per_gpu, 4},
  };
  return table;
}

// What is lost without HOP-B.
struct Loss {
  std::string_view key, what, definition;
  Measure level, worth;
};
constexpr Loss losses[] = {
    {"hop-b-throughput", "interactivity lost without HOP-B, at the same tokens/s/GPU",
     "1 - tokens/s/user without over with, on the frontiers, at the same tokens/s/GPU, between "
     "neighbours by a power law; the largest",
     per_gpu, per_user},
    {"hop-b-ttl", "tokens/s/GPU lost without HOP-B, at the same TTL",
     "1 - tokens/s/GPU without over with, on the frontiers, at the same TTL, between neighbours by "
     "a power law; the largest",
     per_user, per_gpu},
};

// All that two points of a sweep share when only their chunks differ.
bool same_but_chunks(const Point& a, const Point& b) {
  return a.layout == b.layout && a.batch == b.batch && a.context == b.context;
}

// With HOP-B over without, of the same layout and batch: the most among the points of a frontier.
Ratio same_layout_loss(const Sweep& sweep, const std::vector<Offer>& offers,
                       const std::vector<Offer>& frontier) {
  Ratio worst;
  for (const Offer& with : frontier) {
    const Point& point = sweep.points[with.point];
    if (!point.hop_b) continue;
    // Points of a layout and batch follow one another, without HOP-B first.
    auto at = std::ranges::lower_bound(offers, with.point, {}, &Offer::point);
    while (at != offers.begin() && same_but_chunks(sweep.points[std::prev(at)->point], point)) --at;
    if (at == offers.end() || sweep.points[at->point].hop_b) continue;
    const double ratio = at->ttl_us / with.ttl_us;
    if (ratio > worst.value) worst = {ratio, with, *at};
  }
  return worst;
}

double loss_of(const Ratio& with_over_without) {
  return with_over_without.value > 0 ? 1 - 1 / with_over_without.value
                                     : std::numeric_limits<double>::quiet_NaN();
}

const std::vector<Offer>& offers_in(const Market& market, bool paper_accounting) {
  return paper_accounting ? market.paper_offers : market.offers;
}

// All three in the paper's accounting; the paper's number is the one at the same tokens/s/GPU.
void add_losses(const Market& market, std::string_view model, double paper,
                std::vector<Claim>& claims) {
  const Ablation frontiers = hop_b_ablation(market, true);
  const Ratio same = same_layout_loss(market.sweep, market.paper_offers, frontiers.on);
  claims.push_back({model, "hop-b-same-layout",
                    "interactivity lost without HOP-B, same layout and batch",
                    "1 - TTL with over without, of one layout and batch; the largest on the "
                    "frontier with HOP-B",
                    true, paper, loss_of(same), same});
  for (const Loss& loss : losses) {
    const Ratio ratio = largest_gap(frontiers.on, frontiers.off, loss.level, loss.worth);
    claims.push_back(
        {model, loss.key, loss.what, loss.definition, true, paper, loss_of(ratio), ratio});
  }
}

}  // namespace

Ratio largest_gap(std::span<const Offer> first, std::span<const Offer> second, Measure level,
                  Measure worth) {
  std::vector<Offer> curve(second.begin(), second.end());
  std::ranges::sort(curve, {}, level);
  Ratio most;
  for (const Offer& offer : first) {
    const auto above = std::ranges::lower_bound(curve, level(offer), {}, level);
    if (above == curve.end() || (above == curve.begin() && level(*above) > level(offer))) continue;
    double there = worth(*above);
    if (level(*above) > level(offer)) {
      const Offer& below = *std::prev(above);
      const double share =
          std::log(level(offer) / level(below)) / std::log(level(*above) / level(below));
      there = worth(below) * std::pow(worth(*above) / worth(below), share);
    }
    if (worth(offer) / there > most.value) most = {worth(offer) / there, offer, *above};
  }
  return most;
}

Market market_of(const std::string& sweep_file, const Machine& machine, int threads) {
  Market market;
  market.sweep = read_sweep(sweep_file);
  reprice(market, machine, threads);
  return market;
}

void reprice(Market& market, const Machine& machine, int threads) {
  const auto overlapped = [](const Point& point) { return point.hop_b; };
  market.offers = offers_of(market.sweep, machine, Accounting::chunks, threads);
  market.paper_offers = market.offers;
  const std::vector<Offer> paper =
      offers_of(market.sweep, machine, Accounting::paper, threads, overlapped);
  auto at = market.paper_offers.begin();
  for (const Offer& offer : paper) {
    at = std::ranges::lower_bound(at, market.paper_offers.end(), offer.point, {}, &Offer::point);
    if (at != market.paper_offers.end() && at->point == offer.point) *at = offer;
  }
}

Ablation hop_b_ablation(const Market& market, bool paper_accounting) {
  const std::vector<Offer>& offers = offers_in(market, paper_accounting);
  const auto plain = [](const Point& p) { return is_helix(p) && !p.hop_b; };
  return {frontier_of(those(market.sweep, offers, is_helix)),
          frontier_of(those(market.sweep, offers, plain))};
}

std::vector<Claim> claims_of(const Market& market) {
  std::vector<Claim> claims;
  const Point& first = market.sweep.points.front();
  const auto other = [&](const Point& p) { return p.context != first.context; };
  if (std::ranges::any_of(market.sweep.points, other)) return claims;
  const std::string& model = first.model->name;
  const std::vector<Offer> helix = those(market.sweep, market.offers, is_helix);
  for (const Gain& gain : gains()) {
    if (gain.model != model) continue;
    const Ratio ratio = largest_ratio(helix, those(market.sweep, market.offers, gain.rivals),
                                      gain.level, gain.worth);
    claims.push_back({gain.model, gain.key, gain.what, gain.definition, false, gain.paper,
                      ratio.value > 0 ? ratio.value : std::numeric_limits<double>::quiet_NaN(),
                      ratio});
  }
  if (model == "deepseek-r1") add_losses(market, "deepseek-r1", 0.01, claims);
  if (model == "llama-3.1-405b") add_losses(market, "llama-3.1-405b", 0.12, claims);
  return claims;
}

}  // namespace helix
