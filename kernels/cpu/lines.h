// Weights and KV are read in lines: 64 bytes of codes, which are 16 values of fp32, 32 of bf16, 64
// of fp8 or 128 of nvfp4. A code becomes bf16, which holds every e4m3 and e2m1 value exactly, and
// from there fp32 where fp32 is asked for. Decoding takes the order that costs least (`place`), the
// same on every machine; what a line is multiplied with is arranged in that order once (`arrange`).
#pragma once

#include <algorithm>

#include "kernels/cpu/codes.h"

namespace helix::cpu {

template <class T>
inline constexpr int64_t line_values = 64 / sizeof(T);
template <>
inline constexpr int64_t line_values<nvfp4> = 128;

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
    return Register{_mm512_dpbf16_ps(c.v[i].raw, reinterpret_cast<__m512bh>(a.v[i].raw),
                                     reinterpret_cast<__m512bh>(b.v[i].raw))};
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
// Rounded to nearest; what is denormal may become 0.
HELIX_INLINE void store_rounded(Lanes first, Lanes second, uint16_t* to) {
#ifdef __AVX512BF16__
  const __m512bh rounded = _mm512_cvtne2ps_pbh(second.v[0].raw, first.v[0].raw);
  std::memcpy(to, &rounded, sizeof rounded);
#else
  store(first, reinterpret_cast<bf16*>(to));
  store(second, reinterpret_cast<bf16*>(to) + lane_count);
#endif
}
// The same pair in every lane.
HELIX_INLINE Pairs broadcast_pair(const uint16_t* from) {
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

// A line as it is stored.
template <class T, class Read>
HELIX_INLINE Bytes read_bytes(const Values<const T>& from, Read read) {
  const uint8_t* bytes = nullptr;
  if constexpr (std::is_same_v<T, nvfp4>) bytes = from.codes;
  else bytes = reinterpret_cast<const uint8_t*>(from.data);
  return each<Bytes>([&](int i) { return read(ByteTag(), bytes, i); });
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
  const E4m3Pairs pairs = decode_e4m3(read_bytes(from, read));
  return {{pairs.lower, pairs.upper}};
}
// The scale codes of a line's blocks; zeros beyond what is there.
template <class Read>
HELIX_INLINE uint64_t read_scales(const fp8* scales, Read read) {
  uint64_t codes = 0;
  if constexpr (std::is_same_v<Read, Whole>) std::memcpy(&codes, scales, sizeof codes);
  else std::memcpy(&codes, scales, static_cast<size_t>(read.bytes / 8));
  return codes;
}
template <class Read>
HELIX_INLINE Line<nvfp4> read_line(const Values<const nvfp4>& from, Read read) {
  const Bytes codes = read_bytes(from, read);
  return {
      {decode_e2m1<0>(codes), decode_e2m1<1>(codes), decode_e2m1<2>(codes), decode_e2m1<3>(codes)},
      scales_of_line(read_scales(from.scales, read))};
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

// Back to their own order: the values of a line of T, of which position(p, w) says where they are.
using Position = int64_t (*)(int64_t p, int64_t w);
template <class T>
void disarrange(const float* from, Position position, float* to) {
  if constexpr (std::is_same_v<T, float>) {
    std::copy_n(from, line_values<T>, to);
  } else {
    for (int64_t p = 0; p < Line<T>::pairs; ++p)
      for (int64_t w = 0; w < 32; ++w) to[place<T>(p, w)] = from[position(p, w)];
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
