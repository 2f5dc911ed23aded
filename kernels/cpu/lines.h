// Weights and KV are read in lines: 64 bytes of codes, which are 16 values of fp32, 32 of bf16, 64
// of fp8 or 128 of nvfp4. A code becomes bf16, which holds every e4m3 and e2m1 value exactly, and
// from there fp32 where fp32 is asked for. Decoding takes the order that costs least (`place`), the
// same on every machine; what a line is multiplied with is arranged in that order once (`arrange`).
#pragma once

#include <algorithm>
#include <array>

#include "kernels/cpu/lanes.h"

namespace helix::cpu {

template <class T>
inline constexpr int64_t line_values = 64 / sizeof(T);
template <>
inline constexpr int64_t line_values<nvfp4> = 128;

// Thirty-two bf16 values, two in each of sixteen lanes.
using WordTag = hn::Repartition<uint16_t, Tag>;
using ByteTag = hn::Repartition<uint8_t, Tag>;
inline constexpr int register_words = 2 * register_lanes;
inline constexpr int register_bytes = 4 * register_lanes;
struct Pairs {
  hn::Vec<WordTag> v[registers];
};

// A pair's first and second values, in fp32: exact.
HELIX_INLINE Lanes even(const Pairs& a) {
  const hn::Repartition<uint32_t, Tag> words;
  return each(
      [&](int i) { return hn::BitCast(Tag(), hn::ShiftLeft<16>(hn::BitCast(words, a.v[i]))); });
}
HELIX_INLINE Lanes odd(const Pairs& a) {
  const hn::Repartition<uint32_t, Tag> words;
  return each([&](int i) {
    return hn::BitCast(Tag(), hn::And(hn::BitCast(words, a.v[i]), hn::Set(words, 0xffff0000U)));
  });
}
// Pairs of what a and b hold first, and of what they hold second.
HELIX_INLINE Pairs evens(const Pairs& a, const Pairs& b) {
  const hn::Repartition<uint32_t, Tag> words;
  return each<Pairs>([&](int i) {
    const auto up = hn::BitCast(WordTag(), hn::ShiftLeft<16>(hn::BitCast(words, b.v[i])));
    return hn::OddEven(up, a.v[i]);
  });
}
HELIX_INLINE Pairs odds(const Pairs& a, const Pairs& b) {
  const hn::Repartition<uint32_t, Tag> words;
  return each<Pairs>([&](int i) {
    const auto down = hn::BitCast(WordTag(), hn::ShiftRight<16>(hn::BitCast(words, a.v[i])));
    return hn::OddEven(b.v[i], down);
  });
}

// Pairs of fp32 values that are bf16 values.
HELIX_INLINE Pairs upper_halves(Lanes first, Lanes second) {
  const hn::Repartition<uint32_t, Tag> words;
  return each<Pairs>([&](int i) {
    const auto down = hn::ShiftRight<16>(hn::BitCast(words, first.v[i]));
    return hn::OddEven(hn::BitCast(WordTag(), second.v[i]), hn::BitCast(WordTag(), down));
  });
}

// c plus the two products of each lane, in fp32; a machine that has an instruction for it takes
// what is denormal as 0.
HELIX_INLINE Lanes multiply_add(const Pairs& a, const Pairs& b, Lanes c) {
#ifdef __AVX512BF16__
  return each([&](int i) {
    return Register{_mm512_dpbf16_ps(c.v[i].raw, std::bit_cast<__m512bh>(a.v[i].raw),
                                     std::bit_cast<__m512bh>(b.v[i].raw))};
  });
#else
  return multiply_add(odd(a), odd(b), multiply_add(even(a), even(b), c));
#endif
}

// How the registers of 64 bytes are read: all of them, or the first bytes, with zeros for those
// beyond, which are not touched.
struct Whole {
  template <class D>
  HELIX_INLINE hn::Vec<D> operator()(D d, const hn::TFromD<D>* from, int i) const {
    return hn::LoadU(d, from + i * static_cast<int64_t>(hn::Lanes(d)));
  }
};
struct FirstBytes {
  int64_t bytes;
  template <class D>
  HELIX_INLINE hn::Vec<D> operator()(D d, const hn::TFromD<D>* from, int i) const {
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    const auto size = static_cast<int64_t>(sizeof(hn::TFromD<D>));
    const auto count = static_cast<size_t>(std::clamp<int64_t>(bytes / size - i * lanes, 0, lanes));
#if HWY_MEM_OPS_MIGHT_FAULT
    alignas(64) hn::TFromD<D> padded[hn::MaxLanes(D())] = {};
    std::memcpy(padded, from + i * lanes, count * sizeof(hn::TFromD<D>));
    return hn::Load(d, padded);
#else
    return hn::MaskedLoad(hn::FirstN(d, count), d, from + i * lanes);
#endif
  }
};

template <class Read = Whole>
HELIX_INLINE Pairs load_pairs(const bf16* from, Read read = {}) {
  const auto* words = reinterpret_cast<const uint16_t*>(from);
  return each<Pairs>([&](int i) { return read(WordTag(), words, i); });
}
HELIX_INLINE void store(const Pairs& value, bf16* to) {
  auto* words = reinterpret_cast<uint16_t*>(to);
#pragma GCC unroll 4
  for (int i = 0; i < registers; ++i) hn::StoreU(value.v[i], WordTag(), words + i * register_words);
}
// The same pair in every lane.
HELIX_INLINE Pairs broadcast_pair(const bf16* from) {
  const hn::Repartition<uint32_t, Tag> words;
  uint32_t pair = 0;
  std::memcpy(&pair, from, sizeof pair);
  return each<Pairs>([&](int) { return hn::BitCast(WordTag(), hn::Set(words, pair)); });
}

// A decoded line.
template <class T>
struct Line {
  static constexpr int pairs = line_values<T> / 32;
  Pairs values[pairs];
};
template <>
struct Line<float> {
  Lanes values;
};
template <>
struct Line<nvfp4> {
  static constexpr int pairs = 4;
  Pairs values[pairs];
  Lanes scales;  // of lane l of each: block l / 2's. Values lack a factor of 2^-8, scales of 2^8.
};

// Which of a line's values stands in word w of its p-th pairs.
template <class T>
constexpr int64_t place(int64_t p, int64_t w) {
  if constexpr (std::is_same_v<T, fp8>) return w / 8 * 16 + p * 8 + w % 8;
  else if constexpr (std::is_same_v<T, nvfp4>) return 4 * w + p;
  else return w;
}

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

// The bytes of e4m3 codes as bf16, the lower without a sign.
struct CodeBytes {
  hn::Vec<ByteTag> upper, lower;
};
HELIX_INLINE CodeBytes e4m3_bytes(hn::Vec<ByteTag> codes) {
  const ByteTag d;
  const auto sign = hn::And(codes, hn::Set(d, 0x80));
#ifdef __AVX512VBMI__  // looks up the lower seven bits
  const auto look_up = [&](const auto& table) {
    return hn::Vec<ByteTag>{_mm512_permutex2var_epi8(_mm512_load_si512(table.data()), codes.raw,
                                                     _mm512_load_si512(table.data() + 64))};
  };
  return {hn::Or(look_up(tables::e4m3_upper), sign), look_up(tables::e4m3_lower)};
#else
  // The exponent's bias goes from 7 to 127; the eight smallest are looked up, NaN is put in.
  const auto size = hn::And(codes, hn::Set(d, 0x7f));
  const auto small = hn::Lt(size, hn::Set(d, 8));
  const auto index = hn::And(size, hn::Set(d, 7));
  const auto look_up = [&](const auto& table) {
    return hn::TableLookupBytes(hn::LoadDup128(d, table.data()), index);
  };
  const auto nan = hn::VecFromMask(d, hn::Eq(size, hn::Set(d, 0x7f)));
  const auto upper = hn::IfThenElse(small, look_up(tables::e4m3_upper),
                                    hn::Add(hn::ShiftRight<4>(size), hn::Set(d, 0x3c)));
  const auto lower = hn::IfThenElse(small, look_up(tables::e4m3_lower), hn::ShiftLeft<4>(size));
  return {hn::Or(sign, hn::Or(upper, hn::And(nan, hn::Set(d, 0x7f)))),
          hn::Or(lower, hn::And(nan, hn::Set(d, 0xc0)))};
#endif
}

// Values 4 w + Nibble of a line of e2m1 codes, times 2^8.
template <int Nibble, class Read>
HELIX_INLINE Pairs e2m1_pairs(const uint8_t* codes, Read read) {
  return each<Pairs>([&](int i) {
    const auto line = read(ByteTag(), codes, i);
#ifdef __AVX512BW__  // looks up the lower five bits
    return hn::Vec<WordTag>{_mm512_permutexvar_epi16(_mm512_srli_epi16(line.raw, 4 * Nibble),
                                                     _mm512_load_si512(tables::e2m1.data()))};
#else
    const ByteTag d;
    const auto index = Nibble % 2 == 0 ? hn::And(line, hn::Set(d, 15)) : hn::ShiftRight<4>(line);
    const auto look_up = [&](const auto& table) {
      return hn::BitCast(WordTag(), hn::TableLookupBytes(hn::LoadDup128(d, table.data()), index));
    };
    const auto upper = look_up(tables::e2m1_upper);
    const auto lower = look_up(tables::e2m1_lower);
    const auto high = hn::Set(WordTag(), 0xff00);
    if constexpr (Nibble < 2) return hn::Or(hn::ShiftLeft<8>(upper), hn::AndNot(high, lower));
    else return hn::Or(hn::And(high, upper), hn::ShiftRight<8>(lower));
#endif
  });
}

// Lane l: the scale of block l / 2, of eight, times 2^-8: a step on the way through fp16, whose
// exponent is biased by 8 more; its subnormals are converted at full speed.
HELIX_INLINE Lanes scales_of_line(const fp8* scales) {
#ifdef __AVX512VBMI__
  int64_t codes = 0;
  std::memcpy(&codes, scales, sizeof codes);
  alignas(32) static constexpr auto quarters = [] {
    std::array<uint8_t, 32> all{};
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint8_t>(i / 4);
    return all;
  }();
  const hn::Rebind<int16_t, Tag> words;
  const hn::Vec<hn::Rebind<int16_t, Tag>> upper{_mm256_maskz_permutexvar_epi8(
      0xaaaaaaaaU, _mm256_load_si256(reinterpret_cast<const __m256i*>(quarters.data())),
      _mm256_set1_epi64x(codes))};
  const auto half = hn::And(hn::ShiftRight<1>(upper), hn::Set(words, static_cast<int16_t>(0xbfff)));
  // NaN's size is the largest: one more carries into bit 14, which makes an fp16 NaN of it.
  const auto carried = hn::Add(half, hn::Set(words, 0x80));
  const auto whole = hn::OrAnd(half, carried, hn::Set(words, 0x4000));
  return {{Register{_mm512_cvtph_ps(whole.raw)}}};
#else
  alignas(64) float values[lane_count];
  for (int64_t l = 0; l < lane_count; ++l) values[l] = to_float(scales[l / 2]) * 0x1p-8F;
  return load(values);
#endif
}

template <class Read>
HELIX_INLINE Line<float> read_line(const Values<const float>& from, Read read) {
  if constexpr (std::is_same_v<Read, Whole>) return {load_once(from.data)};
  else return {each([&](int i) { return read(Tag(), from.data, i); })};
}
template <class Read>
HELIX_INLINE Line<bf16> read_line(const Values<const bf16>& from, Read read) {
  return {{load_pairs(from.data, read)}};
}
template <class Read>
HELIX_INLINE Line<fp8> read_line(const Values<const fp8>& from, Read read) {
  const auto* codes = reinterpret_cast<const uint8_t*>(from.data);
  Line<fp8> line;
#pragma GCC unroll 4
  for (int i = 0; i < registers; ++i) {
    const CodeBytes bytes = e4m3_bytes(read(ByteTag(), codes, i));
    const auto lower = hn::InterleaveLower(ByteTag(), bytes.lower, bytes.upper);
    const auto upper = hn::InterleaveUpper(ByteTag(), bytes.lower, bytes.upper);
    line.values[0].v[i] = hn::BitCast(WordTag(), lower);
    line.values[1].v[i] = hn::BitCast(WordTag(), upper);
  }
  return line;
}
template <class Read>
HELIX_INLINE Line<nvfp4> read_line(const Values<const nvfp4>& from, Read read) {
  fp8 first[8] = {};
  const fp8* scales = from.scales;
  if constexpr (!std::is_same_v<Read, Whole>) {
    std::memcpy(static_cast<void*>(first), scales, static_cast<size_t>(read.bytes / 8));
    scales = first;
  }
  return {{e2m1_pairs<0>(from.codes, read), e2m1_pairs<1>(from.codes, read),
           e2m1_pairs<2>(from.codes, read), e2m1_pairs<3>(from.codes, read)},
          scales_of_line(scales)};
}
template <class T>
HELIX_INLINE Line<T> load_line(const Values<const T>& from) {
  return read_line(from, Whole());
}
// The first `count` values of a line; the others are 0.
template <class T>
HELIX_INLINE Line<T> load_line(const Values<const T>& from, int64_t count) {
  return read_line(from, FirstBytes{count * 64 / line_values<T>});
}

// The p-th pairs of a line in full: times their blocks' scales, which bf16 holds (two bits of
// fraction times four).
template <class T>
HELIX_INLINE void store_exact(const Line<T>& line, int p, bf16* to) {
  if constexpr (std::is_same_v<T, nvfp4>)
    store(upper_halves(even(line.values[p]) * line.scales, odd(line.values[p]) * line.scales), to);
  else store(line.values[p], to);
}
template <class T>
HELIX_INLINE void store_exact(const Line<T>& line, int p, float* to) {
  Lanes first = even(line.values[p]);
  Lanes second = odd(line.values[p]);
  if constexpr (std::is_same_v<T, nvfp4>) {
    first = first * line.scales;
    second = second * line.scales;
  }
  store(first, to);
  store(second, to + lane_count);
}

// sum + x times values, lane by lane; x in their order, bf16 or fp32.
HELIX_INLINE Lanes multiply_add(const bf16* x, const Pairs& values, Lanes sum) {
  return multiply_add(values, load_pairs(x), sum);
}
HELIX_INLINE Lanes multiply_add(const float* x, const Pairs& values, Lanes sum) {
  return multiply_add(load(x + lane_count), odd(values), multiply_add(load(x), even(values), sum));
}

// What a line of T is multiplied with: bf16 by bf16, all else in fp32.
template <class T, class Activation>
using Operand = std::conditional_t<std::is_same_v<T, float>, float, Activation>;

// Where a line's order has word w of its p-th pairs, as X: bf16 in the order of words, fp32 as a
// register takes them from pairs, what each lane holds first before what it holds second.
template <class X>
constexpr int64_t position(int64_t p, int64_t w) {
  return 32 * p + (std::is_same_v<X, bf16> ? w : w % 2 * lane_count + w / 2);
}

// `count` values in the order of T's lines, with zeros to the end of the last.
template <class T, class From, class X>
void arrange(const From* from, int64_t count, X* to) {
  const auto convert = [](From value) {
    if constexpr (std::is_same_v<From, X>) return value;
    else return to_float(value);
  };
  const auto line = [&](const From* values, X* out) {
    if constexpr (std::is_same_v<T, float>) {
      for (int64_t i = 0; i < line_values<T>; ++i) out[i] = convert(values[i]);
    } else {
      constexpr int64_t step = place<T>(0, 1);  // eight words' values stand evenly apart
      for (int64_t p = 0; p < Line<T>::pairs; ++p)
        for (int64_t w = 0; w < 32; w += 8)
          for (int64_t i = 0; i < 8; ++i)
            out[position<X>(p, w + i)] = convert(values[place<T>(p, w) + i * step]);
    }
  };
  int64_t i = 0;
  for (; i + line_values<T> <= count; i += line_values<T>) line(from + i, to + i);
  if (i == count) return;
  From padded[line_values<T>] = {};
  std::copy(from + i, from + count, padded);
  line(padded, to + i);
}

// Back to their own order: the values of a line of T, arranged as fp32.
template <class T>
void disarrange(const float* from, float* to) {
  if constexpr (std::is_same_v<T, float>) {
    std::copy_n(from, line_values<T>, to);
  } else {
    for (int64_t p = 0; p < Line<T>::pairs; ++p)
      for (int64_t w = 0; w < 32; ++w) to[place<T>(p, w)] = from[position<float>(p, w)];
  }
}

// Asks for the memory of the line at value i >= 0 before it is needed; beyond a tensor's end that
// does no harm. nvfp4's scales are few: the hardware sees to them.
template <class T>
HELIX_INLINE void prefetch_line(const Values<const T>& from, int64_t i) {
  if constexpr (std::is_same_v<T, nvfp4>) __builtin_prefetch(from.codes + (i >> 1), 0, 2);
  else __builtin_prefetch(from.data + i, 0, 2);
}

}  // namespace helix::cpu
