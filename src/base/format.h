// Number formats: how many bytes a value takes, and rounding to what a format can hold.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace helix {

// fp4 is the paper's half byte a value: it is priced, never executed.
enum class Format : uint8_t { fp32, bf16, fp8, nvfp4, fp4 };

struct FormatRow {
  std::string_view name;
  double bytes;  // a value; nvfp4 counts an e4m3 scale for 16 values
};
inline constexpr FormatRow formats[] = {
    {"fp32", 4}, {"bf16", 2}, {"fp8", 1}, {"nvfp4", 0.5625}, {"fp4", 0.5}};

constexpr double bytes_of(Format format) { return formats[static_cast<int>(format)].bytes; }
constexpr std::string_view name_of(Format format) { return formats[static_cast<int>(format)].name; }

// A bf16 value is the upper half of an fp32 value.
struct bf16 {
  uint16_t bits = 0;
};

constexpr float to_float(bf16 value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }
constexpr float to_float(float value) { return value; }

// Round to nearest, ties to even; NaN stays NaN.
constexpr bf16 to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return {static_cast<uint16_t>((bits >> 16) | 0x40U)};
  return {static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
}

template <class T>
constexpr T from_float(float value);
template <>
constexpr float from_float<float>(float value) {
  return value;
}
template <>
constexpr bf16 from_float<bf16>(float value) {
  return to_bf16(value);
}

}  // namespace helix
