// Percentiles are nearest ranks, against counting.
#include "bench/statistics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace helix {
namespace {

std::vector<double> one_to(int n) {
  std::vector<double> samples(static_cast<size_t>(n));
  std::iota(samples.begin(), samples.end(), 1);
  return samples;
}

TEST(Statistics, OneSampleIsEveryPercentile) {
  const Statistics one = statistics(std::vector<double>{7});
  for (const double value : {one.median, one.p05, one.p90, one.p95, one.min, one.max})
    EXPECT_EQ(value, 7);
  EXPECT_FALSE(one.p99);
}

TEST(Statistics, OfOneToAHundredThePercentileIsItsNumber) {
  std::vector<double> samples = one_to(100);
  std::shuffle(samples.begin(), samples.end(), std::mt19937(1));
  const Statistics all = statistics(samples);
  EXPECT_EQ(all.p05, 5);
  EXPECT_EQ(all.median, 50);
  EXPECT_EQ(all.p90, 90);
  EXPECT_EQ(all.p95, 95);
  EXPECT_EQ(all.p99, 99);
  EXPECT_EQ(all.min, 1);
  EXPECT_EQ(all.max, 100);
}

TEST(Statistics, P99NeedsAHundredSamples) {
  EXPECT_FALSE(statistics(one_to(99)).p99);
  EXPECT_EQ(statistics(one_to(101)).p99, 100);
}

TEST(Statistics, ThePercentileIsTheSmallestSampleThatReachesTheShare) {
  for (int n = 1; n <= 300; ++n) {
    const std::vector<double> sorted = one_to(n);
    for (const int percent : {1, 5, 50, 90, 95, 99, 100}) {
      const double value = nearest_rank(sorted, percent);
      // In integers: value of n samples do not exceed it.
      EXPECT_GE(static_cast<int>(value) * 100, percent * n) << n << " " << percent;
      EXPECT_LT((static_cast<int>(value) - 1) * 100, percent * n) << n << " " << percent;
    }
  }
}

}  // namespace
}  // namespace helix
