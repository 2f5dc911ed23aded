#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/frontier.h"
#include "bench/paper.h"

namespace helix {

namespace {

std::string title(const Claim& claim) {
  return claim.percent ? fmt::format("{}: {}", claim.model, claim.what) : std::string(claim.what);
}

std::string shown(const Claim& claim, double value) {
  if (!std::isfinite(value)) return "-";
  if (claim.percent) return fmt::format("{:.1f} %", value * 100);
  return value < 10 ? fmt::format("{:.2f}x", value) : fmt::format("{:.1f}x", value);
}

// How far ours is from the paper's; of a loss in points of percent.
std::string miss(const Claim& claim) {
  if (!std::isfinite(claim.ours)) return "-";
  if (claim.percent) return fmt::format("{:+.1f} points", (claim.ours - claim.paper) * 100);
  return fmt::format("{:+.0f} %", (claim.ours / claim.paper - 1) * 100);
}

std::string point_text(const Sweep& sweep, const Offer& offer) {
  if (offer.gpus == 0) return "-";
  const Point& p = sweep.points[offer.point];
  return fmt::format("{} {}{}, B {}, {} GPUs: {:.2f} ms, {:.1f} tokens/s/user, {:.2f} tokens/s/GPU",
                     p.layout.strategy, layout_text(to_json(p.layout)),
                     p.hop_b ? fmt::format(", HOP-B {}", p.chunks) : "", p.batch, offer.gpus,
                     offer.ttl_us / 1e3, offer.per_user(), offer.per_gpu());
}

const Market& market_of(const std::vector<Market>& markets, const Claim& claim) {
  return *std::ranges::find_if(markets, [&](const Market& market) {
    return market.sweep.points.front().model->name == claim.model;
  });
}

std::string factor_text(const Machine& machine, const Factor& factor) {
  std::string text;
  for (double Machine::*part : factor.parts) {
    if (machine.*part == factor.neutral) continue;
    const auto numbers = machine_numbers();
    const auto number = std::ranges::find(numbers, part, &MachineNumber::value);
    const auto provenance = machine.provenance.find(number->key);
    text += fmt::format(
        "- `{}` {:g}: {}\n", number->key, machine.*part,
        provenance == machine.provenance.end()
            ? "no source"
            : fmt::format("{}; {}", name_of(provenance->second.basis), provenance->second.source));
  }
  return text;
}

std::string sensitivity_text(const std::vector<Claim>& claims,
                             const std::vector<Variation>& variations) {
  std::string text =
      "\n## Sensitivity\n\nEach claim with each factor halved and doubled, an "
      "efficiency to 1 at most.\n\n| claim | paper | as it is |";
  for (const Variation& variation : variations) text += fmt::format(" {} |", variation.name);
  text += "\n|---|---|---|";
  for (size_t i = 0; i < variations.size(); ++i) text += "---|";
  for (size_t i = 0; i < claims.size(); ++i) {
    text += fmt::format("\n| {} | {} | {} |", title(claims[i]), shown(claims[i], claims[i].paper),
                        shown(claims[i], claims[i].ours));
    for (const Variation& variation : variations)
      text += fmt::format(" {} |", shown(claims[i], variation.claims[i].ours));
  }
  return text + "\n";
}

}  // namespace

std::string claims_text(const std::vector<Market>& markets, const std::vector<Claim>& claims,
                        const std::vector<Variation>& variations, const Machine& machine) {
  std::string text = fmt::format("# The paper's claims, simulated on {}\n\n", machine.name);
  for (const Market& market : markets)
    text += fmt::format("{}: {} points, {} fit.\n", market.sweep.name, market.sweep.points.size(),
                        market.offers.size());
  text += "\n| claim | paper | ours | miss |\n|---|---|---|---|\n";
  for (const Claim& claim : claims)
    text += fmt::format("| {} | {} | {} | {} |\n", title(claim), shown(claim, claim.paper),
                        shown(claim, claim.ours), miss(claim));
  text +=
      "\nThe same factors hold for every strategy and both models; all else is the data sheet:\n";
  for (const Factor* factor : factors_of(machine)) text += factor_text(machine, *factor);
  text += "\n## The two points of each\n";
  for (const Claim& claim : claims) {
    const Sweep& sweep = market_of(markets, claim).sweep;
    text +=
        fmt::format("\n**{}**: {} against {} in the paper. {}.\n- {}\n- {}\n", title(claim),
                    shown(claim, claim.ours), shown(claim, claim.paper), claim.definition,
                    point_text(sweep, claim.points.first), point_text(sweep, claim.points.second));
  }
  if (!variations.empty()) text += sensitivity_text(claims, variations);
  return text;
}

}  // namespace helix
