// The `exclude` list of a sweep: points whose fields match an object of it are left out.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "bench/sweep_axes.h"

namespace helix {

class Exclusion {
 public:
  Exclusion(const Node& object, Models& models);
  // Whether the fields that all points of a layout share match; the load is asked for next.
  bool matches_layout(const Point& point) const { return all(layout_, point); }
  bool matches_load(const Point& point) const { return all(load_, point); }

 private:
  using Test = std::function<bool(const Point&)>;
  static bool all(const std::vector<Test>& tests, const Point& point) {
    return std::ranges::all_of(tests, [&](const Test& test) { return test(point); });
  }
  void add_layout_tests(const Node& object, Models& models);
  void add_load_tests(const Node& object);
  std::vector<Test> layout_;
  std::vector<Test> load_;
};

std::vector<Exclusion> read_exclusions(const Node& list, Models& models);

}  // namespace helix
