#include "bench/paper.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "bench/file.h"
#include "bench/world.h"

namespace helix {

namespace {

namespace fs = std::filesystem;

std::vector<std::string> paper_sweeps() {
  const fs::path folder = fs::path(configs_folder()) / "sweeps" / "paper";
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".json" && !entry.path().stem().string().ends_with("-model"))
      files.push_back(entry.path().string());
  if (files.empty()) throw InputError(folder.string(), "", "no sweep is there");
  std::ranges::sort(files);
  return files;
}

std::vector<Claim> claims_in(const std::vector<Market>& markets) {
  std::vector<Claim> all;
  for (const Market& market : markets)
    for (const Claim& claim : claims_of(market)) all.push_back(claim);
  return all;
}

std::vector<Variation> variations_of(std::vector<Market>& markets, const Machine& machine,
                                     int threads) {
  std::vector<Variation> variations;
  for (const Factor* factor : factors_of(machine))
    for (const double by : {0.5, 2.0}) {
      for (Market& market : markets) reprice(market, scaled(machine, *factor, by), threads);
      variations.push_back(
          {fmt::format("{} {}", factor->name, by < 1 ? "/ 2" : "x 2"), claims_in(markets)});
    }
  return variations;
}

}  // namespace

const std::vector<Factor>& factors() {
  using M = Machine;
  static const std::vector<Factor> table = {
      {"read efficiency", {&M::weight_read_efficiency, &M::kv_read_efficiency}, 1},
      {"compute efficiency", {&M::product_efficiency, &M::attention_efficiency}, 1},
      {"link efficiency", {&M::link_efficiency, &M::network_efficiency}, 1},
      {"kernel time", {&M::kernel_us}, 0},
      {"collective time", {&M::all_reduce_us, &M::exchange_us, &M::network_us}, 0},
      {"time a touched expert", {&M::touched_expert_us}, 0},
      {"read-ahead", {&M::read_ahead_mb}, 0},
  };
  return table;
}

std::vector<const Factor*> factors_of(const Machine& machine) {
  std::vector<const Factor*> found;
  for (const Factor& factor : factors())
    if (std::ranges::any_of(factor.parts,
                            [&](auto part) { return machine.*part != factor.neutral; }))
      found.push_back(&factor);
  return found;
}

Machine scaled(const Machine& machine, const Factor& factor, double by) {
  Machine other = machine;
  for (double Machine::*part : factor.parts)
    other.*part = factor.neutral == 1 ? std::min(1.0, machine.*part * by) : machine.*part * by;
  return other;
}

int claims(const ClaimsOptions& options) {
  const Machine machine = read_machine(options.machine);
  const int threads = options.threads > 0 ? options.threads : allowed_cores();
  std::vector<Market> markets;  // those with claims: kept for the sensitivity
  Json figures = Json::array();
  for (const std::string& file : options.sweeps.empty() ? paper_sweeps() : options.sweeps) {
    Market market = market_of(file, machine, threads);
    if (!options.folder.empty()) figures.push_back(figure_of(market, machine));
    if (!claims_of(market).empty()) markets.push_back(std::move(market));
  }
  const std::vector<Claim> found = claims_in(markets);
  std::string text = claims_text(markets, found, {}, machine);
  if (options.sensitivity) {
    std::vector<Market> others = markets;
    text = claims_text(markets, found, variations_of(others, machine, threads), machine);
  }
  fmt::print("{}", text);
  if (!options.folder.empty()) {
    fs::create_directories(options.folder);
    const Json document = {{"schema", "helix-bench/paper/1"},
                           {"machine", machine.name},
                           {"figures", std::move(figures)}};
    replace_file(options.folder + "/claims.md", text);
    replace_file(options.folder + "/paper.json", document.dump() + "\n");
  }
  return static_cast<int>(Exit::done);
}

}  // namespace helix
