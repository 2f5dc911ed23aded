// Sixteen fp32 values that move together, over Highway: one source for SSE4, AVX2, AVX-512 and
// NEON. Sums are kept in sixteen lanes and folded in one fixed tree, so that their bits depend
// neither on how many of them a register holds nor on what is computed beside them.
//
// Dispatch is static: the program is built for one machine (ARCH) all over, its templates and
// OpenMP regions need no copies for each target, and `make ARCH=x86-64-v3` makes one for older
// ones.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/format.h"

// AVX2 alone is enough for AVX2: nothing here needs AES. Vectors of a length that only a run knows
// cannot stand in a struct: there NEON's are used.
#define HWY_DISABLE_PCLMUL_AES
#define HWY_COMPILE_ONLY_STATIC  // Highway 1.0.3 refuses baselines with AVX-512 VNNI otherwise
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#include <hwy/highway.h>

#define HELIX_INLINE [[gnu::always_inline]] inline

namespace helix::cpu {

namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int64_t lane_count = 16;

constexpr int64_t round_up(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// What one register holds, and how many of them are sixteen lanes.
using Tag = hn::CappedTag<float, 16>;
using IntTag = hn::Rebind<int32_t, Tag>;
using Register = hn::Vec<Tag>;
inline constexpr int register_lanes = static_cast<int>(hn::MaxLanes(Tag()));
inline constexpr int registers = 16 / register_lanes;

struct Lanes {
  Register v[registers];
};

// The same of each register.
template <class Out = Lanes, class F>
HELIX_INLINE Out each(F&& f) {
  Out out;
#pragma GCC unroll 4
  for (int i = 0; i < registers; ++i) out.v[i] = f(i);
  return out;
}

HELIX_INLINE Lanes all(float value) {
  return each([&](int) { return hn::Set(Tag(), value); });
}
HELIX_INLINE Lanes zero() { return all(0); }

HELIX_INLINE Lanes operator+(Lanes a, Lanes b) {
  return each([&](int i) { return hn::Add(a.v[i], b.v[i]); });
}
HELIX_INLINE Lanes operator-(Lanes a, Lanes b) {
  return each([&](int i) { return hn::Sub(a.v[i], b.v[i]); });
}
HELIX_INLINE Lanes operator*(Lanes a, Lanes b) {
  return each([&](int i) { return hn::Mul(a.v[i], b.v[i]); });
}
HELIX_INLINE Lanes operator/(Lanes a, Lanes b) {
  return each([&](int i) { return hn::Div(a.v[i], b.v[i]); });
}
HELIX_INLINE Lanes operator*(Lanes a, float b) { return a * all(b); }
HELIX_INLINE Lanes operator-(Lanes a, float b) { return a - all(b); }
// a * b + c, rounded once where the machine can.
HELIX_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return each([&](int i) { return hn::MulAdd(a.v[i], b.v[i], c.v[i]); });
}

// Loaded once: of what has several uses the compiler would otherwise make as many loads.
HELIX_INLINE Lanes load_once(const float* from) {
  return each([&](int i) {
    Register value = hn::LoadU(Tag(), from + i * register_lanes);
#ifdef __AVX512F__
    asm("" : "+v"(value.raw));
#endif
    return value;
  });
}
HELIX_INLINE Lanes load(const float* from) {
  return each([&](int i) { return hn::LoadU(Tag(), from + i * register_lanes); });
}
HELIX_INLINE Lanes load(const bf16* from) {
  const hn::Rebind<uint16_t, Tag> halves;
  const hn::Rebind<uint32_t, Tag> words;
  const auto* bits = reinterpret_cast<const uint16_t*>(from);
  return each([&](int i) {
    const auto half = hn::LoadU(halves, bits + i * register_lanes);
    return hn::BitCast(Tag(), hn::ShiftLeft<16>(hn::PromoteTo(words, half)));
  });
}

HELIX_INLINE void store(Lanes value, float* to) {
#pragma GCC unroll 4
  for (int i = 0; i < registers; ++i) hn::StoreU(value.v[i], Tag(), to + i * register_lanes);
}
HELIX_INLINE void store(Lanes value, bf16* to) {  // to_bf16, many at a time
  const hn::Rebind<uint32_t, Tag> words;
  const hn::Rebind<uint16_t, Tag> halves;
  auto* out = reinterpret_cast<uint16_t*>(to);
#pragma GCC unroll 4
  for (int i = 0; i < registers; ++i) {
    const auto bits = hn::BitCast(words, value.v[i]);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(words, 1));
    const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(words, 0x7fff)));
    const auto nan = hn::Or(bits, hn::Set(words, 0x400000));
    const auto is_nan = hn::RebindMask(words, hn::IsNaN(value.v[i]));
    const auto best = hn::ShiftRight<16>(hn::IfThenElse(is_nan, nan, rounded));
    hn::StoreU(hn::TruncateTo(halves, best), halves, out + i * register_lanes);
  }
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

