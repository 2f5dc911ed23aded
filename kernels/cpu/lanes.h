// Sixteen fp32 values that move together, through the compiler's vector extension (gcc, clang).
// Sums are kept in sixteen lanes and folded in one fixed tree, so their bits depend neither on the
// machine's vector width nor on what is computed beside them.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/format.h"

// Where these vectors are wider than the machine's, compilers warn about how they are passed. They
// are not: whatever takes or returns one is inlined.
#pragma GCC diagnostic ignored "-Wpsabi"
#define HELIX_INLINE [[gnu::always_inline]] inline

namespace helix::cpu {

inline constexpr int64_t lane_count = 16;
using Lanes = float __attribute__((vector_size(64)));
using IntLanes = int32_t __attribute__((vector_size(64)));
using UintLanes = uint32_t __attribute__((vector_size(64)));
using HalfLanes = uint16_t __attribute__((vector_size(32)));

constexpr int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

HELIX_INLINE Lanes all(float value) { return value - Lanes{}; }

HELIX_INLINE Lanes load(const float* from) {
  Lanes value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
HELIX_INLINE Lanes load(const bf16* from) {
  HalfLanes half;
  std::memcpy(&half, from, sizeof half);
  return std::bit_cast<Lanes>(__builtin_convertvector(half, UintLanes) << 16);
}

HELIX_INLINE void store(Lanes value, float* to) { std::memcpy(to, &value, sizeof value); }
HELIX_INLINE void store(Lanes value, bf16* to) {
  const auto bits = std::bit_cast<UintLanes>(value);  // to_bf16, sixteen at a time
  const UintLanes rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const UintLanes nan = (bits >> 16) | 0x40U;
  const auto half = __builtin_convertvector(value == value ? rounded : nan, HalfLanes);
  std::memcpy(static_cast<void*>(to), &half, sizeof half);
}

// The first `count` < 16 values; the other lanes are 0.
template <class T>
HELIX_INLINE Lanes load_tail(const T* from, int64_t count) {
  T padded[lane_count] = {};
  std::memcpy(static_cast<void*>(padded), from, static_cast<size_t>(count) * sizeof(T));
  return load(padded);
}
template <class T>
HELIX_INLINE void store_tail(Lanes value, T* to, int64_t count) {
  T padded[lane_count];
  store(value, padded);
  std::memcpy(static_cast<void*>(to), padded, static_cast<size_t>(count) * sizeof(T));
}

// The same as things to pass on: a vector, or what is left of a row.
struct Load {
  template <class T>
  HELIX_INLINE Lanes operator()(const T* from) const {
    return load(from);
  }
};
struct LoadTail {
  int64_t count;
  template <class T>
  HELIX_INLINE Lanes operator()(const T* from) const {
    return load_tail(from, count);
  }
};
struct Store {
  template <class T>
  HELIX_INLINE void operator()(Lanes value, T* to) const {
    store(value, to);
  }
};
struct StoreTail {
  int64_t count;
  template <class T>
  HELIX_INLINE void operator()(Lanes value, T* to) const {
    store_tail(value, to, count);
  }
};

// body(i, load, store) for i = 0, 16, … below count; the last one touches only what is there.
template <class Body>
HELIX_INLINE void for_lanes(int64_t count, Body&& body) {
  int64_t i = 0;
  for (; i + lane_count <= count; i += lane_count) body(i, Load{}, Store{});
  if (i < count) body(i, LoadTail{count - i}, StoreTail{count - i});
}

// One level of the tree: lanes whose index has bit `Half` clear get a's pair sums, the others b's.
template <int Half, int... I>
HELIX_INLINE Lanes fold(Lanes a, Lanes b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I & Half ? 16 + I : I)...) +
         __builtin_shufflevector(a, b, (I & Half ? 16 + (I ^ Half) : (I ^ Half))...);
}
template <int Half>
HELIX_INLINE Lanes fold(Lanes a, Lanes b) {
  return fold<Half>(a, b, std::make_integer_sequence<int, 16>());
}

// Lane i of the result is the sum of the lanes of v[i]. Every sum takes the same tree (halves 8, 4,
// 2, 1).
HELIX_INLINE Lanes sums(const Lanes (&v)[16]) {
  Lanes a[8], b[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) a[i] = fold<8>(v[i], v[i + 8]);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) b[i] = fold<4>(a[i], a[i + 4]);
  return fold<1>(fold<2>(b[0], b[2]), fold<2>(b[1], b[3]));
}
HELIX_INLINE float sum(Lanes v) {
  v = fold<8>(v, v);
  v = fold<4>(v, v);
  v = fold<2>(v, v);
  return fold<1>(v, v)[0];
}

// Lanewise; a NaN in `value` is passed over (the caller's exponentials carry it on).
HELIX_INLINE Lanes larger(Lanes value, Lanes than) { return value > than ? value : than; }
HELIX_INLINE float largest(Lanes v) {
  float best = v[0];
  for (int i = 1; i < 16; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

HELIX_INLINE Lanes power_of_two(IntLanes exponent) {
  return std::bit_cast<Lanes>(std::bit_cast<UintLanes>(exponent + 127) << 23);
}

// e^x within 2 units in the last place, denormal results too; 0 for -inf, +inf on overflow, NaN for
// NaN, 1 for 0. x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7 (off
// by 8e-9 at most there); 2^n in two factors, because 2^n alone leaves the exponents of normal
// numbers.
HELIX_INLINE Lanes exponential(Lanes x) {
  x = x > 104.0F ? all(104.0F) : x;
  x = x < -104.0F ? all(-104.0F) : x;
  // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
  constexpr float magic = 12582912.0F;
  const Lanes shifted = x * 1.44269504F + magic;
  const Lanes n = shifted - magic;
  // ln 2 in two parts; n times the first is exact.
  const Lanes r = (x - n * 0.693359375F) - n * -2.12194440e-4F;
  Lanes p = r * (1.0F / 5040.0F) + 1.0F / 720.0F;
  p = p * r + 1.0F / 120.0F;
  p = p * r + 1.0F / 24.0F;
  p = p * r + 1.0F / 6.0F;
  p = p * r + 0.5F;
  p = (p * r) * r + r;
  p = p + 1.0F;
  const IntLanes whole = std::bit_cast<IntLanes>(shifted) - std::bit_cast<int32_t>(magic);
  const IntLanes half = whole >> 1;
  return p * power_of_two(half) * power_of_two(whole - half);
}
HELIX_INLINE float exponential(float x) { return exponential(all(x))[0]; }

}  // namespace helix::cpu
