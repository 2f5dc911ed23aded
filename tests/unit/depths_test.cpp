// A whole model from two depths.
#include "bench/depths.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace helix {
namespace {

Measured measured(std::vector<double> samples, double attention, double floor) {
  Measured m;
  m.samples_us = std::move(samples);
  m.tasks_us = {{"embed", 5}, {"attention", attention}};
  m.exchange = ExchangeTimes{.alone = attention / 2, .exposed = attention / 4};
  m.roofline = Roofline{.bytes = floor * 1e3, .flops = floor, .floor_us = floor};
  m.weight_bytes = static_cast<int64_t>(floor);
  return m;
}

// What grows by the layer is continued, whatever is fixed stays, and the spread is that of the
// deeper.
TEST(Depths, ContinueALine) {
  constexpr int64_t layers = 61;
  for (const auto& [a, b] : {std::pair<int64_t, int64_t>{3, 4}, {2, 10}, {60, 61}}) {
    const auto ttl = [](int64_t depth) { return 100 + 7 * static_cast<double>(depth); };
    const Measured whole = whole_model(
        measured({ttl(a) - 1, ttl(a), ttl(a) + 2}, 2.0 * double(a), double(a)),
        measured({ttl(b) - 3, ttl(b), ttl(b) + 30}, 2.0 * double(b), double(b)), {a, b}, layers);
    ASSERT_EQ(whole.samples_us.size(), 3U);
    EXPECT_NEAR(whole.samples_us[0], ttl(layers) - 3, 1e-9);
    EXPECT_NEAR(whole.samples_us[1], ttl(layers), 1e-9);
    EXPECT_NEAR(whole.samples_us[2], ttl(layers) + 30, 1e-9);
    EXPECT_NEAR(whole.tasks_us[0].second, 5, 1e-9);
    EXPECT_NEAR(whole.tasks_us[1].second, 2.0 * layers, 1e-9);
    EXPECT_NEAR(whole.exchange->alone, layers, 1e-9);
    EXPECT_NEAR(whole.roofline->bytes, 1e3 * layers, 1e-6);
    EXPECT_NEAR(whole.roofline->floor_us, layers, 1e-9);
    EXPECT_EQ(whole.weight_bytes, b);  // as allocated
    ASSERT_EQ(whole.depths.size(), 2U);
    EXPECT_EQ(whole.depths[0].layers, a);
    EXPECT_EQ(whole.depths[1].samples_us.back(), ttl(b) + 30);
  }
}

TEST(Depths, NoiseIsNoModel) {
  for (const double deep : {100.0, 99.0})
    EXPECT_THROW(
        static_cast<void>(whole_model(measured({100}, 1, 1), measured({deep}, 2, 2), {3, 4}, 61)),
        RunError);
}

// A task of the shallower model may by chance have taken longer: it is taken not to grow.
TEST(Depths, ATaskNeverTakesLessThanNothing) {
  const Measured whole = whole_model(measured({100}, 9, 1), measured({110}, 8, 2), {3, 4}, 61);
  EXPECT_EQ(whole.tasks_us[1].second, 8);
}

}  // namespace
}  // namespace helix
