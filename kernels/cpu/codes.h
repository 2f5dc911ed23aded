// Codes of fp8 and nvfp4, decoded a register at a time: to bf16, which holds every e4m3 and e2m1
// value exactly, and scales of blocks to fp32.
#pragma once

#include <array>

#include "kernels/cpu/lanes.h"

namespace helix::cpu {

using WordTag = hn::Repartition<uint16_t, Tag>;
using ByteTag = hn::Repartition<uint8_t, Tag>;
inline constexpr int register_words = 2 * register_lanes;

// What sixteen lanes hold, as bytes, and as two bf16 values in each.
struct Bytes {
  hn::Vec<ByteTag> v[registers];
};
struct Pairs {
  hn::Vec<WordTag> v[registers];
};

namespace tables {
// The bytes of codes as bf16.
template <int Shift, size_t Count, class Value>
constexpr std::array<uint8_t, Count> bytes_of_bf16(Value&& value) {
  std::array<uint8_t, Count> all{};
  for (size_t i = 0; i < Count; ++i)
    all[i] = static_cast<uint8_t>(to_bf16(value(static_cast<unsigned>(i))).bits >> Shift);
  return all;
}
constexpr float e4m3(unsigned code) { return to_float(fp8{static_cast<uint8_t>(code)}); }
alignas(64) inline constexpr auto e4m3_upper = bytes_of_bf16<8, 128>(e4m3);
alignas(64) inline constexpr auto e4m3_lower = bytes_of_bf16<0, 128>(e4m3);
// e2m1 times 2^8, which their blocks' scales lack.
constexpr float large_e2m1(unsigned code) { return from_e2m1(code) * 0x1p8F; }
alignas(64) inline constexpr auto e2m1_upper = bytes_of_bf16<8, 16>(large_e2m1);
alignas(64) inline constexpr auto e2m1_lower = bytes_of_bf16<0, 16>(large_e2m1);
alignas(64) inline constexpr auto e2m1 = [] {
  std::array<uint16_t, 32> all{};  // twice: an index's fifth bit is another code's
  for (unsigned i = 0; i < 32; ++i) all[i] = to_bf16(large_e2m1(i % 16)).bits;
  return all;
}();
}  // namespace tables

// e4m3 codes as bf16: of each block of sixteen the lower eight, and the upper.
struct E4m3Pairs {
  Pairs lower, upper;
};
HELIX_INLINE void decode_e4m3(hn::Vec<ByteTag> codes, hn::Vec<WordTag>& lower,
                              hn::Vec<WordTag>& upper) {
  const ByteTag d;
  const auto sign = hn::Set(d, 0x80);
  hn::Vec<ByteTag> low, high;  // bytes of each value
#ifdef __AVX512VBMI__          // looks up the lower seven bits
  const auto look_up = [&](const auto& table) {
    return hn::Vec<ByteTag>{_mm512_permutex2var_epi8(_mm512_load_si512(table.data()), codes.raw,
                                                     _mm512_load_si512(table.data() + 64))};
  };
  high = hn::OrAnd(look_up(tables::e4m3_upper), codes, sign);
  low = look_up(tables::e4m3_lower);
#else
  // The exponent's bias goes from 7 to 127; the eight smallest are looked up, NaN is put in.
  const auto size = hn::AndNot(sign, codes);
  const auto small = hn::Lt(size, hn::Set(d, 8));
  const auto index = hn::And(size, hn::Set(d, 7));
  const auto look_up = [&](const auto& table) {
    return hn::TableLookupBytes(hn::LoadDup128(d, table.data()), index);
  };
  const auto nan = hn::VecFromMask(d, hn::Eq(size, hn::Set(d, 0x7f)));
  high = hn::IfThenElse(small, look_up(tables::e4m3_upper),
                        hn::Add(hn::ShiftRight<4>(size), hn::Set(d, 0x3c)));
  low = hn::IfThenElse(small, look_up(tables::e4m3_lower), hn::ShiftLeft<4>(size));
  high = hn::Or(hn::And(codes, sign), hn::OrAnd(high, nan, hn::Set(d, 0x7f)));
  low = hn::OrAnd(low, nan, hn::Set(d, 0xc0));
#endif
  lower = hn::BitCast(WordTag(), hn::InterleaveLower(d, low, high));
  upper = hn::BitCast(WordTag(), hn::InterleaveUpper(d, low, high));
}
HELIX_INLINE E4m3Pairs decode_e4m3(const Bytes& codes) {
  E4m3Pairs pairs;
#pragma GCC unroll 4
  for (int i = 0; i < registers; ++i) decode_e4m3(codes.v[i], pairs.lower.v[i], pairs.upper.v[i]);
  return pairs;
}

// Values 4 w + Nibble of e2m1 codes, w the words, times 2^8.
template <int Nibble>
HELIX_INLINE hn::Vec<WordTag> decode_e2m1(hn::Vec<ByteTag> codes) {
#ifdef __AVX512BW__  // looks up the lower five bits
  return hn::Vec<WordTag>{_mm512_permutexvar_epi16(_mm512_srli_epi16(codes.raw, 4 * Nibble),
                                                   _mm512_load_si512(tables::e2m1.data()))};
#else
  const ByteTag d;
  const auto index = Nibble % 2 == 0 ? hn::And(codes, hn::Set(d, 15)) : hn::ShiftRight<4>(codes);
  const auto look_up = [&](const auto& table) {
    return hn::BitCast(WordTag(), hn::TableLookupBytes(hn::LoadDup128(d, table.data()), index));
  };
  const auto upper = look_up(tables::e2m1_upper);
  const auto lower = look_up(tables::e2m1_lower);
  const auto high = hn::Set(WordTag(), 0xff00);
  if constexpr (Nibble < 2) return hn::Or(hn::ShiftLeft<8>(upper), hn::AndNot(high, lower));
  else return hn::Or(hn::And(high, upper), hn::ShiftRight<8>(lower));
#endif
}
template <int Nibble>
HELIX_INLINE Pairs decode_e2m1(const Bytes& codes) {
  return each<Pairs>([&](int i) { return decode_e2m1<Nibble>(codes.v[i]); });
}

// Scales of blocks come times 2^-8: a step on the way through fp16, whose exponent is biased by 8
// more; its subnormals are converted at full speed. Eight codes, the first lowest, are a line's.
#ifdef __AVX512VBMI__
// Of words whose upper byte is a code.
template <class D>
HELIX_INLINE hn::Vec<D> fp16_of_e4m3(D words, hn::Vec<D> codes) {
  const auto half = hn::And(hn::ShiftRight<1>(codes), hn::Set(words, static_cast<int16_t>(0xbfff)));
  // NaN's size is the largest: one more carries into bit 14, which makes an fp16 NaN of it.
  const auto carried = hn::Add(half, hn::Set(words, 0x80));
  return hn::OrAnd(half, carried, hn::Set(words, 0x4000));
}
#endif

// Lane l: the scale of block l / 2.
HELIX_INLINE Lanes scales_of_line(uint64_t codes) {
#ifdef __AVX512VBMI__
  alignas(32) static constexpr auto order = [] {
    std::array<uint8_t, 32> all{};
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint8_t>(i / 4);
    return all;
  }();
  const hn::Rebind<int16_t, Tag> words;
  const auto upper = _mm256_maskz_permutexvar_epi8(
      0xaaaaaaaaU, _mm256_load_si256(reinterpret_cast<const __m256i*>(order.data())),
      _mm256_set1_epi64x(static_cast<int64_t>(codes)));
  return {{Register{_mm512_cvtph_ps(fp16_of_e4m3(words, hn::Vec<decltype(words)>{upper}).raw)}}};
#else
  alignas(64) float values[lane_count];
  for (int64_t l = 0; l < lane_count; ++l)
    values[l] = to_float(fp8{static_cast<uint8_t>(codes >> l / 2 * 8)}) * 0x1p-8F;
  return load(values);
#endif
}

// Of the lines of four rows, thirty-two scales: that of lane l of half h is row Order::row(h, l)'s
// of block Order::block(h, l).
struct BlockScales {
  Lanes halves[2];
};
#ifdef __AVX512VBMI__
template <class Order>
HELIX_INLINE BlockScales scales_of_rows(__m256i codes) {
  alignas(64) static constexpr auto order = [] {
    std::array<uint8_t, 64> all{};
    for (size_t w = 0; w < 32; ++w)
      all[2 * w + 1] =
          static_cast<uint8_t>(8 * Order::row(w / 16, w % 16) + Order::block(w / 16, w % 16));
    return all;
  }();
  const hn::Repartition<int16_t, Tag> words;
  const auto upper = _mm512_maskz_permutexvar_epi8(
      0xaaaaaaaaaaaaaaaaU, _mm512_load_si512(order.data()), _mm512_castsi256_si512(codes));
  const __m512i fp16 = fp16_of_e4m3(words, hn::Vec<decltype(words)>{upper}).raw;
  return {{{{Register{_mm512_cvtph_ps(_mm512_castsi512_si256(fp16))}}},
           {{Register{_mm512_cvtph_ps(_mm512_extracti64x4_epi64(fp16, 1))}}}}};
}
#endif
template <class Order>
HELIX_INLINE BlockScales scales_of_rows(const uint64_t (&codes)[4]) {
#ifdef __AVX512VBMI__
  const auto row = [&](int r) { return static_cast<int64_t>(codes[r]); };
  return scales_of_rows<Order>(_mm256_set_epi64x(row(3), row(2), row(1), row(0)));
#else
  alignas(64) float values[2][lane_count];
  for (size_t h = 0; h < 2; ++h) {
    for (size_t l = 0; l < lane_count; ++l)
      values[h][l] =
          to_float(fp8{static_cast<uint8_t>(codes[Order::row(h, l)] >> 8 * Order::block(h, l))}) *
          0x1p-8F;
  }
  return {{load(values[0]), load(values[1])}};
#endif
}
// They follow one another.
template <class Order>
HELIX_INLINE BlockScales scales_of_rows(const fp8* codes) {
#ifdef __AVX512VBMI__
  return scales_of_rows<Order>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
#else
  uint64_t rows[4];
  std::memcpy(rows, codes, sizeof rows);
  return scales_of_rows<Order>(rows);
#endif
}

}  // namespace helix::cpu
