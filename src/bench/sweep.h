// A sweep file: the product of its lists, less what is no legal layout, plus explicit points.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/point.h"

namespace helix {

struct Sweep {
  std::string name;
  // Distinct, in a stable order; points that share weights stand together.
  std::vector<Point> points;
  // Layouts of listed values that are not legal, counted by reason.
  std::map<std::string, int64_t> left_out;
  // The sweep as read, defaults filled in: results/NAME/sweep.json.
  Json resolved;
};

// Throws InputError for anything wrong with the file (README.md, "How to write a sweep").
Sweep read_sweep(const std::string& path);
// The same from a document; model paths in it are relative to `folder`.
Sweep read_sweep(const Node& document, const std::string& folder);

// The sweep of one point: `point` as in a result line.
Json sweep_of(const Node& point, const std::string& name, int64_t steps, int64_t warmup);

// The same of a line in a results file, named as RESULTS#KEY.
Json sweep_from(const std::string& from);
// The point of a result line.
Point point_of(const Node& line);
// A sweep file, or the one point that `from` names where it is not "".
Sweep read_sweep_or_line(const std::string& path, const std::string& from);

// The keys of a sweep, in the order of `resolved`.
std::span<const std::string_view> sweep_keys();

}  // namespace helix
