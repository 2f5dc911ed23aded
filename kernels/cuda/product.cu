// y [m][n] = x [m][k] w [n][k]^T for few rows m: the time is that of reading w once. Here up to
// eight rows at a time; more: product_wide.cu.
//
// All outputs (of all matrices that have rows, eight rows at a time) stand in one line, cut evenly
// over clusters of 1 to 8 blocks (more where outputs are few), so that every SM reads the same. The
// warps of a cluster, 8 a block, take chunks of k in turn; where there are fewer chunks than warps,
// they take tiles of outputs in turn as well. A slot of a warp's ring (device.cuh) is a tile of 16
// rows of w times one chunk, beside it the chunk of x:
//   y^T [16 outputs][8 m] += w [16][chunk] x^T [chunk][8]:   tensor cores
// Up to Tiles slots of one chunk follow each other and share its x. The warps' sums meet in the
// cluster's shared memory and are added in order of the warps. w is read ahead of the kernel
// before, x is not, nor are experts, which the kernel before may have chosen.
#include "kernels/cuda/product.h"

#include <cooperative_groups.h>

#include <algorithm>
#include <cassert>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/product_jobs.cuh"
#include "kernels/cuda/product_slots.cuh"

namespace helix::cuda {
namespace {

constexpr int warps = product_warps;
constexpr int threads = product_threads;
constexpr int most_rows = max_product_rows;
constexpr int most_slots = 3;           // of a warp's ring
constexpr int third_of_sm = 77 * 1024;  // of its shared memory, and more: no SM gets three blocks

// Where k stands in a fragment is free, as long as w and x agree: a lane (g, t) takes a quarter of
// the chunk, in steps of 16 values that lie side by side in memory, of output g (+ 8) and of row g.
template <class Weight>
constexpr int steps = Chunk<Weight>::inputs / 4 / 16;

// Which step a lane takes s-th: so that the lanes of a load lie in different banks.
template <int Steps>
__device__ int step_of(int s, int lane) {
  return s ^ (Steps == 4 ? lane & 3 : (lane & 3) >> 1);
}

// 16 values of one row as 8 pairs for products: of w, and of x in the same order.
__device__ void load_pairs(const unsigned char* slot, int row, int step, int lane, const bf16*,
                           uint32_t (&pairs)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint4 v =
        *reinterpret_cast<const uint4*>(slot + swizzled(row, (lane & 3) * 4 + 2 * step + i, 256));
    pairs[4 * i] = v.x;
    pairs[4 * i + 1] = v.y;
    pairs[4 * i + 2] = v.z;
    pairs[4 * i + 3] = v.w;
  }
}
// Codes 1 and 3, then 0 and 2 of each four. An e4m3 code whose exponent is put into bf16's is 2^120
// too small.
__device__ void load_pairs(const unsigned char* slot, int row, int step, int lane, const fp8*,
                           uint32_t (&pairs)[8]) {
  const uint4 v = *reinterpret_cast<const uint4*>(slot + swizzled(row, (lane & 3) * 2 + step, 128));
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t w = i & 1 ? words[i / 2] << 8 : words[i / 2];
    pairs[i] = multiply_pairs((w & 0x80008000U) | (w >> 4 & 0x07f007f0U), 0x7b807b80U);
  }
}
// Codes 3 and 7, 2 and 6, 1 and 5, 0 and 4 of each eight, times the block's scale.
__device__ void load_pairs(const unsigned char* slot, int row, int step, int lane, const nvfp4*,
                           uint32_t (&pairs)[8]) {
  const uint2 v = *reinterpret_cast<const uint2*>(
      slot + swizzled(row, (lane & 3) * 2 + step / 2, 128) + step % 2 * 8);
  const uint32_t code = slot[tile_rows * 128 + row * 16 + (lane & 3) * 4 + step];
  const float scale =
      __uint_as_float((code & 0x80) << 24 | (code & 0x7f) << 20) * 0x1p120F * 0x1p119F;
  const uint32_t scales = pack(scale, scale);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t w = (i < 4 ? v.x : v.y) << (4 * (i & 3));
    pairs[i] = multiply_pairs((w & 0x80008000U) | (w >> 6 & 0x01c001c0U), scales);
  }
}
template <class Weight>
__device__ void order_pairs(uint32_t (&x)[8]) {
  if constexpr (std::is_same_v<Weight, fp8>) {
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const uint32_t low = x[i], high = x[i + 1];
      x[i] = __byte_perm(low, high, 0x7632);
      x[i + 1] = __byte_perm(low, high, 0x5410);
    }
  } else if constexpr (std::is_same_v<Weight, nvfp4>) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      const uint32_t a = x[i], b = x[i + 1], c = x[i + 2], d = x[i + 3];
      x[i] = __byte_perm(b, d, 0x7632);
      x[i + 1] = __byte_perm(b, d, 0x5410);
      x[i + 2] = __byte_perm(a, c, 0x7632);
      x[i + 3] = __byte_perm(a, c, 0x5410);
    }
  }
}

