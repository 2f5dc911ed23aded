// Rows of two or four tokens side by side, as attention in bf16 takes them. They are interleaved
// before they are decoded, when they are shortest: four tokens of K, so that sums over lanes are
// sums over four blocks alone; two tokens of V, whose pairs are multiplied with pairs of weights.
#pragma once

#include "kernels/cpu/lines.h"

namespace helix::cpu {

template <class Word>
HELIX_INLINE Bytes interleave_lower(const Bytes& a, const Bytes& b) {
  return each<Bytes>([&](int i) { return interleave_lower<Word>(a.v[i], b.v[i]); });
}
template <class Word>
HELIX_INLINE Bytes interleave_upper(const Bytes& a, const Bytes& b) {
  return each<Bytes>([&](int i) { return interleave_upper<Word>(a.v[i], b.v[i]); });
}

// Half of the lines of four rows, transposed in every block of four lanes: what lane 4 b + j has in
// row r's p-th pairs (Line), lane 4 b + r has in those of place 4 p + j. The first half of nvfp4
// has j < 2, of fp8 p = 0.
template <class T, int Half>
class FourLines {
  static constexpr bool nibbles = std::is_same_v<T, nvfp4>;

 public:
  template <class Read>
  HELIX_INLINE FourLines(const Values<const T> (&rows)[4], Read read) {
    // A word of fp8 is a pair.
    using Word = std::conditional_t<nibbles, uint32_t, uint16_t>;
    using Wide = std::conditional_t<nibbles, uint64_t, uint32_t>;
    const auto two = [&](int r) __attribute__((always_inline)) {
      const Bytes a = read_bytes(rows[r], read);
      const Bytes b = read_bytes(rows[r + 1], read);
      return Half == 0 ? interleave_lower<Word>(a, b) : interleave_upper<Word>(a, b);
    };
    const Bytes rows01 = two(0);
    const Bytes rows23 = two(2);
    codes_[0] = interleave_lower<Wide>(rows01, rows23);
    codes_[1] = interleave_upper<Wide>(rows01, rows23);
  }

  // The place of the i-th of four pairs, nvfp4 eight.
  static constexpr int place(int i) {
    return nibbles ? i % 4 * 4 + 2 * Half + i / 4 : 4 * Half + i;
  }
  template <int I>
  HELIX_INLINE Pairs pairs() const {
    if constexpr (nibbles) return decode_e2m1<I % 4>(codes_[I / 4]);
    else if constexpr (I % 2 == 0) return decode_e4m3(codes_[I / 2]).lower;
    else return decode_e4m3(codes_[I / 2]).upper;
  }

