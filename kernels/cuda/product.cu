// y [m][n] = x [m][k] w [n][k]^T for at most 8 rows m: the time is that of reading w once.
//
// Outputs are cut evenly over clusters of 1 to 8 blocks (more where outputs are few), so that every
// SM reads the same. The warps of a cluster, 8 a block, take chunks of 128 k in turn. A slot of a
// warp's ring (device.cuh) is 16 rows of w times one chunk, beside it the chunk of x:
//   y^T [16 outputs][8 m] += w [16][128] x^T [128][8]:   tensor cores, w as it lies in memory
// Up to Tiles slots of one chunk follow each other and share its x. The warps' sums meet in the
// cluster's shared memory and are added in order of the warps. w is read ahead of the kernel
// before, x is not. fp32 activations are split into two bf16 halves: 2^-16 exact.
#include "kernels/cuda/product.h"

#include <cooperative_groups.h>

#include <algorithm>
#include <cassert>

#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

constexpr int warps = 8;
constexpr int threads = 32 * warps;
constexpr int chunk_inputs = 128;
constexpr int tile_rows = 16;
static_assert(tile_rows * chunk_inputs * 2 == slot_bytes);

// x of one chunk as fragments: two words for each step of 16 inputs. Rows beyond m repeat the last:
// they make columns of y that nobody reads.
__device__ void load_x(uint32_t (&x)[8][2], const unsigned char* from, int rows, int lane) {
#pragma unroll
  for (int step = 0; step < 8; step += 2) {
    uint32_t words[4];
    load_matrices(words, shared_address(from) +
                             swizzled(min(lane & 7, rows - 1), 2 * step + (lane >> 3), 256));
    x[step][0] = words[0];
    x[step][1] = words[1];
    x[step + 1][0] = words[2];
    x[step + 1][1] = words[3];
  }
}
__device__ void load_x(uint32_t (&x)[8][2], uint32_t (&rest)[8][2], const unsigned char* from,
                       int rows, int lane) {
  const int row = min(lane >> 2, rows - 1);
#pragma unroll
  for (int step = 0; step < 8; ++step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int k = 16 * step + 8 * half + 2 * (lane & 3);
      const float2 v =
          *reinterpret_cast<const float2*>(from + swizzled(row, k / 4, 512) + k % 4 * 4);
      x[step][half] = pack(v.x, v.y);
      rest[step][half] = pack_rest(v.x, v.y, x[step][half]);
    }
  }
}

// Which part of w a slot holds: 16 rows of one chunk. Counted, not computed: divisions by the
// number of tiles would take longer than the products.
struct Place {
  int chunk;
  int tiles;
  int step;  // warps of the cluster
  int tile = 0;
  int slot = 0;  // of the ring
  __device__ void next(int slots) {
    slot = slot == slots - 1 ? 0 : slot + 1;
    if (++tile == tiles) {
      tile = 0;
      chunk += step;
    }
  }
};