// Sixteen lanes are four blocks of four, as 128 bits hold them: interleaving stays within them.
template <class Word, class V>
HELIX_INLINE V interleave_lower(V a, V b) {
  const hn::DFromV<V> d;
  const hn::Repartition<Word, hn::DFromV<V>> words;
  return hn::BitCast(d, hn::InterleaveLower(words, hn::BitCast(words, a), hn::BitCast(words, b)));
}
template <class Word, class V>
HELIX_INLINE V interleave_upper(V a, V b) {
  const hn::DFromV<V> d;
  const hn::Repartition<Word, hn::DFromV<V>> words;
  return hn::BitCast(d, hn::InterleaveUpper(words, hn::BitCast(words, a), hn::BitCast(words, b)));
}
// The same of each register, added.
template <class Word>
HELIX_INLINE Lanes fold_within(Lanes a, Lanes b) {
  return each([&](int i) {
    return hn::Add(interleave_lower<Word>(a.v[i], b.v[i]), interleave_upper<Word>(a.v[i], b.v[i]));
  });
}
// Blocks Odd and Odd + 2 of a, then of b.
template <int Odd>
HELIX_INLINE Lanes alternate_blocks(Lanes a, Lanes b) {
#ifdef __AVX512F__
  return {{Register{_mm512_shuffle_f32x4(a.v[0].raw, b.v[0].raw, Odd == 0 ? 0x88 : 0xdd)}}};
#else
  return each([&](int i) {
    const Lanes& from = i < registers / 2 ? a : b;
    const int first = 2 * i % registers;
    if constexpr (registers == 4) return from.v[first + Odd];
    else if constexpr (Odd == 0) return hn::ConcatLowerLower(Tag(), from.v[1], from.v[0]);
    else return hn::ConcatUpperUpper(Tag(), from.v[1], from.v[0]);
  });
#endif
}