// x of one chunk. Rows beyond the last repeat it: they make columns of y that nobody reads.
template <class Weight>
struct Inputs {
  using C = Chunk<Weight>;
  uint32_t pairs[steps<Weight>][8];

  __device__ void load(const unsigned char* from, int rows, int lane) {
    const int row = min(lane >> 2, rows - 1);
#pragma unroll
    for (int s = 0; s < steps<Weight>; ++s) {
      const int step = step_of<steps<Weight>>(s, lane);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint4 v = *reinterpret_cast<const uint4*>(
            from + swizzled(row, (lane & 3) * 2 * steps<Weight> + 2 * step + i, C::x_row_bytes));
        pairs[s][4 * i] = v.x;
        pairs[s][4 * i + 1] = v.y;
        pairs[s][4 * i + 2] = v.z;
        pairs[s][4 * i + 3] = v.w;
      }
      order_pairs<Weight>(pairs[s]);
    }
  }
};

template <class Weight>
__device__ void add_tile(float (&sum)[4], const unsigned char* slot, const Inputs<Weight>& x,
                         int lane) {
#pragma unroll
  for (int s = 0; s < steps<Weight>; ++s) {
    const int step = step_of<steps<Weight>>(s, lane);
    uint32_t low[8], high[8];
    load_pairs(slot, lane >> 2, step, lane, static_cast<const Weight*>(nullptr), low);
    load_pairs(slot, (lane >> 2) + 8, step, lane, static_cast<const Weight*>(nullptr), high);
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const uint32_t a[4] = {low[i], high[i], low[i + 1], high[i + 1]};
      multiply_add(sum, a, x.pairs[s][i], x.pairs[s][i + 1]);
    }
  }
}

// Which part of w a slot holds: 16 rows of one chunk. Counted, not computed: divisions by the
// number of tiles would take longer than the products.
struct Place {
  int chunk;
  int tile;
  int slot = 0;  // of the ring
  __device__ void next(int slots, int first_tile, int tile_step, int tiles, int chunk_step) {
    slot = slot == slots - 1 ? 0 : slot + 1;
    tile += tile_step;
    if (tile >= tiles) {
      tile = first_tile;
      chunk += chunk_step;
    }
  }
};