// Three slots a warp, or two where x takes their room: two blocks must fit an SM.
template <int Tiles, int slots, class Activation>
__global__ void __launch_bounds__(threads, std::is_same_v<Activation, float> ? 1 : 2)
    multiply(ProductShape shape, const Activation* x, const bf16* w, Activation* y) {
  constexpr int ring_bytes = slots * slot_bytes;  // of one warp
  constexpr bool exact = std::is_same_v<Activation, float>;
  constexpr int x_row_bytes = chunk_inputs * sizeof(Activation);
  constexpr int x_row_chunks = x_row_bytes / 16;
  extern __shared__ __align__(128) unsigned char shared[];
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int warp = static_cast<int>(threadIdx.x) >> 5;
  unsigned char* const ring = shared + warp * ring_bytes;
  const int x_slot_bytes = shape.rows * x_row_bytes;
  unsigned char* const x_ring = shared + warps * ring_bytes + warp * slots * x_slot_bytes;
  const auto cluster = cooperative_groups::this_cluster();
  const int blocks = static_cast<int>(cluster.num_blocks());
  const int block = static_cast<int>(cluster.block_rank());
  const int64_t index = blockIdx.x / blocks;
  const int64_t clusters = gridDim.x / blocks;
  const int begin = static_cast<int>(shape.outputs * index / clusters);
  const int end = static_cast<int>(shape.outputs * (index + 1) / clusters);

  release_next();
  for (int first = begin; first < end; first += Tiles * tile_rows) {
    const int tiles = min(Tiles, (end - first + tile_rows - 1) / tile_rows);
    // The slots in order; copies run `slots` of them ahead of the products.
    Place ahead{block * warps + warp, tiles, blocks * warps};
    const bf16* const w_lane = w + int64_t{first + (lane >> 4)} * shape.inputs + (lane & 15) * 8;
    const auto fetch_w = [&](const Place& at) {
      const int k = at.chunk * chunk_inputs;
      if (k >= shape.inputs) return;
      const int rows = end - first - at.tile * tile_rows - (lane >> 4);
      const bool inside = k + (lane & 15) * 8 < shape.inputs;
      const bf16* from = w_lane + int64_t{at.tile * tile_rows} * shape.inputs + k;
      const uint32_t to = shared_address(ring + at.slot * slot_bytes);
#pragma unroll
      for (int i = 0; i < slot_bytes / 512; ++i) {
        const bool valid = inside && 2 * i < rows;
        copy_chunk(to + swizzled((lane >> 4) + 2 * i, lane & 15, 256), valid ? from : w, valid);
        from += 2 * shape.inputs;
      }
    };
    const auto fetch_x = [&](const Place& at) {
      const int k = at.chunk * chunk_inputs;
      if (k >= shape.inputs || at.tile != 0) return;
      const uint32_t to = shared_address(x_ring + at.slot * x_slot_bytes);
#pragma unroll 1
      for (int i = lane; i < shape.rows * x_row_chunks; i += 32) {
        const int row = i / x_row_chunks;
        const int chunk = i % x_row_chunks;
        const int input = k + chunk * (16 / static_cast<int>(sizeof(Activation)));
        const bool valid = input < shape.inputs;
        copy_chunk(to + swizzled(row, chunk, x_row_bytes),
                   valid ? x + row * shape.x_stride + input : x, valid);
      }
    };
    Place at = ahead;
#pragma unroll 1
    for (int slot = 0; slot < slots; ++slot) {
      fetch_w(ahead);
      commit_copies();
      ahead.next(slots);
    }
    wait_for_previous();
    ahead = at;
#pragma unroll 1
    for (int slot = 0; slot < slots; ++slot) {
      fetch_x(ahead);
      commit_copies();
      ahead.next(slots);
    }

    float sums[Tiles][4] = {};
#pragma unroll 1
    while (at.chunk * chunk_inputs < shape.inputs) {
      uint32_t xs[8][2];
      [[maybe_unused]] uint32_t rests[8][2];
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) {
        if (tile >= tiles) break;
        wait_for_copies<slots - 1>();
        if (tile == 0) {
          const unsigned char* from = x_ring + at.slot * x_slot_bytes;
          if constexpr (exact) load_x(xs, rests, from, shape.rows, lane);
          if constexpr (!exact) load_x(xs, from, shape.rows, lane);
        }
        const uint32_t rows = shared_address(ring + at.slot * slot_bytes);
#pragma unroll
        for (int step = 0; step < 8; ++step) {
          uint32_t a[4];
          load_matrices(a, rows + swizzled(lane & 15, 2 * step + (lane >> 4), 256));
          multiply_add(sums[tile], a, xs[step][0], xs[step][1]);
          if constexpr (exact) multiply_add(sums[tile], a, rests[step][0], rests[step][1]);
        }
        __syncwarp();
        fetch_w(ahead);
        fetch_x(ahead);
        commit_copies();
        ahead.next(slots);
        at.next(slots);
      }
    }
    wait_for_copies<0>();

    // [tile][8 m][16 outputs] of each warp, in its ring. Thread (g, t) holds outputs g and g + 8 of
    // m = 2 t and 2 t + 1.
    float* const own = reinterpret_cast<float*>(ring);
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        own[(tile * 8 + 2 * (lane & 3) + (i & 1)) * tile_rows + lane / 4 + 8 * (i >> 1)] =
            sums[tile][i];
      }
    }
    const auto meet = [&] {
      if (blocks == 1) {
        __syncthreads();
      } else {
        cluster.sync();
      }
    };
    meet();
#pragma unroll 1
    for (int i = block * threads + static_cast<int>(threadIdx.x);
         i < tiles * tile_rows * shape.rows; i += blocks * threads) {
      const int m = i / (tiles * tile_rows);
      const int n = i % (tiles * tile_rows);
      float sum = 0;
#pragma unroll 1
      for (int other = 0; other < blocks; ++other) {
        const unsigned char* rings = blocks == 1 ? shared : cluster.map_shared_rank(shared, other);
#pragma unroll
        for (int w = 0; w < warps; ++w) {
          sum += reinterpret_cast<const float*>(
              rings + w * ring_bytes)[(n / tile_rows * 8 + m) * tile_rows + n % tile_rows];
        }
      }
      if (first + n < end) y[m * shape.y_stride + first + n] = from_float<Activation>(sum);
    }
    meet();
  }
  wait_for_previous();
}

}  // namespace

template <class Activation>
void product(const ProductShape& shape, const Activation* x, const bf16* w, Activation* y,
             const Launch& how) {
  assert(shape.rows > 0 && shape.rows <= max_product_rows && shape.inputs % 8 == 0);
  assert(shape.x_stride * static_cast<int64_t>(sizeof(Activation)) % 16 == 0 && how.blocks > 0);
  // A block with fewer than 16 outputs leaves its slots half empty.
  int cluster = 1;
  while (cluster < 8 && 2 * cluster * shape.outputs <= how.blocks * tile_rows) cluster *= 2;
  const int clusters = std::clamp(how.blocks / cluster, 1, shape.outputs);
  const int slots = shape.rows <= 2 ? 3 : 2;
  const int shared_bytes =
      warps * slots *
      (slot_bytes + shape.rows * chunk_inputs * static_cast<int>(sizeof(Activation)));
  const bool one = shape.outputs <= clusters * tile_rows;
  const auto kernel = slots == 3 ? (one ? multiply<1, 3, Activation> : multiply<8, 3, Activation>)
                                 : (one ? multiply<1, 2, Activation> : multiply<8, 2, Activation>);
  launch("product", kernel, dim3(static_cast<unsigned>(clusters * cluster)), threads, shared_bytes,
         how, cluster, shape, x, w, y);
}

template void product(const ProductShape&, const float*, const bf16*, float*, const Launch&);
template void product(const ProductShape&, const bf16*, const bf16*, bf16*, const Launch&);

}  // namespace helix::cuda
