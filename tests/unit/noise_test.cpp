// Steps repeated until their median is known: on times that are made up, with a known truth.
#include "bench/noise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "bench/statistics.h"

namespace helix {
namespace {

using testing::HasSubstr;

// How surely the median lies between the samples that the interval takes, of `n`.
double coverage(int n) {
  std::vector<double> samples;
  for (int i = 1; i <= n; ++i) samples.push_back(i);
  // The median is near n / 2; the width says how many samples are left out on each side.
  const double width = *median_error_percent(samples) / 100 * 2 * nearest_rank(samples, 50);
  const int below = (n - 1 - static_cast<int>(std::lround(width))) / 2 + 1;
  double outside = 0;  // the median below the `below`-th, or above the last but `below`
  for (int k = 0; k < below; ++k)
    outside += 2 * std::exp(std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1) -
                            n * std::log(2.0));
  return 1 - outside;
}

TEST(MedianError, TheIntervalHoldsTheMedianNineteenTimesOfTwenty) {
  for (int n = 6; n <= 1000; ++n) {
    EXPECT_GE(coverage(n), 0.93) << n;
    if (n > 30) {
      EXPECT_LE(coverage(n), 0.98) << n;
    }
  }
}

TEST(MedianError, FewSamplesSayNothing) {
  EXPECT_FALSE(median_error_percent(std::vector<double>{1, 1, 1, 1, 1}));
  EXPECT_EQ(median_error_percent(std::vector<double>(6, 3.0)), 0);
}

TEST(MedianError, IsHalfTheIntervalInPercentOfTheMedian) {
  // Of 10 samples the second to the ninth.
  const std::vector<double> samples = {100, 1, 99, 102, 98, 101, 103, 97, 1000, 104};
  EXPECT_NEAR(*median_error_percent(samples), 100 * (104 - 97) / 2.0 / 100, 1e-12);
}

// Times around 100 us with so much spread, step after step.
struct Steps {
  double spread;
  std::mt19937 draw{1};
  std::vector<int64_t> rounds = {};
  std::vector<double> operator()(int64_t count) {
    std::normal_distribution<double> times(100, spread);
    std::vector<double> samples;
    for (int64_t i = 0; i < count; ++i) samples.push_back(times(draw));
    rounds.push_back(count);
    return samples;
  }
};

TEST(Noise, WithoutATargetItIsOneRound) {
  Steps steps{.spread = 50};
  EXPECT_EQ(measure_until_quiet({}, 8, std::ref(steps)).size(), 8U);
  EXPECT_EQ(steps.rounds, std::vector<int64_t>{8});
}

TEST(Noise, StopsAtTheFirstRoundThatIsQuietEnough) {
  for (const double spread : {0.1, 1.0, 5.0, 20.0}) {
    Steps steps{.spread = spread};
    const NoiseTarget target{.percent = 1, .min_steps = 8, .max_steps = 100000};
    const std::vector<double> samples = measure_until_quiet(target, 8, std::ref(steps));
    EXPECT_LE(*median_error_percent(samples), 1) << spread;
    EXPECT_NEAR(nearest_rank(std::vector<double>(samples), 50), 100, 3 * spread) << spread;
    const std::vector<double> before(samples.begin(), samples.end() - 8);
    if (before.size() >= 8) {
      EXPECT_GT(*median_error_percent(before), 1) << spread;
    }
    // As many as a normal distribution takes: 1.25 spread / sqrt(n) is the median's deviation.
    const double expected = std::pow(1.96 * 1.25 * spread / 1, 2);
    EXPECT_LT(static_cast<double>(samples.size()), 16 + 3 * expected) << spread;
    EXPECT_GT(static_cast<double>(samples.size()), expected / 3) << spread;
  }
}

TEST(Noise, TakesAtLeastAndAtMostSoManySteps) {
  Steps quiet{.spread = 0};
  EXPECT_EQ(measure_until_quiet({.percent = 1, .min_steps = 20}, 8, std::ref(quiet)).size(), 24U);
  Steps loud{.spread = 50};
  const NoiseTarget target{.percent = 1, .min_steps = 8, .max_steps = 20};
  EXPECT_EQ(measure_until_quiet(target, 8, std::ref(loud)).size(), 20U);
  EXPECT_EQ(loud.rounds, (std::vector<int64_t>{8, 8, 4}));
  Steps endless{.spread = 50};
  EXPECT_EQ(measure_until_quiet({.percent = 1e-3}, 8, std::ref(endless)).size(), 800U);
}

TEST(Noise, UnderSixStepsNothingIsQuiet) {
  Steps steps{.spread = 0};
  EXPECT_EQ(measure_until_quiet({.percent = 1}, 2, std::ref(steps)).size(), 6U);
}

TEST(Noise, AnEmptyRoundEndsIt) {
  int rounds = 0;
  const auto stopped = [&](int64_t count) {
    ++rounds;
    return std::vector<double>(rounds < 3 ? static_cast<size_t>(count) : 0, 1.0 * rounds);
  };
  EXPECT_EQ(measure_until_quiet({.percent = 1e-3}, 4, stopped).size(), 8U);
}

NoiseTarget read(const std::string& text) { return read_noise(parse_json("f", text)); }
std::string refused(const std::string& text) {
  try {
    read(text);
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST(Noise, IsReadAsItIsWritten) {
  EXPECT_EQ(to_json(read("null")), Json());
  for (const char* text : {R"({"target_percent":1,"min_steps":16,"max_steps":64})",
                           R"({"target_percent":0.5,"min_steps":null,"max_steps":null})"})
    EXPECT_EQ(to_json(read(text)), Json::parse(text));
  EXPECT_EQ(to_json(read(R"({"target_percent": 2})"))["max_steps"], Json());
}

TEST(Noise, RefusesWhatIsNoTarget) {
  EXPECT_THAT(refused("1"), HasSubstr("f"));
  EXPECT_THAT(refused(R"({"min_steps": 3})"), HasSubstr("target_percent"));
  EXPECT_THAT(refused(R"({"target_percent": 0})"), HasSubstr("/target_percent"));
  EXPECT_THAT(refused(R"({"target_percent": 1, "min_steps": 0})"), HasSubstr("/min_steps"));
  EXPECT_THAT(refused(R"({"target_percent": 1, "min_steps": 9, "max_steps": 8})"),
              HasSubstr("/min_steps"));
  EXPECT_THAT(refused(R"({"target_percent": 1, "steps": 9})"), HasSubstr("steps"));
}

}  // namespace
}  // namespace helix
