// fp8 and nvfp4: every code, and the values between codes, against a search over all of them.
#include "base/format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"

namespace helix {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

static_assert(to_float(to_fp8(-1.0625F)) == -1.0F);  // a tie, at compile time

// What code `i` means, from the format's definition.
double e4m3(int i) {
  const int exponent = i >> 3 & 15;
  const int fraction = i & 7;
  const double size =
      exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return i < 128 ? size : -size;
}
double e2m1(int i) {
  const int exponent = i >> 1 & 3;
  const double size = exponent == 0 ? (i & 1) / 2.0 : std::ldexp(2 + (i & 1), exponent - 2);
  return i < 8 ? size : -size;
}

// The code nearest to `value`, of equals the even one, among codes [0, count) of one sign.
int nearest(double value, int count, double (*meaning)(int)) {
  int best = 0;
  for (int i = 1; i < count; ++i) {
    const double gain =
        std::abs(meaning(best) - std::abs(value)) - std::abs(meaning(i) - std::abs(value));
    if (gain > 0 || (gain == 0 && i % 2 == 0)) best = i;
  }
  return std::signbit(value) ? best + (meaning == e4m3 ? 128 : 8) : best;
}

// Around each code and each middle between neighbours, and beyond the ends.
template <class Check>
void for_values_between(int count, double (*meaning)(int), Check check) {
  const auto both_signs = [&](float value) { check(value), check(-value); };
  for (int i = 0; i < count; ++i) {
    const double next = i + 1 < count ? meaning(i + 1) : 1.5 * meaning(i);
    for (int step = 0; step <= 32; ++step) {
      const auto value = static_cast<float>(meaning(i) + (next - meaning(i)) * step / 32);
      both_signs(value);
      both_signs(std::nextafter(value, infinity));
      both_signs(std::nextafter(value, 0.0F));
    }
  }
  for (const float value : {1e-38F, 1e-45F, 1e10F, std::numeric_limits<float>::max(), infinity})
    both_signs(value);
}

TEST(Fp8, EveryCodeIsWhatItsBitsSay) {
  for (int i = 0; i < 256; ++i) {
    const fp8 code{static_cast<uint8_t>(i)};
    if ((i & 127) == 127) {
      EXPECT_TRUE(std::isnan(to_float(code)));
      continue;
    }
    EXPECT_EQ(to_float(code), e4m3(i)) << i;
    EXPECT_EQ(std::signbit(to_float(code)), i >= 128);
    EXPECT_EQ(to_fp8(to_float(code)).bits, i);
  }
}

TEST(Fp8, RoundsToTheNearestCodeTiesToEven) {
  for_values_between(127, e4m3, [](float value) {
    EXPECT_EQ(
        to_fp8(value).bits,
        nearest(std::min(std::abs(value), 448.0F) * (std::signbit(value) ? -1.0 : 1.0), 127, e4m3))
        << value;
  });
  EXPECT_EQ(to_fp8(infinity).bits, 0x7e);
  EXPECT_EQ(to_fp8(-infinity).bits, 0xfe);
  EXPECT_EQ(to_fp8(NAN).bits & 0x7f, 0x7f);
  EXPECT_EQ(to_fp8(-NAN).bits & 0x7f, 0x7f);
}

TEST(E2m1, EveryCodeAndTheNearest) {
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(from_e2m1(static_cast<unsigned>(i)), e2m1(i));
    EXPECT_EQ(to_e2m1(from_e2m1(static_cast<unsigned>(i))), static_cast<unsigned>(i));
  }
  for_values_between(8, e2m1, [](float value) {
    const double within = std::min(std::abs(value), 6.0F) * (std::signbit(value) ? -1.0 : 1.0);
    EXPECT_EQ(static_cast<int>(to_e2m1(value)), nearest(within, 8, e2m1)) << value;
  });
  EXPECT_EQ(to_e2m1(NAN) & 7U, 0U);
}

// Blocks of a tensor with its planes in one piece of memory.
struct Blocks {
  explicit Blocks(int64_t count, float scale)
      : count(count),
        memory(static_cast<size_t>(count / 16 * 9)),
        values(values_at<nvfp4>(memory.data(), count, scale)) {}
  int64_t count;
  std::vector<std::byte> memory;
  Values<nvfp4> values;
};

