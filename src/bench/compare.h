// `compare`: measured lines against the simulator, cover by cover, and what to do about it.
#pragma once

#include <string>
#include <vector>

#include "bench/pricer.h"

namespace helix {

struct ComparedCover {
  std::string name;
  double measured_us = 0;
  double simulated_us = 0;
  double share = 0;  // of all measured covers
  simulated::Bound bound = simulated::Bound::fixed;
  bool communicates = false;
  double error() const { return simulated_us / measured_us - 1; }
};
// Of several launches of a point (`run --repeat`), each time is their median.
struct ComparedPoint {
  std::string key;
  std::string text;
  // TTL; of a shard: its step without the exchanges, which were not measured.
  double measured_us = 0;
  double simulated_us = 0;
  std::string shard = {};
  bool oversubscribed = false;
  std::vector<ComparedCover> covers;  // in order of the step
};
struct CoverComparison {
  std::string machine;
  std::vector<ComparedPoint> points;
  std::vector<std::string> notes;
};

// Covers below this share of a step are shown in sums alone.
inline constexpr double least_share = 0.05;
// What is further off is advised about: by 20 % on a machine that was calibrated, by 25 % on one
// that was made by hand.
double error_allowed(const Machine& machine);

// Of the executed, ok lines of results files or folders. Throws InputError: no such line, or lines
// of another processor than the machine's.
CoverComparison compare(const std::vector<std::string>& results, const Machine& machine);
std::string to_text(const CoverComparison& comparison, const Machine& machine);
Json to_json(const CoverComparison& comparison);

}  // namespace helix
