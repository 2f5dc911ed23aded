// Number formats: how many bytes a value takes, rounding to what a format can hold, and how
// quantised values stand in memory. constexpr throughout, so that nvcc compiles the same functions
// for a GPU.
//
// Memory of the quantised formats. Values are counted row-major, as those of the plain formats are.
//   fp8    one e4m3fn code a value. The value is code * scale, one fp32 scale a tensor (KV: a
//          (layer, KV head)), which is known apart and stands in no plane.
//   nvfp4  two planes. Codes: two e2m1 values a byte, value 2i in the low half. Scales: an e4m3fn
//          code for each 16 consecutive values. The value is e2m1 * (e4m3 * scale).
// Blocks of 16 run along the last axis: of weights the contraction (W_O: heads and values
// together), of the KV cache a token's numbers (MLA: all kv_lora + rope). That axis is a multiple
// of 16, so block i of a tensor holds values [16 i, 16 i + 16), and a shard cut at multiples of 16
// has whole blocks. Two planes, because then both are read with aligned wide loads: 64 bytes of
// codes are 128 values and go with 8 bytes of scales; 9-byte blocks would be aligned nowhere. A
// tensor's planes follow each other (`values_at`): n / 2 bytes of codes, then n / 16 of scales,
// which are aligned to 16 bytes where n is a multiple of 32 and the tensor is.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

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
constexpr bool quantised(Format format) { return format >= Format::fp8; }

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

// e4m3fn: sign, 4 bits of exponent with bias 7, 3 of fraction; +-448 at most, no infinities, NaN is
// 0x7f and 0xff.
struct fp8 {
  uint8_t bits = 0;
  friend constexpr bool operator==(fp8, fp8) = default;
};
inline constexpr float fp8_largest = 448;

constexpr float to_float(fp8 code) {
  const uint32_t sign = (code.bits & 0x80U) << 24;
  const uint32_t rest = code.bits & 0x7fU;
  if (rest == 0x7fU) return std::bit_cast<float>(sign | 0x7fc00000U);
  // The exponent's bias goes from 7 to 127; below 2^-6 the fraction counts steps of 2^-9.
  const float size = rest < 8 ? static_cast<float>(rest) * 0x1p-9F
                              : std::bit_cast<float>((rest << 20) + (120U << 23));
  return std::bit_cast<float>(std::bit_cast<uint32_t>(size) | sign);
}

// Round to nearest, ties to even; beyond 448 it is 448, also for infinities (the saturating
// conversion of GPUs; ml_dtypes makes NaN of what is above 464); NaN stays NaN.
constexpr fp8 to_fp8(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 24) & 0x80U;
  const uint32_t size = bits & 0x7fffffffU;
  uint32_t code = 0;
  if (size > 0x7f800000U) code = 0x7fU;
  else if (size >= 0x43e00000U) code = 0x7eU;  // 448
  else if (size >= 0x3c800000U)                // 2^-6
    code = ((size + 0x7ffffU + ((size >> 20) & 1U)) >> 20) - (120U << 3);
  else  // in steps of 2^-9, which is the last place of 2^14: adding rounds
    code = std::bit_cast<uint32_t>(std::bit_cast<float>(size) + 0x1p14F) & 0xfU;
  return {static_cast<uint8_t>(sign | code)};
}

// e2m1: sign and one of 0, 0.5, 1, 1.5, 2, 3, 4, 6; the low four bits of a byte.
inline constexpr float e2m1_largest = 6;

constexpr float from_e2m1(unsigned code) {
  constexpr float sizes[8] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  const float size = sizes[code & 7U];
  return (code & 8U) != 0 ? -size : size;
}
// Round to nearest, ties to the even code; beyond 6 it is 6. There is no NaN: it becomes 0.
constexpr unsigned to_e2m1(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto size = std::bit_cast<float>(bits & 0x7fffffffU);
  const int code = (size > 0.25F) + (size >= 0.75F) + (size > 1.25F) + (size >= 1.75F) +
                   (size > 2.5F) + (size >= 3.5F) + (size > 5.0F);
  return ((bits >> 28) & 8U) | static_cast<unsigned>(code);
}

// Names the format where fp32 has float.
struct nvfp4 {};
inline constexpr int64_t nvfp4_block = 16;

// Where values of a format stand, as a pointer to them does: T is float, bf16, fp8 or nvfp4, const
// where they are only read. `scale` is the tensor's, 1 where the format has none.
template <class T>
struct Values {
  T* data = nullptr;
  float scale = 1;

  constexpr Values() = default;
  constexpr explicit Values(T* data, float scale = 1) : data(data), scale(scale) {}
  template <class U>
  requires std::is_same_v<const U, T>
  constexpr Values(const Values<U>& other) : data(other.data), scale(other.scale) {}
  constexpr Values at(int64_t index) const { return Values(data + index, scale); }
  friend constexpr bool operator==(const Values&, const Values&) = default;
};

template <class T>
requires std::is_same_v<std::remove_const_t<T>, nvfp4>
struct Values<T> {
  template <class U>
  using As = std::conditional_t<std::is_const_v<T>, const U, U>;
  As<uint8_t>* codes = nullptr;
  As<fp8>* scales = nullptr;
  float scale = 1;

