// Which points are worth having: none of their curve gives more tokens/s to a user and more
// tokens/s from a GPU. A curve is one strategy under one load; what was executed whole, executed in
// part and simulated are never mixed. An executed point that was not verified is on no frontier.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"

namespace helix {

enum class Proof : uint8_t { simulated, verified, unverified, failed };

// One point, its repeats put together: the repeat with the median TTL speaks for all.
struct Dot {
  std::string key;
  std::string line;  // "FILE:LINE", where it was read
  std::string strategy;
  std::string label;    // "KVP4×TPA2→TPF8"
  std::string options;  // "HOP-B 4", and what else differs within its strategy
  std::string exchange;
  std::string shard;
  Json point;  // as in the line
  int64_t batch = 0;
  int64_t ranks = 0;
  std::optional<int64_t> gpus;
  double x = 0;  // tokens/s/user
  double y = 0;  // tokens/s/GPU, or tokens/s/rank where there is none
  double ttl_us = 0;
  double ttl_low_us = 0;  // over the repeats
  double ttl_high_us = 0;
  int64_t repeats = 0;
  std::optional<double> floor_share;
  std::optional<double> max_rel_err;
  std::optional<double> tolerance;
  Proof proof = Proof::unverified;
  bool frontier = false;
  bool hull = false;  // on the frontier of the Baseline's strategies together
};

// Dots that may be compared.
struct Panel {
  std::string model;
  std::string context;
  std::string precision;
  std::string routing;  // "" when it is not skewed
  std::string kind;     // "executed whole", "executed in part", "simulated"
  std::string executor;
  std::string machine;
  std::string hardware;  // "unknown" without an environment.json
  std::string unit;      // "GPU" or "rank"
  bool oversubscribed = false;
  std::set<std::string> commits;
  std::vector<Dot> dots;  // by strategy, then from the left
};

struct Frontier {
  std::vector<Panel> panels;
  int64_t skipped = 0;  // points whose last line is not ok
  int64_t failed = 0;
  std::vector<std::string> notes;
};

// "PP2 DP2 KVP4×TPA2→TPF8×EP2" of a layout in a line; widths of 1 are left out beside others.
std::string layout_text(const Json& layout);

// Which points no other beats in x and y, as indices from the left; equal ones stand together.
struct At {
  double x = 0;
  double y = 0;
};
std::vector<size_t> undominated(const std::vector<At>& points);

// Sets `frontier`, or another mark, of the dots of one curve.
void mark_frontier(const std::vector<Dot*>& curve, bool Dot::*mark = &Dot::frontier);

// Reads results files or folders. Throws InputError, also when no line is ok.
Frontier read_frontier(const std::vector<std::string>& paths);

// Round levels of x over the panel's range, and the most y a strategy's frontier gives at that x or
// more; none where nothing measured reaches it.
struct AtInteractivity {
  std::vector<double> levels;
  std::map<std::string, std::vector<std::optional<double>>> best;  // by strategy
};
AtInteractivity at_interactivity(const Panel& panel);

// "helix-bench/frontier/1": the panels as above; analysis/ draws them and decides nothing.
Json to_json(const Frontier& frontier);
// Tables and a plot in characters.
std::string to_text(const Frontier& frontier);

}  // namespace helix
