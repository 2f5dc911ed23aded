// Which elements of a task's result are held against the judge, and how far off they are.
#pragma once

#include <cstdint>
#include <vector>

#include "bench/tasks/record.h"

namespace helix {

// At most `most` of [0, count), ascending: both ends, and one of each equal part between, drawn.
std::vector<int64_t> spread(int64_t count, int64_t most, uint64_t seed);

// What the judge expects of some elements.
class Sample {
 public:
  void expect(int64_t row, int64_t index, double value) { all_.push_back({row, index, value}); }
  // A row's numbers from `first` on.
  void expect_row(int64_t row, const std::vector<double>& values, int64_t first = 0);

  // The worst row's max |a - b| / max |b|; infinite where one is no number, or not there.
  double relative_error(const Content& actual) const;
  // The worst |a - b| / max(1, |b|); infinities are equal to themselves.
  double absolute_error(const Content& actual) const;

 private:
  struct Element {
    int64_t row, index;
    double value;
  };
  std::vector<Element> all_;
};

}  // namespace helix