  constexpr Values() = default;
  constexpr Values(As<uint8_t>* codes, As<fp8>* scales, float scale)
      : codes(codes), scales(scales), scale(scale) {}
  template <class U>
  requires std::is_same_v<const U, T>
  constexpr Values(const Values<U>& other)
      : codes(other.codes), scales(other.scales), scale(other.scale) {}
  constexpr Values at(int64_t index) const {  // a multiple of 16
    return Values(codes + index / 2, scales + index / nvfp4_block, scale);
  }
  friend constexpr bool operator==(const Values&, const Values&) = default;
};

// Bytes of `count` values; nvfp4: a multiple of 16.
template <class T>
constexpr int64_t bytes_for(int64_t count) {
  if constexpr (std::is_same_v<std::remove_const_t<T>, nvfp4>) return count / nvfp4_block * 9;
  else return count * static_cast<int64_t>(sizeof(T));
}

// The `count` values of a tensor whose memory begins at `base`.
template <class T>
constexpr Values<T> values_at(
    std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>* base, int64_t count,
    float scale) {
  if constexpr (std::is_same_v<std::remove_const_t<T>, nvfp4>) {
    using Types = Values<T>;
    return {reinterpret_cast<typename Types::template As<uint8_t>*>(base),
            reinterpret_cast<typename Types::template As<fp8>*>(base + count / 2), scale};
  } else {
    static_cast<void>(count);
    return Values<T>(reinterpret_cast<T*>(base), scale);
  }
}

// A tensor of a format that is known at run time alone.
struct Stored {
  const std::byte* base = nullptr;
  int64_t count = 0;  // values
  Format format = Format::bf16;
  float scale = 1;
  template <class T>
  constexpr Values<const T> as() const {
    return values_at<const T>(base, count, scale);
  }
};

// The scale of a block whose largest size is `largest`: so that it becomes 6, to nearest. A NaN
// among a block's values makes its scale NaN: the codes cannot say it.
constexpr fp8 block_scale(float largest, float tensor_scale) {
  return to_fp8(largest / e2m1_largest / tensor_scale);
}
constexpr float largest_of(const float* block) {
  uint32_t largest = 0;  // sizes of floats are ordered as their bits are, NaN above all
  for (int i = 0; i < nvfp4_block; ++i) {
    const uint32_t size = std::bit_cast<uint32_t>(block[i]) & 0x7fffffffU;
    largest = size > largest ? size : largest;
  }
  return std::bit_cast<float>(largest);
}

// Rounds `count` values to a format (nvfp4: a multiple of 16). One division a scale, then one
// multiplication a value: the same bits anywhere.
template <class T>
constexpr void encode(const float* from, int64_t count, const Values<T>& to) {
  if constexpr (std::is_same_v<T, nvfp4>) {
    for (int64_t block = 0; block < count / nvfp4_block; ++block, from += nvfp4_block) {
      to.scales[block] = block_scale(largest_of(from), to.scale);
      const float step = to_float(to.scales[block]) * to.scale;
      const float inverse = step > 0 ? 1 / step : 0;
      uint32_t codes[nvfp4_block] = {};
      for (int i = 0; i < nvfp4_block; ++i) codes[i] = to_e2m1(from[i] * inverse);
      for (int i = 0; i < nvfp4_block / 2; ++i)
        to.codes[block * 8 + i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
    }
  } else if constexpr (std::is_same_v<T, fp8>) {
    const float inverse = 1 / to.scale;
    for (int64_t i = 0; i < count; ++i) to.data[i] = to_fp8(from[i] * inverse);
  } else if constexpr (std::is_same_v<T, bf16>) {
    for (int64_t i = 0; i < count; ++i) to.data[i] = to_bf16(from[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) to.data[i] = from[i];
  }
}

// Value `index` of what an array of a format holds, in fp32.
template <class T>
constexpr float value_at(const Values<T>& from, int64_t index) {
  if constexpr (std::is_same_v<std::remove_const_t<T>, nvfp4>) {
    const unsigned code = from.codes[index / 2] >> (index % 2 * 4);
    return from_e2m1(code) * (to_float(from.scales[index / nvfp4_block]) * from.scale);
  } else if constexpr (std::is_same_v<std::remove_const_t<T>, fp8>) {
    return to_float(from.data[index]) * from.scale;
  } else {
    return to_float(from.data[index]);
  }
}
template <class T>
constexpr void decode(const Values<T>& from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = value_at(from, i);
}

// Copies `count` values as they are stored (nvfp4: a multiple of 16).
template <class T>
constexpr void copy(const Values<const T>& from, int64_t count, const Values<T>& to) {
  if constexpr (std::is_same_v<T, nvfp4>) {
    for (int64_t i = 0; i < count / 2; ++i) to.codes[i] = from.codes[i];
    for (int64_t i = 0; i < count / nvfp4_block; ++i) to.scales[i] = from.scales[i];
  } else {
    for (int64_t i = 0; i < count; ++i) to.data[i] = from.data[i];
  }
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
