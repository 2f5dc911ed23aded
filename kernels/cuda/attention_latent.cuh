// The tiles of MLA's attention (attention_latent.cu) in shared memory, and who brings them there:
// a warpgroup that only copies, as room comes.
//
// A tile is 64 tokens of 576 numbers, as bf16: 9 blocks of [64 tokens][128 bytes]. It comes and
// goes in parts: the halves of the value, and the rotated part of the key. Even tiles have their
// first half first, odd ones their second: that of the warpgroup that owns the tile
// (attention_latent.cu).
#pragma once

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace helix::cuda::latent {

inline constexpr int group_threads = 128;  // of a warpgroup
inline constexpr int copiers = 2 * group_threads;
inline constexpr int block_heads = 64;
inline constexpr int head_size = 576;
inline constexpr int value_size = 512;
inline constexpr int tile_tokens = attention_tile(head_size);
static_assert(tile_tokens == block_heads && tile_tokens == 64 && value_size == 512);

// Queries and tiles: blocks of 64 rows, 128 bytes each.
inline constexpr int block_bytes = 64 * 128;
inline constexpr int blocks = head_size / 64;
inline constexpr int parts = 3;  // of a tile: half 0, half 1, rotated
inline constexpr int rotated = 2;
constexpr int blocks_of(int part) { return part == rotated ? 1 : 4; }

struct Shared {
  unsigned char queries[blocks * block_bytes];
  unsigned char tiles[2][blocks * block_bytes];
  unsigned char weights[block_bytes];
  float maxima[2][block_heads];  // after tile i: [i % 2]
  float keeps[block_heads];      // by which the newest weights' tile scales what was before it
  float sums[2][block_heads];
  uint64_t full[2][parts];   // every copier arrives
  uint64_t empty[2][parts];  // a warp of who reads it last arrives
  // Not those of bar.sync between the two that attend: racecheck does not follow these where they
  // are for a part of the block.
  uint64_t weighed[2];  // each thread that made a tile's weights arrives
  uint64_t both;        // twice a segment
};

// Which of the two places a tile of the block's sequence has, and in which round.
struct Place {
  int slot;
  int parity;
  __device__ explicit Place(int tile) : slot(tile & 1), parity(tile >> 1 & 1) {}
};

// Blocks [first, first + count) of 64 rows of 576 numbers, which stand one after another; zeros
// from row `there` on.
template <int count>
__device__ void fetch_blocks(int thread, const bf16* from, int there, uint32_t to, int first) {
  const int my_row = thread / 8;
  from += (my_row < there ? my_row * head_size : 0) + thread % 8 * 8 + first * 64;
  to += first * block_bytes + swizzled(my_row, thread % 8, 128);
#pragma unroll
  for (int row = 0; row < 64; row += copiers / 8) {
    const bool valid = my_row + row < there;
#pragma unroll
    for (int block = 0; block < count; ++block) {
      copy_chunk(to + block * block_bytes + row * 128,
                 from + (valid ? row * head_size + block * 64 : 0), valid);
    }
  }
}

// 16 quantised values as they are read: codes, nvfp4 also with their block's scale.
__device__ inline uint4 read16(const Values<const fp8>& from) {
  return __ldcg(reinterpret_cast<const uint4*>(from.data));
}
__device__ inline uint4 read16(const Values<const nvfp4>& from) {
  const uint2 codes = __ldcg(reinterpret_cast<const uint2*>(from.codes));
  return make_uint4(codes.x, codes.y, from.scales->bits, 0);
}
// The same as bf16; fp8: NaN as 480, and `nan` gets signs (nvfp4: a value times its block's scale
// has 6 bits).
__device__ inline void widen16(const uint4& read, const fp8*, uint32_t& nan, uint32_t (&to)[8]) {
  const uint32_t words[4] = {read.x, read.y, read.z, read.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    to[i] = widen(words[i / 2], i % 2 * 2, i % 2 * 2 + 1);
    if (i % 2 == 0) nan |= turned(words[i / 2]);
  }
}
__device__ inline void widen16(const uint4& read, const nvfp4*, uint32_t&, uint32_t (&to)[8]) {
  const uint32_t scales = (read.z & 0x7f) == 0x7f ? 0x7fc07fc0U : widen(read.z, 0, 0);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t word = i < 4 ? read.x : read.y;
    const uint32_t apart = pick_bytes(word << 4, word, 0xc480 + 0x1111 * (i & 3));
    to[i] = multiply_pairs(multiply_pairs(apart << 2 & 0x81c081c0U, 0x7e807e80U), scales);  // 2^126
  }
}

// The tiles of one segment.
template <class Kv>
struct Copier {
  Shared& shared;
  const KvView& kv;
  const Segment& at;
  const int before;  // tiles of the block before this segment's
  const int thread = static_cast<int>(threadIdx.x) % copiers;
  const int64_t keys = kv.keys[at.pair];