// The levels of the one tree that sums take: lanes l and l + 2 of a block, what is left of a block,
// two blocks side by side (twice). A level's result has half of the lanes from a, half from b.
HELIX_INLINE Lanes fold_lanes(Lanes a, Lanes b) { return fold_within<float>(a, b); }
HELIX_INLINE Lanes fold_pairs(Lanes a, Lanes b) { return fold_within<double>(a, b); }
HELIX_INLINE Lanes fold_blocks(Lanes a, Lanes b) {
  return alternate_blocks<0>(a, b) + alternate_blocks<1>(a, b);
}
// Lane 4 g + l of the result is the sum over blocks of lane l of v[g].
HELIX_INLINE Lanes sums_of_blocks(const Lanes (&v)[4]) {
  return fold_blocks(fold_blocks(v[0], v[1]), fold_blocks(v[2], v[3]));
}
// Lane i of the result is the sum of the lanes of v[i].
HELIX_INLINE Lanes sums(const Lanes (&v)[16]) {
  Lanes blocks[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    blocks[i] =
        fold_pairs(fold_lanes(v[4 * i], v[4 * i + 1]), fold_lanes(v[4 * i + 2], v[4 * i + 3]));
  return sums_of_blocks(blocks);
}
// Lane i % 4 of the result is the sum of the lanes of v[i].
HELIX_INLINE Lanes sums(const Lanes (&v)[4]) {
  const Lanes blocks = fold_pairs(fold_lanes(v[0], v[1]), fold_lanes(v[2], v[3]));
  const Lanes halves = fold_blocks(blocks, blocks);
  return fold_blocks(halves, halves);
}
HELIX_INLINE float first(Lanes v) { return hn::GetLane(v.v[0]); }
HELIX_INLINE float sum(Lanes v) { return first(sums({v, v, v, v})); }

// Lanewise; a NaN in `value` is passed over (the caller's exponentials carry it on).
HELIX_INLINE Lanes larger(Lanes value, Lanes than) {
  return each([&](int i) {
#if HWY_ARCH_X86  // of NaN and a number, these take the second
    return hn::Max(value.v[i], than.v[i]);
#else
    return hn::IfThenElse(hn::Gt(value.v[i], than.v[i]), value.v[i], than.v[i]);
#endif
  });
}
HELIX_INLINE float largest(Lanes v) {  // of numbers
#pragma GCC unroll 4
  for (int i = 1; i < registers; ++i) v.v[0] = hn::Max(v.v[0], v.v[i]);
  return hn::GetLane(hn::MaxOfLanes(Tag(), v.v[0]));
}
// Is any lane larger than `bound`, or NaN?
HELIX_INLINE bool any_larger(Lanes v, float bound) {
  bool any = false;
#pragma GCC unroll 4
  for (const Register& r : v.v) any |= !hn::AllTrue(Tag(), hn::Le(r, hn::Set(Tag(), bound)));
  return any;
}

// e^x within 2 units in the last place, denormal results too; 0 for -inf, +inf on overflow, NaN for
// NaN, 1 for 0. x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the polynomial of degree 6, 1 + r + …,
// that is off least there (by 4e-9 at most); 2^n by an instruction or in two factors, because 2^n
// alone leaves the exponents of normal numbers: the same bits.
HELIX_INLINE Register exponential(Register x) {
  const Tag d;
  const auto set = [&](float value) { return hn::Set(d, value); };
#ifdef __AVX512F__  // of NaN and a number, these take the second
  x = Register{_mm512_max_ps(set(-104).raw, _mm512_min_ps(set(104).raw, x.raw))};
#else
  x = hn::IfThenElse(hn::Gt(x, set(104)), set(104), x);
  x = hn::IfThenElse(hn::Lt(x, set(-104)), set(-104), x);
#endif
  // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
  constexpr float magic = 12582912.0F;
  const auto shifted = hn::MulAdd(x, set(1.44269504F), set(magic));
  const auto n = hn::Sub(shifted, set(magic));
  // ln 2 in two parts; n times the first is exact.
  const auto r = hn::NegMulAdd(n, set(-2.12194440e-4F), hn::NegMulAdd(n, set(0.693359375F), x));
  auto p = hn::MulAdd(r, set(0.0013814601F), set(0.008368717F));
  p = hn::MulAdd(p, r, set(0.04166839F));
  p = hn::MulAdd(p, r, set(0.16666521F));
  p = hn::MulAdd(p, r, set(0.49999994F));
  p = hn::MulAdd(hn::Mul(p, r), r, r);
  p = hn::Add(p, set(1));
#ifdef __AVX512F__
  return Register{_mm512_scalef_ps(p.raw, n.raw)};
#else
  const IntTag integers;
  const auto whole =
      hn::Sub(hn::BitCast(integers, shifted), hn::Set(integers, std::bit_cast<int32_t>(magic)));
  const auto half = hn::ShiftRight<1>(whole);
  const auto power_of_two = [&](auto exponent) {
    return hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(exponent, hn::Set(integers, 127))));
  };
  return hn::Mul(hn::Mul(p, power_of_two(half)), power_of_two(hn::Sub(whole, half)));
#endif
}
HELIX_INLINE Lanes exponential(Lanes x) {
  return each([&](int i) { return exponential(x.v[i]); });
}
HELIX_INLINE float exponential(float x) { return hn::GetLane(exponential(hn::Set(Tag(), x))); }

}  // namespace helix::cpu
