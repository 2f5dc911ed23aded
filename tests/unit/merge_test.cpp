// The merge of partial outputs, whole and by reduction, against its twins; empty parts and errors.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/reference.h"
#include "tests/unit/kernels.h"

namespace helix::cpu {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// Log-sum-exps up to 60 apart: their difference is rounded by up to 1.9e-6, and e^x makes that the
// relative error of a weight. The rest is some roundings of 6e-8.
constexpr double tolerance = 2.5e-6;

template <class T>
class Merge : public testing::Test {};
using Activations = testing::Types<float, bf16>;
TYPED_TEST_SUITE(Merge, Activations);

// `parts` random messages; a third of the log-sum-exps are -inf, with garbage beside them that must
// not be read.
template <class T>
std::vector<std::byte> random_messages(Random& random, const PartialLayout& part, int parts) {
  std::vector<std::byte> messages(static_cast<size_t>(parts * part.bytes()));
  for (int p = 0; p < parts; ++p) {
    for (int64_t i = 0; i < part.rows * part.heads; ++i) {
      const bool empty = random.integer(0, 2) == 0;
      const float lse = empty ? -infinity : 20 * random.normal();
      auto values = random.normals<T>(part.value_size);
      if (empty) std::ranges::fill(values, from_float<T>(NAN));
      std::byte* message = &messages[p * part.bytes()];
      std::memcpy(message + part.output_offset(0, i), values.data(), values.size() * sizeof(T));
      std::memcpy(message + part.lse_offset(0, i), &lse, sizeof lse);
    }
  }
  return messages;
}

TYPED_TEST(Merge, MatchesItsTwinAndTheSumOfRescaledParts) {
  Random random(9);
  for (int i = 0; i < 60; ++i) {
    const auto parts = static_cast<int>(random.integer(1, 8));
    const PartialLayout part{.rows = random.integer(1, 9),
                             .heads = random.pick<int64_t>({1, 3, 16}),
                             .value_size = random.pick<int64_t>({1, 8, 64, 100, 512}),
                             .element_bytes = sizeof(TypeParam)};
    const auto messages = random_messages<TypeParam>(random, part, parts);
    const int64_t vectors = part.rows * part.heads;
    std::vector<TypeParam> merged(static_cast<size_t>(vectors * part.value_size));
    std::vector<TypeParam> expected(merged.size());
    merge_partials(part, parts, messages.data(), merged.data());
    reference::merge_partials(part, parts, messages.data(), expected.data());
    expect_close(merged, expected, tolerance + rounding_of<TypeParam>, "merge");

    std::vector<float> lses(static_cast<size_t>(parts * vectors));
    for (int p = 0; p < parts; ++p) {
      std::memcpy(&lses[p * vectors], &messages[p * part.bytes() + part.lse_offset(0, 0)],
                  vectors * sizeof(float));
    }
    std::vector<double> sums(merged.size());
    std::vector<TypeParam> rescaled(merged.size());
    for (int p = 0; p < parts; ++p) {
      const std::byte* message = &messages[p * part.bytes()];
      rescale_partial(part, parts, message, lses.data(), rescaled.data());
      reference::rescale_partial(part, parts, message, lses.data(), expected.data());
      expect_close(rescaled, expected, tolerance + rounding_of<TypeParam>, "rescale");
      for (size_t j = 0; j < sums.size(); ++j) sums[j] += to_float(rescaled[j]);
    }
    for (size_t j = 0; j < sums.size(); ++j) {
      ASSERT_NEAR(sums[j], to_float(merged[j]), 4 * (tolerance + 2 * rounding_of<TypeParam>));
    }
  }
}

TYPED_TEST(Merge, EmptyPartsGiveZeroAndErrorsAreSeen) {
  const PartialLayout part{
      .rows = 1, .heads = 1, .value_size = 4, .element_bytes = sizeof(TypeParam)};
  const auto merged = [&](std::vector<float> lses) {
    std::vector<std::byte> messages(lses.size() * part.bytes());
    for (size_t p = 0; p < lses.size(); ++p) {
      const std::vector<TypeParam> values(4,
                                          from_float<TypeParam>(lses[p] == -infinity ? NAN : 3.0F));
      std::memcpy(&messages[p * part.bytes()], values.data(), 4 * sizeof(TypeParam));
      std::memcpy(&messages[p * part.bytes() + part.lse_offset(0, 0)], &lses[p], sizeof(float));
    }
    std::vector<TypeParam> out(4, from_float<TypeParam>(7.0F));
    merge_partials(part, static_cast<int>(lses.size()), messages.data(), out.data());
    return to_float(out[3]);
  };
  EXPECT_EQ(merged({-infinity}), 0);
  EXPECT_EQ(merged({-infinity, -infinity, -infinity}), 0);
  EXPECT_EQ(merged({-infinity, -200.0F, -infinity}), 3);
  EXPECT_TRUE(std::isnan(merged({NAN})));
  EXPECT_TRUE(std::isnan(merged({-infinity, NAN})));
  EXPECT_TRUE(std::isnan(merged({NAN, 2.0F})));
  EXPECT_TRUE(std::isnan(merged({1.0F, infinity})));
}

}  // namespace
}  // namespace helix::cpu
