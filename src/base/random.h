// The counter-based generator: value i of a stream depends on (stream, i) alone, so that any rank
// can make any part of a tensor. Integer arithmetic and one multiplication: the same bits anywhere.
#pragma once

#include <cstdint>

namespace helix {

// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
constexpr uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

constexpr uint64_t golden = 0x9e3779b97f4a7c15ULL;

// A key from parts, in order: the key is mixed first, so that small keys and parts do not meet
// (key ^ part alone makes one stream of seed 1, tensor 2 and seed 2, tensor 1).
constexpr uint64_t combine(uint64_t key, uint64_t part) { return mix((mix(key) ^ part) + golden); }

// One hash gives four values: lane i of 4 is bits [16i, 16i + 16).
constexpr uint64_t quad(uint64_t stream, uint64_t index) {
  return mix(stream + (index >> 2) * golden);
}

// Uniform over (-1, 1) in steps of 2^-15, exact in fp32: the 16-bit counts -32767.5 … 32767.5 /
// 2^15.
constexpr float uniform(uint64_t hash, unsigned lane) {
  const auto bits = static_cast<int32_t>((hash >> (16 * lane)) & 0xffffU);
  return static_cast<float>(2 * bits - 65535) * (1.0F / 65536.0F);
}
constexpr float uniform_at(uint64_t stream, uint64_t index) {
  return uniform(quad(stream, index), static_cast<unsigned>(index & 3U));
}

}  // namespace helix
