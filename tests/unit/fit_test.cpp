// Factors are found again from the times that they make.
#include "machine/fit.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"

namespace helix {
namespace {

class Draw {
 public:
  explicit Draw(uint64_t key) : key_(key) {}
  double operator()(double low, double high) {  // evenly in the logarithm
    const auto bits = static_cast<double>(combine(key_, count_++) >> 11);
    return low * std::pow(high / low, bits * 0x1p-53);
  }

 private:
  uint64_t key_;
  uint64_t count_ = 0;
};

constexpr TaskFactors low = {.fixed_us = 1e-3, .read = 1e-3, .compute = 1e-3, .link = 1};
constexpr TaskFactors high = {.fixed_us = 1e4, .read = 1, .compute = 1, .link = 1};
constexpr TaskFactors expected = {.fixed_us = 1, .read = 0.5, .compute = 0.5, .link = 1};

// Tasks of every kind: short ones that are all fixed time, long ones that read, or compute.
std::vector<TimedTask> tasks_of(Draw& draw, const TaskFactors& truth, double noise) {
  std::vector<TimedTask> tasks;
  for (int i = 0; i < 40; ++i) {
    TimedTask task{.read_us = draw(0.1, 300), .compute_us = draw(0.1, 300)};
    task.us = truth.us(task) * draw(1 / (1 + noise), 1 + noise);
    tasks.push_back(task);
  }
  return tasks;
}

TEST(Fit, FindsTheFactors) {
  for (uint64_t round = 0; round < 30; ++round) {
    Draw draw(round);
    const TaskFactors truth = {
        .fixed_us = draw(0.2, 20), .read = draw(0.1, 1), .compute = draw(0.1, 1), .link = 1};
    const TaskFit fit = fit_factors(tasks_of(draw, truth, 0), expected, low, high);
    EXPECT_NEAR(fit.factors.fixed_us, truth.fixed_us, 0.05 * truth.fixed_us + 0.05) << round;
    EXPECT_NEAR(fit.factors.read / truth.read, 1, 0.02) << round;
    EXPECT_NEAR(fit.factors.compute / truth.compute, 1, 0.02) << round;
    EXPECT_LT(fit.worst_error, 0.02) << round;
  }
}

TEST(Fit, NoiseAndDisturbedTasksMoveItLittle) {
  for (uint64_t round = 0; round < 30; ++round) {
    Draw draw(1000 + round);
    const TaskFactors truth = {.fixed_us = 2, .read = 0.4, .compute = 0.6, .link = 1};
    std::vector<TimedTask> tasks = tasks_of(draw, truth, 0.05);
    tasks[3].us *= 30;
    tasks[17].us *= 10;
    const TaskFit fit = fit_factors(tasks, expected, low, high);
    EXPECT_NEAR(fit.factors.read / truth.read, 1, 0.15) << round;
    EXPECT_NEAR(fit.factors.compute / truth.compute, 1, 0.15) << round;
    EXPECT_GT(fit.worst_error, 0.8) << round;  // and it is said
  }
}

TEST(Fit, WhatTasksDoNotTellStaysAsExpected) {
  std::vector<TimedTask> tasks;
  for (const double read : {10.0, 20.0, 40.0, 80.0})
    tasks.push_back({.us = 1 + read / 0.5, .read_us = read, .compute_us = read / 1e3});
  const TaskFit fit = fit_factors(tasks, expected, low, high);
  EXPECT_NEAR(fit.factors.read, 0.5, 0.02);
  EXPECT_NEAR(fit.factors.compute, expected.compute, 0.05);
}

TEST(Fit, BoundsHold) {
  // Faster than the peak: the efficiency stays 1, and the error is said.
  const std::vector<TimedTask> tasks = {{.us = 5, .read_us = 10}, {.us = 50, .read_us = 100}};
  const TaskFit fit = fit_factors(tasks, expected, low, high);
  EXPECT_LE(fit.factors.read, 1);
  EXPECT_GT(fit.worst_error, 0.9);
  TaskFactors pinned = high;
  pinned.fixed_us = 1e-3;
  EXPECT_EQ(fit_factors(tasks, expected, low, pinned).factors.fixed_us, 1e-3);
}

}  // namespace
}  // namespace helix
