// A sweep's slices are of equal work, and each point lies in one.
#include "bench/slices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "bench/sweep.h"
#include "sweeps.h"

namespace helix {
namespace {

std::vector<double> loads(const std::vector<double>& work, const std::vector<int64_t>& slice_of,
                          int64_t slices) {
  std::vector<double> loads(static_cast<size_t>(slices));
  for (size_t i = 0; i < work.size(); ++i)
    loads.at(static_cast<size_t>(slice_of[i] - 1)) += work[i];
  return loads;
}

// No two slices differ by more than the largest point, whatever the points are.
TEST(SlicesTest, AreOfEqualWork) {
  uint64_t state = 1;
  const auto next = [&](uint64_t below) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return (state >> 33) % below;
  };
  for (int round = 0; round < 200; ++round) {
    std::vector<double> work(next(60));
    for (double& w : work) w = static_cast<double>(1 + next(round % 2 == 0 ? 3 : 100'000));
    const auto slices = static_cast<int64_t>(1 + next(9));
    const std::vector<int64_t> slice_of = deal(work, slices);
    ASSERT_EQ(slice_of.size(), work.size());
    ASSERT_THAT(slice_of, testing::Each(testing::AllOf(testing::Ge(1), testing::Le(slices))));
    if (work.empty()) continue;
    const auto [least, most] = std::ranges::minmax(loads(work, slice_of, slices));
    EXPECT_LE(most - least, std::ranges::max(work));
  }
}

// Dealt in turn, one slice of two would get all the long contexts.
TEST(SlicesTest, LongContextsAreShared) {
  const Sweep sweep = read(with(R"({"context": [64, 200000], "batch": [1, 2, 3, 4]})"));
  Estimator estimate("");
  const std::vector<int64_t> slice_of = deal(estimate, sweep.points, 2);
  std::vector<int64_t> in_slice(2);
  for (size_t i = 0; i < sweep.points.size(); ++i)
    if (sweep.points[i].context.low == 200000) ++in_slice.at(static_cast<size_t>(slice_of[i] - 1));
  EXPECT_THAT(in_slice, testing::Each(testing::Gt(0)));
}

TEST(SlicesTest, MoreStepsAreMoreWork) {
  for (const char* machine : {"", "h200-sxm"}) {
    Estimator estimate(machine);
    const auto seconds = [&](const char* changes) {
      return estimate(read(with(changes)).points.at(0)).seconds;
    };
    const double plain = seconds("{}");
    EXPECT_GT(seconds(R"({"steps": 100})"), plain);
    EXPECT_GT(seconds(R"({"context": 100000})"), plain);
  }
}

TEST(SlicesTest, AMachinesPricesSayHowLong) {
  Estimator estimate("h200-sxm");
  Pricer pricer(read_machine("h200-sxm"));
  const Sweep sweep = read(with(R"({"batch": [1, 8], "context": [64, 200000]})"));
  for (const Point& point : sweep.points) {
    const Estimator::Estimate found = estimate(point);
    EXPECT_EQ(found.ttl_us, pricer.price(point).ttl_us);
    EXPECT_GT(found.seconds, 1e-6 * found.ttl_us * static_cast<double>(point.steps));
  }
  const Sweep large =
      read(with(R"({"model": "llama-3.1-405b", "ranks": 1, "strategy": "tp", "context": 1000})"));
  EXPECT_THAT(estimate(large.points.at(0)).why_not, testing::HasSubstr("GB a rank"));
}

TEST(SlicesTest, SlurmOptions) {
  EXPECT_EQ(slurm_options(8, 0, 0, 8), "--nodes=1 --ntasks-per-node=8 --mem=15G --time=00:10:00");
  EXPECT_EQ(slurm_options(64, 100e9, 2000, 4),
            "--nodes=16 --ntasks-per-node=4 --mem=455G --time=01:07:00");
  // No node gets more ranks than another for nothing.
  EXPECT_THAT(slurm_options(12, 0, 0, 8), testing::HasSubstr("--nodes=2 --ntasks-per-node=6 "));
  EXPECT_THAT(slurm_options(1, 0, 1e18, 8), testing::HasSubstr("--time=12:00:00"));
}

}  // namespace
}  // namespace helix