  __device__ Values<const Kv> rows_of(int i) const {
    return values_of<Kv>(kv, 1).at(
        keys + token_offset(kv, at.row, (at.first + i) * tile_tokens, head_size));
  }
  __device__ int there(int i) const { return at.tokens - (at.first + i) * tile_tokens; }
  // The newest token alone may not be read ahead.
  __device__ void wait_for_newest(int i) const {
    if (there(i) <= tile_tokens) wait_for_previous();
  }
  __device__ int tiles() const { return at.last - at.first; }
  __device__ void wait_for_room(const Place& place, int part) const {
    wait_for_phase(&shared.empty[place.slot][part], place.parity ^ 1);
  }

  __device__ void copy() const requires std::is_same_v<Kv, bf16> {
#pragma unroll 1
    for (int i = 0; i < tiles(); ++i) {
      const Place place(before + i);
      const uint32_t to = shared_address(shared.tiles[place.slot]);
      wait_for_newest(i);
      const bf16* const from = rows_of(i).data;
      wait_for_room(place, rotated);
      fetch_blocks<1>(thread, from, there(i), to, 8);
      arrive_with_copies(&shared.full[place.slot][rotated]);
#pragma unroll 1
      for (int n = 0; n < 2; ++n) {
        const int half = n ^ (i & 1);
        wait_for_room(place, half);
        fetch_blocks<4>(thread, from, there(i), to, 4 * half);
        arrive_with_copies(&shared.full[place.slot][half]);
      }
    }
  }

  // Quantised: values become bf16 on their way through registers. A thread has 16 values of two
  // tokens in each block, and the next tile's are under way while these are written. No fence here:
  // it would wait for them. Who reads the tile has one.
  __device__ unsigned char* place_of(int i, int block, int half) const {
    return shared.tiles[Place(before + i).slot] + block * block_bytes +
           swizzled(thread / 4, thread % 4 * 2 + half, 128);
  }
  // fp8 has no 480: where it was written, NaN was read.
  __device__ void mend(int i, int part) const {
#pragma unroll 1
    for (int n = 0; n < 2 * blocks_of(part); ++n) {
      auto* const words = reinterpret_cast<uint32_t*>(place_of(i, 4 * part + n / 2, n % 2));
#pragma unroll 1
      for (int w = 0; w < 4; ++w) {
        if ((words[w] & 0x7fffU) == 0x43f0) words[w] |= 0x7fc0;
        if ((words[w] >> 16 & 0x7fffU) == 0x43f0) words[w] |= 0x7fc0U << 16;
      }
    }
  }
  __device__ void copy() const requires(!std::is_same_v<Kv, bf16>) {
    uint4 held[parts][4];
    const auto part_of = [](int i, int nth) { return nth == 0 ? rotated : (nth - 1) ^ (i & 1); };
    // Beyond the last token the last one again, which weighs nothing: without a branch, or nvcc
    // loads into other registers and waits to copy them.
    Values<const Kv> mine;
    const auto turn_to = [&](int i) {
      wait_for_newest(i);
      const int row = min(thread / 4, there(i) - 1);
      mine = rows_of(i).at(row * head_size + thread % 4 * 16);
    };
    const auto go_to = [&](int i, int nth) {  // the part that comes nth, from the one before
      const int parts_on = part_of(i, nth) - (nth == 0 ? 0 : part_of(i, nth - 1));
      mine = mine.at(4 * 64 * parts_on);
    };
    turn_to(0);
#pragma unroll
    for (int nth = 0; nth < parts; ++nth) {
      go_to(0, nth);
#pragma unroll
      for (int block = 0; block < (nth == 0 ? 1 : 4); ++block) {
        held[nth][block] = read16(mine.at(64 * block));
      }
    }
#pragma unroll 1
    for (int i = 0; i < tiles(); ++i) {
      const Place place(before + i);
      turn_to(min(i + 1, tiles() - 1));
#pragma unroll
      for (int nth = 0; nth < parts; ++nth) {
        const int part = part_of(i, nth);
        wait_for_room(place, part);
        go_to(i + 1, nth);
        uint32_t nan = 0;
#pragma unroll
        for (int block = 0; block < (nth == 0 ? 1 : 4); ++block) {
          uint4& of = held[nth][block];
          uint32_t v[8];
          widen16(of, static_cast<const Kv*>(nullptr), nan, v);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            *reinterpret_cast<uint4*>(place_of(i, 4 * part + block, half)) =
                make_uint4(v[4 * half], v[4 * half + 1], v[4 * half + 2], v[4 * half + 3]);
          }
          of = read16(mine.at(64 * block));
        }
        if ((nan & 0x80808080U) != 0) mend(i, part);
        arrive(&shared.full[place.slot][part]);
      }
    }
  }
};

}  // namespace helix::cuda::latent
