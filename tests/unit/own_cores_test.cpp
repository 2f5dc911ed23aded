// Timed tasks wait for a core that something else uses, and not for ever.
#include "execute/cpu/own_cores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

namespace helix::cpu {
namespace {

// The rates that are given, then the last of them again and again.
std::function<double()> rates(std::vector<double> given) {
  return [given = std::move(given), next = size_t{0}]() mutable {
    return given[std::min(next++, given.size() - 1)];
  };
}

TEST(OwnCore, IsOneNearTheBestRateThatWasSeen) {
  OwnCore core(rates({0.6, 0.6, 1, 0.98, 0.9, 0.6, 1}), std::chrono::microseconds(1));
  std::vector<bool> own;
  for (int i = 0; i < 7; ++i) {
    own.push_back(core.now());
    std::this_thread::sleep_for(std::chrono::microseconds(2));
  }
  EXPECT_EQ(own, std::vector<bool>({true, true, true, true, false, false, true}));
}

TEST(OwnCore, IsOneAgainAfterACalm) {
  OwnCore core(rates({1, 0.6, 1}), std::chrono::milliseconds(20));
  EXPECT_TRUE(core.now());
  EXPECT_FALSE(core.now());
  const auto shared = std::chrono::steady_clock::now();
  while (!core.now()) {
  }
  EXPECT_GE(std::chrono::steady_clock::now() - shared, std::chrono::milliseconds(19));
}

TEST(OwnCore, AdditionsAreCarriedOut) {
  const double rate = additions_per_s();
  EXPECT_GT(rate, 1e7);
  EXPECT_LT(rate, 2e11);  // of a loop that was summed up there would be more
}

// A stage of this rank, and of one that agrees from the given call on.
class Stage final : public Exchange {
 public:
  explicit Stage(int agrees_from = 0) : agrees_from_(agrees_from) {}
  bool progress(const Task&, bool) override { return true; }
  void observe(StepState&) const override {}
  void plan(const Shift&) override {}
  void barrier() const override {}
  bool stage_agrees(bool mine) const override { return calls_++ >= agrees_from_ && mine; }
  int calls() const { return calls_; }

 private:
  int agrees_from_;
  mutable int calls_ = 0;
};

TEST(Waits, UntilTheCoreIsItsOwn) {
  Patience patience(1e9, 0);
  OwnCores cores(rates({1, 0.5, 0.5, 0.5, 1}), patience);
  Stage first, second;
  cores.wait(first);
  EXPECT_EQ(first.calls(), 1);
  EXPECT_EQ(cores.notes().waited_us, 0);
  cores.wait(second);
  EXPECT_GE(second.calls(), 4);
  EXPECT_GT(cores.notes().waited_us, 0);
  EXPECT_EQ(cores.notes().runs, 2);
  EXPECT_EQ(cores.notes().shared, 0);
}

TEST(Waits, ForTheOthersOfItsStage) {
  Patience patience(1e9, 0);
  OwnCores cores(rates({1}), patience);
  Stage stage(3);
  cores.wait(stage);
  EXPECT_EQ(stage.calls(), 4);
  EXPECT_EQ(cores.notes().shared, 0);
}

TEST(Waits, NoLongerThanItsPatienceAndSaysSo) {
  Patience patience(1000, 0);
  OwnCores cores(rates({1, 0.5}), patience);
  Stage stage, next;
  cores.wait(stage);
  cores.wait(stage);
  EXPECT_GE(cores.notes().waited_us, 1000);
  EXPECT_EQ(cores.notes().shared, 1);
  cores.wait(next);
  EXPECT_EQ(next.calls(), 1);
  EXPECT_EQ(cores.notes().shared, 2);
}

TEST(Runs, ThoseOnSharedCoresTakeAsLongAsTheOthers) {
  Runs runs;
  EXPECT_EQ(runs.us(), 0);
  runs.add(15, false);
  runs.add(16, false);
  EXPECT_EQ(runs.us(), 31);
  runs.add(10, true);
  runs.add(12, true);
  EXPECT_EQ(runs.us(), 44);
}

TEST(Patience, GrowsByAShareOfTheTimeThatPasses) {
  const Patience none(0, 0), grows(0, 1e6);  // a second each microsecond
  EXPECT_TRUE(none.over(0));
  const auto began = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - began < std::chrono::microseconds(100)) {
  }
  EXPECT_FALSE(grows.over(1e7));
  EXPECT_TRUE(none.over(0));
}

}  // namespace
}  // namespace helix::cpu
