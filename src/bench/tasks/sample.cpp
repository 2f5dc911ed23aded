#include "bench/tasks/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "base/random.h"

namespace helix {

namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();

double difference(const Content& actual, int64_t row, int64_t index, double value) {
  if (row >= actual.rows || index >= actual.width) return infinite;
  const double is = actual.at(row, index);
  if (is == value) return 0;
  const double off = std::abs(is - value);
  return std::isnan(off) ? infinite : off;
}

}  // namespace

std::vector<int64_t> spread(int64_t count, int64_t most, uint64_t seed) {
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < std::min(count, most); ++i) {
    const Slice part = share(count, std::min(count, most), i);
    const auto drawn = static_cast<int64_t>(combine(seed, static_cast<uint64_t>(i)) %
                                            static_cast<uint64_t>(part.count));
    chosen.push_back(part.first + (i == 0                           ? 0
                                   : i == std::min(count, most) - 1 ? part.count - 1
                                                                    : drawn));
  }
  return chosen;
}

void Sample::expect_row(int64_t row, const std::vector<double>& values, int64_t first) {
  for (size_t i = 0; i < values.size(); ++i)
    expect(row, first + static_cast<int64_t>(i), values[i]);
}

double Sample::relative_error(const Content& actual) const {
  struct Row {
    double largest = 0, off = 0;
  };
  std::map<int64_t, Row> rows;
  for (const auto& [row, index, value] : all_) {
    Row& r = rows[row];
    r.largest = std::max(r.largest, std::abs(value));
    r.off = std::max(r.off, difference(actual, row, index, value));
  }
  double worst = 0;
  for (const auto& [row, r] : rows)
    if (r.off > 0) worst = std::max(worst, r.largest > 0 ? r.off / r.largest : infinite);
  return worst;
}

double Sample::absolute_error(const Content& actual) const {
  double worst = 0;
  for (const auto& [row, index, value] : all_) {
    const double off = difference(actual, row, index, value);
    worst = std::max(worst, std::isinf(off) ? infinite : off / std::max(1.0, std::abs(value)));
  }
  return worst;
}

}  // namespace helix
