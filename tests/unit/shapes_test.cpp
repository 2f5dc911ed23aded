// Times between shapes that were timed: met at each of them, between their neighbours elsewhere,
// and without a jump anywhere.
#include "execute/simulate/shapes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace helix::simulated {
namespace {

using Timed = std::vector<Machine::TimedShape>;

// A product's: 3 us, 4 TB/s, 100 TFLOP/s; its FLOPs bound it from 25 rows on.
double factors(const Shape& s) {
  const double reading = s.bytes / 4e6, computing = s.count * s.bytes * s.flops_a_byte / 1e8;
  return 3 + std::max(reading, computing);
}

struct Grid {
  std::vector<double> bytes, counts;
  Timed timed;
};

// Times that grow with bytes and with requests; some series lack some of the counts.
Grid random_grid(std::mt19937& random, bool whole) {
  std::uniform_real_distribution<double> share(0, 1);
  Grid grid;
  for (double bytes = 1e5; bytes < 1e9; bytes *= 2 + 20 * share(random))
    grid.bytes.push_back(bytes);
  for (double count = 1; count < 100; count *= 1.5 + 4 * share(random))
    grid.counts.push_back(count);
  std::vector<double> before(grid.counts.size(), 1);
  for (const double bytes : grid.bytes) {
    double us = 0;
    for (size_t i = 0; i < before.size(); ++i) {
      us = before[i] = std::max(us, before[i]) * (1 + 3 * share(random));
      if (whole || i == 0 || share(random) < 0.7)
        grid.timed.push_back({{2, 1, bytes, grid.counts[i]}, us});
    }
  }
  std::ranges::shuffle(grid.timed, random);
  return grid;
}

Shape shape(double bytes, double count) { return {2, 1, bytes, count}; }

TEST(TimedShapes, AShapeThatWasTimedTakesItsTime) {
  std::mt19937 random(1);
  for (int i = 0; i < 50; ++i) {
    const Grid grid = random_grid(random, i % 2 == 0);
    const TimedShapes times(grid.timed);
    for (const auto& [at, us] : grid.timed) EXPECT_NEAR(times.us(at, factors) / us, 1, 1e-9);
  }
}

TEST(TimedShapes, OthersTakeNoLessThanSmallerOnes) {
  std::mt19937 random(2);
  for (int i = 0; i < 50; ++i) {
    const Grid grid = random_grid(random, true);
    const TimedShapes times(grid.timed);
    const auto within = [](const std::vector<double>& known, double x) {
      return known.front() <= x && x <= known.back();
    };
    for (double bytes = 3e4; bytes < 3e9; bytes *= 1.7)
      for (double count = 0.5; count < 300; count *= 1.3) {
        const double us = (1 - 1e-9) * times.us(shape(bytes, count), factors);
        if (within(grid.counts, count)) {
          EXPECT_GE(times.us(shape(bytes * 1.1, count), factors), us) << bytes;
        }
        if (within(grid.bytes, bytes)) {
          EXPECT_GE(times.us(shape(bytes, count * 1.1), factors), us) << count;
        }
      }
  }
}

// Also where series have different counts, and beyond the ends of all of them.
TEST(TimedShapes, NothingJumps) {
  constexpr double step = 1e-6;
  std::mt19937 random(3);
  for (int i = 0; i < 50; ++i) {
    const Grid grid = random_grid(random, i % 2 == 0);
    const TimedShapes times(grid.timed);
    const auto jump = [&](const Shape& below, const Shape& above) {
      return std::abs(std::log(times.us(above, factors) / times.us(below, factors)));
    };
    std::vector<double> bytes = grid.bytes, counts = grid.counts;
    bytes.insert(bytes.end(), {3e4, 2.2e6, 5e7, 7e9});
    counts.insert(counts.end(), {0.7, 3.3, 11, 29, 170});
    for (const double b : bytes)
      for (const double c : counts) {
        EXPECT_LT(jump(shape(b * (1 - step), c), shape(b * (1 + step), c)), 100 * step);
        EXPECT_LT(jump(shape(b, c * (1 - step)), shape(b, c * (1 + step))), 100 * step);
      }
  }
}

// A kernel that takes 10 us for any number of rows, of which the factors believe that its FLOPs
// bound it from 24 rows on. Control: its share of what they make of it, interpolated in its place.
TEST(TimedShapes, AFlatKernelStaysFlat) {
  const auto bound = [](const Shape& s) { return 5 * std::max(1.0, s.count / 24); };
  const Timed flat = {{shape(1e6, 1), 10}, {shape(1e6, 8), 10}, {shape(1e6, 64), 10}};
  const TimedShapes times(flat);
  for (const double count : {1.0, 2.0, 8.0, 24.0, 48.0, 64.0})
    EXPECT_NEAR(times.us(shape(1e6, count), bound), 10, 1e-9) << count;
  const auto share = [&](double count) { return 10 / bound(shape(1e6, count)); };
  const double between = std::log(24.0 / 8) / std::log(64.0 / 8);
  const double interpolated = std::pow(share(8), 1 - between) * std::pow(share(64), between);
  EXPECT_LT(interpolated * bound(shape(1e6, 24)), 7);
}

TEST(TimedShapes, BeyondTheEndsTheFactorsSay) {
  const Timed timed = {{shape(1e6, 1), 20}, {shape(1e6, 8), 30}, {shape(8e6, 8), 50}};
  const TimedShapes times(timed);
  const auto grown = [&](const Shape& to, const Shape& from) {
    return times.us(to, factors) / times.us(from, factors) / (factors(to) / factors(from));
  };
  EXPECT_NEAR(grown(shape(1e6, 100), shape(1e6, 8)), 1, 1e-9);
  EXPECT_NEAR(grown(shape(9e7, 8), shape(8e6, 8)), 1, 1e-9);
  EXPECT_NEAR(grown(shape(1e4, 1), shape(1e6, 1)), 1, 1e-9);
}

// Another format, and more heads that share a history: the nearest kernel, by the factors.
TEST(TimedShapes, AKernelDecidesAboutItsOwnShapes) {
  const Timed timed = {{{2, 4, 1e6, 4}, 20}, {{1, 4, 1e6, 4}, 30}, {{1, 400, 1e6, 4}, 400}};
  const TimedShapes times(timed);
  for (const auto& [at, us] : timed) EXPECT_NEAR(times.us(at, factors), us, 1e-9);
  const Shape between = {1, 200, 1e6, 4};
  EXPECT_NEAR(times.us(between, factors), 400 * factors(between) / factors(timed[2].shape), 1e-9);
  EXPECT_NEAR(times.us({0.5625, 4, 1e6, 4}, factors), 30, 1e-9);
}

}  // namespace
}  // namespace helix::simulated