 private:
  Bytes codes_[2];
};

// The scales of their blocks, nvfp4: of j < 2, and of the others.
struct ScalesOfFour {
  static constexpr size_t row(size_t /*half*/, size_t lane) { return lane % 4; }
  static constexpr size_t block(size_t half, size_t lane) { return lane / 4 * 2 + half; }
};

// What they are multiplied with, of so many heads: `count` arranged values of one become the
// partners of the pairs of each place, each four times in its block, a head's beside the next
// one's, line after line.
inline void spread(const bf16* from, int64_t count, int64_t heads, int64_t head, bf16* to) {
  to += 32 * head;
  for (int64_t i = 0; i < count; i += 32, to += 128 * heads) {
    for (int64_t j = 0; j < 4; ++j) {
      for (int64_t b = 0; b < 4; ++b) {
        uint32_t pair = 0;
        std::memcpy(&pair, from + i + 8 * b + 2 * j, sizeof pair);
        const uint32_t block[4] = {pair, pair, pair, pair};
        std::memcpy(static_cast<void*>(to + 32 * j * heads + 8 * b), block, sizeof block);
      }
    }
  }
}

// Two rows. Each value stands beside the other row's: of each block of eight words of pairs, or of
// what nvfp4's words decode to, those of the first four, then those of the others.
constexpr int64_t position_beside(int64_t p, int64_t w) {
  return 32 * p + w % 8 / 4 * lane_count + w / 8 * 4 + w % 4;
}
// The same of nvfp4. A register has two blocks, one in its even lanes and one in its odd ones, for
// their weights to be a pattern of eight bytes: a wider one costs an instruction to repeat. Of the
// pairs of blocks, each has two registers: the even nibbles of words, and the odd ones.
constexpr int64_t position_of_block(int64_t p, int64_t w) {
  return (w / 8 * 2 + p % 2) * lane_count + p / 2 * 8 + w % 4 * 2 + w / 4 % 2;
}
// The Two-th two blocks of two rows' lines, in the order of position_of_block: in each lane a word
// of a's and the same of b's, whose lower nibbles are those of p % 2 == 0, and the next ones the
// others. Upper bytes may be anything.
template <int Two>
HELIX_INLINE Bytes nibbles_beside(const Bytes& a, const Bytes& b) {
  static constexpr uint8_t none = 0x80;
  alignas(64) static constexpr auto order = [] {  // in a block of 16 bytes; from 64 on b's
    std::array<uint8_t, 64> all{};
    for (size_t lane = 0; lane < lane_count; ++lane) {
      const size_t byte = lane % 2 * 8 + lane % 8 / 2 * 2 + lane / 8;
      all[4 * lane] = static_cast<uint8_t>(16 * Two + byte);
      all[4 * lane + 1] = none;
      all[4 * lane + 2] = static_cast<uint8_t>(64 + 16 * Two + byte);
      all[4 * lane + 3] = none;
    }
    return all;
  }();
#ifdef __AVX512VBMI__
  return {{hn::Vec<ByteTag>{
      _mm512_permutex2var_epi8(a.v[0].raw, _mm512_load_si512(order.data()), b.v[0].raw)}}};
#else
  static constexpr auto in_block = [](size_t first) {
    std::array<uint8_t, 64> all{};
    for (size_t i = 0; i < all.size(); ++i) {
      const bool here = order[i] != none && order[i] / 64 == first;
      all[i] = here ? static_cast<uint8_t>(order[i] % 16) : none;
    }
    return all;
  };
  alignas(64) static constexpr auto of_a = in_block(0);
  alignas(64) static constexpr auto of_b = in_block(1);
  const ByteTag d;
  alignas(64) uint8_t bytes[2][64];
  for (int i = 0; i < registers; ++i) {
    hn::Store(a.v[i], d, bytes[0] + i * register_lanes * 4);
    hn::Store(b.v[i], d, bytes[1] + i * register_lanes * 4);
  }
  const auto block_a = hn::LoadDup128(d, bytes[0] + 16 * Two);
  const auto block_b = hn::LoadDup128(d, bytes[1] + 16 * Two);
  return each<Bytes>([&](int i) {
    const int64_t from = i * register_lanes * 4;
    return hn::Or(hn::TableLookupBytesOr0(block_a, hn::Load(d, of_a.data() + from)),
                  hn::TableLookupBytesOr0(block_b, hn::Load(d, of_b.data() + from)));
  });
#endif
}

// How many times sixteen values are loaded at once: of a line, nvfp4 of one Part of it, without
// scales.
template <class T>
inline constexpr int loaded_beside = std::is_same_v<T, bf16> ? 2 : 4;
template <int Part, class T, class Read>
HELIX_INLINE void load_beside(const Values<const T>& a, const Values<const T>& b, Read read,
                              Pairs* to) {
  const Bytes first = read_bytes(a, read);
  const Bytes second = read_bytes(b, read);
  if constexpr (std::is_same_v<T, fp8>) {
    const E4m3Pairs lower = decode_e4m3(interleave_lower<uint8_t>(first, second));
    const E4m3Pairs upper = decode_e4m3(interleave_upper<uint8_t>(first, second));
    to[0] = lower.lower;
    to[1] = lower.upper;
    to[2] = upper.lower;
    to[3] = upper.upper;
  } else if constexpr (std::is_same_v<T, nvfp4>) {
    const Bytes lower = nibbles_beside<2 * Part>(first, second);
    const Bytes upper = nibbles_beside<2 * Part + 1>(first, second);
    to[0] = decode_e2m1<0>(lower);
    to[1] = decode_e2m1<1>(lower);
    to[2] = decode_e2m1<0>(upper);
    to[3] = decode_e2m1<1>(upper);
  } else {
    to[0] = std::bit_cast<Pairs>(interleave_lower<uint16_t>(first, second));
    to[1] = std::bit_cast<Pairs>(interleave_upper<uint16_t>(first, second));
  }
}

// Weights of nvfp4's rows are those of their tokens times their blocks' scales, two rows side by
// side, block after block.
inline constexpr int64_t block_weights = 8;  // of a row
struct ScalesOfPairs {
  static constexpr size_t row(size_t half, size_t lane) { return 2 * half + lane % 2; }
  static constexpr size_t block(size_t /*half*/, size_t lane) { return lane / 2; }
};
HELIX_INLINE void store_weights(const float* weights, const BlockScales& scales, uint16_t* to) {
  const auto both = [&](const float* from) {
    const hn::Repartition<uint64_t, Tag> longs;
    uint64_t pair = 0;
    std::memcpy(&pair, from, sizeof pair);
    return each([&](int) { return hn::BitCast(Tag(), hn::Set(longs, pair)); });
  };
  store_rounded(both(weights) * scales.halves[0], both(weights + 2) * scales.halves[1], to);
}
// Of the two-th two blocks, as nibbles_beside has them.
HELIX_INLINE Pairs load_weights(const uint16_t* from, int64_t two) {
  const hn::Repartition<uint64_t, Tag> longs;
  uint64_t weights = 0;
  std::memcpy(&weights, from + 4 * two, sizeof weights);
  return each<Pairs>([&](int) { return hn::BitCast(WordTag(), hn::Set(longs, weights)); });
}

}  // namespace helix::cpu
