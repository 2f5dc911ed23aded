// A sweep file: the product of its lists, less what is no legal layout, plus explicit points.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "bench/point.h"

namespace helix {

struct Sweep {
  std::string name;
  std::vector<Point> points;                // distinct, stable order; points that share weights stand together
  std::map<std::string, int64_t> left_out;  // combinations that are no legal layout, counted by reason
  Json resolved;                            // the sweep as read, defaults filled in: results/NAME/sweep.json
};

// Throws InputError for anything wrong with the file (README.md, "How to write a sweep").
Sweep read_sweep(const std::string& path);

}  // namespace helix