// Slots: of a warp's ring, fixed for fewer instructions; bf16 has those that are asked for.
template <int Tiles, class Weight, int Slots = most_slots>
__global__ void __launch_bounds__(threads, 2)
    multiply(ProductShape shape, Experts experts, const bf16* x, Values<const Weight> w, void* y,
             bool wide_out, int slots_asked) {
  using C = Chunk<Weight>;
  static_assert(2 * C::bytes >= Tiles * most_rows * tile_rows * 4, "a warp's sums reuse its ring");
  const int slots = std::is_same_v<Weight, bf16> ? slots_asked : Slots;
  const int ring_bytes = slots * C::bytes;  // of one warp
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ Jobs<most_rows> jobs;
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int warp = static_cast<int>(threadIdx.x) >> 5;
  unsigned char* const ring = shared + warp * ring_bytes;
  const int x_slot_bytes = shape.rows * C::x_row_bytes;
  unsigned char* const x_ring = shared + warps * ring_bytes + warp * slots * x_slot_bytes;
  const auto cluster = cooperative_groups::this_cluster();
  const int blocks = static_cast<int>(cluster.num_blocks());
  const int block = static_cast<int>(cluster.block_rank());
  const int64_t index = blockIdx.x / blocks;
  const int64_t clusters = gridDim.x / blocks;

  // The cluster's warps: `sharers` of them share a tile's chunks, the others have other tiles.
  const int chunks = (shape.inputs + C::inputs - 1) / C::inputs;
  int sharers = blocks * warps;
  while (sharers > blocks && sharers / 2 >= chunks) sharers /= 2;
  const int tile_step = blocks * warps / sharers;
  const int first_tile = (block * warps + warp) / sharers;
  const int first_chunk = (block * warps + warp) % sharers;

  release_next();
  if (experts.begins != nullptr) {
    wait_for_previous();
    jobs.list(experts);
  }
  const int most = Tiles * tile_rows * tile_step;
  for_passes(shape, experts, jobs, index, clusters, most, [&](const Job& job, int first, int last) {
    const int tiles = (last + tile_rows - 1) / tile_rows;

    // The slots in order; copies run `slots` of them ahead of the products.
    const auto next = [&](Place& place) {
      place.next(slots, first_tile, tile_step, tiles, sharers);
    };
    Place at{first_tile < tiles ? first_chunk : chunks, first_tile};
    Place ahead = at;
    const int64_t row_0 = int64_t{job.matrix} * shape.outputs + first;
    const auto fetch_w = [&](const Place& place) {
      const int k = place.chunk * C::inputs;
      if (k >= shape.inputs) return;
      fetch_tile<false>(ring + place.slot * C::bytes,
                        w.at((row_0 + place.tile * tile_rows) * shape.inputs + k), shape.inputs,
                        last - place.tile * tile_rows, shape.inputs - k, lane);
    };
    const auto fetch_x = [&](const Place& place) {
      const int k = place.chunk * C::inputs;
      if (k >= shape.inputs || place.tile != first_tile) return;
      constexpr int row_chunks = C::x_row_bytes / 16;
      const uint32_t to = shared_address(x_ring + place.slot * x_slot_bytes);
      const int chunk = lane % row_chunks;
      const int input = k + chunk * 8;
      const bool valid = input < shape.inputs;
#pragma unroll 1
      for (int row = lane / row_chunks; row < job.rows; row += 32 / row_chunks) {
        copy_chunk(to + swizzled(row, chunk, C::x_row_bytes),
                   x + row_of_x(experts, job, row) * shape.x_stride + input, valid);
      }
    };
#pragma unroll 1
    for (int slot = 0; slot < slots; ++slot) {
      fetch_w(ahead);
      commit_copies();
      next(ahead);
    }
    wait_for_previous();
    ahead = at;
#pragma unroll 1
    for (int slot = 0; slot < slots; ++slot) {
      fetch_x(ahead);
      commit_copies();
      next(ahead);
    }

    float sums[Tiles][4] = {};
#pragma unroll 1
    while (at.chunk < chunks) {
      Inputs<Weight> inputs;
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) {
        if (first_tile + tile * tile_step >= tiles) break;
        slots == most_slots ? wait_for_copies<most_slots - 1>() : wait_for_copies<most_slots - 2>();
        if (tile == 0) {
          inputs.load(x_ring + at.slot * x_slot_bytes, job.rows, lane);
        }
        add_tile(sums[tile], ring + at.slot * C::bytes, inputs, lane);
        __syncwarp();
        fetch_w(ahead);
        fetch_x(ahead);
        commit_copies();
        next(ahead);
        next(at);
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
        own[(tile * most_rows + 2 * (lane & 3) + (i & 1)) * tile_rows + lane / 4 + 8 * (i >> 1)] =
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
    for (int i = block * threads + static_cast<int>(threadIdx.x); i < tiles * tile_rows * job.rows;
         i += blocks * threads) {
      const int m = i / (tiles * tile_rows);
      const int n = i % (tiles * tile_rows);
      const int tile = n / tile_rows;
      const int place = (tile / tile_step * most_rows + m) * tile_rows + n % tile_rows;
      float sum = 0;
#pragma unroll 8  // so many are asked for at once
      for (int sharer = 0; sharer < sharers; ++sharer) {
        const int other = tile % tile_step * sharers + sharer;
        const unsigned char* rings =
            blocks == 1 ? shared : cluster.map_shared_rank(shared, other / warps);
        sum += reinterpret_cast<const float*>(rings + other % warps * ring_bytes)[place];
      }
      if (n >= last) continue;
      sum *= rest_of_scale<Weight>(w.scale);
      const int64_t to = row_of_y(experts, job, m) * shape.y_stride + first + n;
      if (wide_out) static_cast<float*>(y)[to] = sum;
      else static_cast<bf16*>(y)[to] = to_bf16(sum);
    }
    meet();
  });
  wait_for_previous();
}

template <class Weight>
void start(ProductShape shape, const Experts& experts, const bf16* x, const Values<const Weight>& w,
           void* y, bool wide_out, const Launch& how) {
  using C = Chunk<Weight>;
  assert(served<Weight>(shape) && shape.rows > 0);
  assert(shape.x_stride * static_cast<int64_t>(sizeof(bf16)) % 16 == 0 && how.blocks > 0);
  const bool chosen = experts.begins != nullptr;
  assert(!chosen || experts.count <= max_experts);
  if (shape.rows > most_rows || (!chosen && experts.count > 1) ||
      !copies_scales<Weight>(shape.inputs))
    return start_wide(shape, experts, x, w, y, wide_out, how);
  if (chosen) shape.rows = most_rows;  // some expert may have as many
  // A block with fewer than 16 outputs leaves its slots half empty. How many outputs the experts
  // have that were chosen, only the device knows.
  const int64_t outputs = shape.outputs;
  int cluster = 1;
  while (!chosen && cluster < 8 && 2 * cluster * outputs <= how.blocks * tile_rows) cluster *= 2;
  // Quantised weights take so many instructions that, where outputs suffice, an SM has two blocks:
  // one works while the other waits.
  const bool paired = !std::is_same_v<Weight, bf16> && outputs >= 2 * how.blocks * tile_rows;
  const int blocks = paired ? 2 * how.blocks : how.blocks;
  const int clusters = chosen ? blocks : std::clamp(blocks / cluster, 1, shape.outputs);
  // A second block finds room beside two slots and eight rows of x, beside three and fewer rows.
  const int rows_of_three = std::is_same_v<Weight, bf16> ? 2 : paired ? 4 : most_rows;
  const bool full = std::is_same_v<Weight, fp8> || shape.rows <= rows_of_three;
  const int slots = full ? most_slots : most_slots - 1;
  const int ring_bytes = warps * slots * (C::bytes + shape.rows * C::x_row_bytes);
  const auto start = [&](auto kernel) {
    // Clusters of blocks that each want an SM of their own would not all find room at once.
    const int bytes = cluster > 1 ? ring_bytes
                      : paired    ? std::max(ring_bytes, third_of_sm)
                                  : lone_block_bytes(ring_bytes, how);
    launch("product", kernel, dim3(static_cast<unsigned>(clusters * cluster)), threads, bytes, how,
           cluster, shape, experts, x, w, y, wide_out, slots);
  };
  if constexpr (std::is_same_v<Weight, bf16>) {
    start(!chosen && outputs <= clusters * tile_rows ? multiply<1, Weight> : multiply<8, Weight>);
  } else if constexpr (std::is_same_v<Weight, nvfp4>) {
    // Twice the inputs take the registers of more sums.
    start(full ? multiply<3, Weight> : multiply<3, Weight, most_slots - 1>);
  } else {
    start(multiply<8, Weight>);
  }
}

}  // namespace

template <class Weight>
void product(const ProductShape& shape, const bf16* x, const Values<const Weight>& w, bf16* y,
             const Launch& how) {
  start(shape, {.count = 1, .rows_each = shape.rows}, x, w, y, false, how);
}

template <class Weight, class Out>
void experts_product(const ProductShape& shape, const Experts& experts, const bf16* x,
                     const Values<const Weight>& w, Out* y, const Launch& how) {
  start(shape, experts, x, w, y, std::is_same_v<Out, float>, how);
}

#define INSTANTIATE(Weight)                                                                   \
  template void product(const ProductShape&, const bf16*, const Values<const Weight>&, bf16*, \
                        const Launch&);                                                       \
  template void experts_product(const ProductShape&, const Experts&, const bf16*,             \
                                const Values<const Weight>&, float*, const Launch&);          \
  template void experts_product(const ProductShape&, const Experts&, const bf16*,             \
                                const Values<const Weight>&, bf16*, const Launch&);
INSTANTIATE(bf16)
INSTANTIATE(fp8)
INSTANTIATE(nvfp4)
#undef INSTANTIATE

}  // namespace helix::cuda