TEST(Nvfp4, BlockScaleThenCodesAsTheRuleSays) {
  for (const float scale : {1.0F, 0.0625F, 0.3F}) {
    constexpr int64_t count = 1600;
    Blocks blocks(count, scale);
    std::vector<float> from(count);
    for (int64_t i = 0; i < count; ++i)  // blocks of very different sizes
      from[i] = uniform_at(7, static_cast<uint64_t>(i)) *
                std::ldexp(1.0F, static_cast<int>(i / 16 % 12) - 6);
    encode(from.data(), count, blocks.values);
    std::vector<float> back(count);
    decode(blocks.values, count, back.data());
    for (int64_t block = 0; block < count / 16; ++block) {
      double largest = 0;
      for (int64_t i = block * 16; i < block * 16 + 16; ++i)
        largest = std::max(largest, std::abs(double{from[i]}));
      const auto ideal = static_cast<float>(largest / 6 / scale);
      EXPECT_EQ(blocks.values.scales[block].bits, nearest(ideal, 127, e4m3));
      const double step = e4m3(blocks.values.scales[block].bits) * double{scale};
      for (int64_t i = block * 16; i < block * 16 + 16; ++i) {
        const unsigned byte = blocks.values.codes[i / 2];
        const unsigned code = i % 2 == 0 ? byte & 15U : byte >> 4;
        EXPECT_NEAR(back[i], e2m1(static_cast<int>(code)) * step, 1e-6 * step);
        const float ratio = from[i] * (1 / static_cast<float>(step));
        const double within = std::min(std::abs(ratio), 6.0F) * (ratio < 0 ? -1.0 : 1.0);
        EXPECT_EQ(static_cast<int>(code), nearest(within, 8, e2m1)) << ratio;
      }
    }
  }
}

TEST(Nvfp4, ZeroTinyHugeAndNaN) {
  Blocks blocks(64, 1);
  std::vector<float> from(64, 0.0F);
  std::fill_n(from.begin() + 16, 16, 1e-4F);  // 6 of the least scale is 0.012
  std::fill_n(from.begin() + 32, 16, -1e9F);
  from[50] = NAN;
  encode(from.data(), 64, blocks.values);
  std::vector<float> back(64);
  decode(blocks.values, 64, back.data());
  for (int i = 0; i < 32; ++i) EXPECT_EQ(back[i], 0.0F);
  for (int i = 32; i < 48; ++i) EXPECT_EQ(back[i], -2688.0F);
  for (int i = 48; i < 64; ++i) EXPECT_TRUE(std::isnan(back[i]));
}

TEST(Nvfp4, HalvesAndPlanesStandWhereTheHeaderSays) {
  Blocks blocks(32, 2);
  std::vector<float> from(32, 0.0F);
  from[0] = 12, from[1] = -2, from[16 + 15] = 6;
  encode(from.data(), 32, blocks.values);
  EXPECT_EQ(std::to_integer<int>(blocks.memory[0]), 0xa7);  // 6 low, -1 high
  EXPECT_EQ(std::to_integer<int>(blocks.memory[15]), 0x70);
  EXPECT_EQ(std::to_integer<int>(blocks.memory[16]), 0x38);  // 1
  EXPECT_EQ(std::to_integer<int>(blocks.memory[17]), 0x30);  // 0.5
  EXPECT_EQ(value_at(blocks.values.at(16), 15), 6.0F);
}

TEST(Values, PlainFormatsRoundAsOnTheirOwn) {
  const std::array<float, 3> from = {1.00390625F, -3.0F, 700.0F};
  std::array<bf16, 3> halves;
  std::array<fp8, 3> bytes;
  encode(from.data(), 3, Values<bf16>(halves.data()));
  encode(from.data(), 3, Values<fp8>(bytes.data(), 0.5F));
  EXPECT_EQ(to_float(halves[0]), 1.0F);
  EXPECT_EQ(value_at(Values<const fp8>(bytes.data(), 0.5F), 1), -3.0F);
  EXPECT_EQ(value_at(Values<const fp8>(bytes.data(), 0.5F), 2), 224.0F);
}

}  // namespace
}  // namespace helix
