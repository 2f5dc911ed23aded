// The driver's management library, played by functions of our own.
#include "machine/nvml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace helix {
namespace {

using testing::ElementsAre;

struct Played {
  int begun = 0, ended = 0;
  std::string asked;
  unsigned long long millijoules = 0, reasons = 0, power_ns = 0, thermal_ns = 0;
  unsigned mhz = 1755;
  int code = 0;  // of every question
};
Played played;

NvmlFunctions functions() {
  NvmlFunctions f;
  f.init = [] { return ++played.begun, 0; };
  f.shutdown = [] { return ++played.ended, 0; };
  f.device_by_bus_id = [](const char* id, void** device) {
    played.asked = id;
    *device = &played;
    return played.asked == "0000:1B:00.0" ? 0 : 6;
  };
  f.energy = [](void*, unsigned long long* mj) { return *mj = played.millijoules, played.code; };
  f.throttle_reasons = [](void*, unsigned long long* r) {
    return *r = played.reasons, played.code;
  };
  f.violation = [](void*, int policy, NvmlFunctions::Violation* time) {
    time->violation_ns = policy == 0 ? played.power_ns : played.thermal_ns;
    return played.code;
  };
  f.clock = [](void*, int, unsigned* mhz) { return *mhz = played.mhz, played.code; };
  f.memory = [](void*, NvmlFunctions::Memory* m) { return *m = {80, 70, 10}, played.code; };
  return f;
}

class Nvml : public testing::Test {
 protected:
  void SetUp() override { played = {}; }
};

TEST_F(Nvml, SaysWhatTheCardSays) {
  played.millijoules = 1500;
  const CardMonitor card("0000:1B:00.0", functions());
  ASSERT_TRUE(card);
  EXPECT_EQ(card.energy_j(), 1.5);
  EXPECT_EQ(card.sm_clock_mhz(), 1755);
  EXPECT_EQ(card.free_bytes(), 70);
}

TEST_F(Nvml, BeginsAndEndsOnceWhereverItIsMoved) {
  {
    CardMonitor first("0000:1B:00.0", functions());
    CardMonitor second = std::move(first);
    first = std::move(second);
    EXPECT_TRUE(first);
  }
  EXPECT_EQ(played.begun, 1);
  EXPECT_EQ(played.ended, 1);
}

TEST_F(Nvml, NamesWhatHoldsTheClocksDownAndNotIdlenessOrSettings) {
  CardMonitor card("0000:1B:00.0", functions());
  played.reasons = 0x1 | 0x2 | 0x100;
  EXPECT_EQ(card.throttled(), 0U);
  played.reasons |= 0x4 | 0x40;
  EXPECT_THAT(throttle_names(card.throttled()),
              ElementsAre("power cap", "hardware thermal slowdown"));
}

TEST_F(Nvml, NoticesWhatHeldThemDownInBetween) {
  played.power_ns = 100;  // long ago
  CardMonitor card("0000:1B:00.0", functions());
  EXPECT_EQ(card.throttled_since(), 0U);
  played.power_ns += 1;
  EXPECT_THAT(throttle_names(card.throttled_since()), ElementsAre("power cap"));
  EXPECT_EQ(card.throttled_since(), 0U);
  played.thermal_ns += 5;
  played.reasons = 0x80;
  EXPECT_THAT(throttle_names(card.throttled_since()),
              ElementsAre("thermal slowdown", "power brake"));
}

void expect_nothing(CardMonitor& card) {
  EXPECT_FALSE(card.energy_j() || card.sm_clock_mhz() || card.free_bytes());
  EXPECT_EQ(card.throttled() | card.throttled_since(), 0U);
}

TEST_F(Nvml, WhatDoesNotAnswerIsUnknown) {
  CardMonitor other("0000:00:00.0", functions());
  EXPECT_FALSE(other);
  expect_nothing(other);
  CardMonitor without("0000:1B:00.0", NvmlFunctions{});
  EXPECT_FALSE(without);
  expect_nothing(without);
  CardMonitor none;
  expect_nothing(none);
  NvmlFunctions few = functions();
  few.energy = nullptr;
  few.throttle_reasons = nullptr;
  few.violation = nullptr;
  few.clock = nullptr;
  few.memory = nullptr;
  CardMonitor old("0000:1B:00.0", few);
  EXPECT_TRUE(old);
  expect_nothing(old);
  CardMonitor silent("0000:1B:00.0", functions());
  played.code = 3;  // not supported
  played.reasons = 0x4;
  expect_nothing(silent);
}

TEST_F(Nvml, EndsWhatItBeganThoughTheCardIsUnknown) {
  { const CardMonitor card("0000:00:00.0", functions()); }
  EXPECT_EQ(played.begun, played.ended);
}

}  // namespace
}  // namespace helix
