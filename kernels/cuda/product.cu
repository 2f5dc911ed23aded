// y [m][n] = x [m][k] w [n][k]^T for few rows m: the time is that of reading w once.
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
//
// Where k stands in a fragment is free, as long as w and x agree: a lane (g, t) takes a quarter of
// the chunk, in steps of 16 values that lie side by side in memory, of output g (+ 8) and of row g.
// Quantised weights become bf16 in registers, exactly; what all have in common is multiplied in at
// the end.
#include "kernels/cuda/product.h"

#include <cooperative_groups.h>

#include <algorithm>
#include <cassert>

#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

constexpr int warps = 8;
constexpr int threads = 32 * warps;
constexpr int tile_rows = 16;
constexpr int max_experts = 512;

// A slot's chunk of w: rows of `row_bytes`, and what a step of 16 values becomes.
template <class Weight>
struct Chunk {
  static constexpr int inputs = std::is_same_v<Weight, nvfp4> ? 256 : 128;
  static constexpr int row_bytes = std::is_same_v<Weight, bf16> ? 2 * inputs : 128;
  static constexpr int row_scales = std::is_same_v<Weight, nvfp4> ? inputs / 16 : 0;
  static constexpr int bytes = tile_rows * (row_bytes + row_scales);
  static constexpr int steps = inputs / 4 / 16;
};

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
// Codes 3 and 7, 2 and 6, 1 and 5, 0 and 4 of each eight, times the block's scale. An e2m1 code in
// bf16's exponent is 2^126 too small; the scale makes good for 2^119 of it.
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
__device__ float rest_of_scale(float scale) {
  return std::is_same_v<Weight, nvfp4> ? scale * 0x1p7F : scale;
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
  uint32_t pairs[C::steps][8];

  __device__ void load(const unsigned char* from, int rows, int lane) {
    const int row = min(lane >> 2, rows - 1);
#pragma unroll
    for (int s = 0; s < C::steps; ++s) {
      const int step = step_of<C::steps>(s, lane);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint4 v = *reinterpret_cast<const uint4*>(
            from + swizzled(row, (lane & 3) * 2 * C::steps + 2 * step + i, 2 * C::inputs));
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
  for (int s = 0; s < Chunk<Weight>::steps; ++s) {
    const int step = step_of<Chunk<Weight>::steps>(s, lane);
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

// Rows of x that share one matrix: at most 8 of them.
struct Job {
  int matrix;
  int first;  // row, or pair
  int rows;
};
// The jobs of all experts: eight pairs each.
struct Jobs {
  int of_warps[warps];  // first: read 16 bytes at a time, nothing else that is written among them
  int before[max_experts + 1];  // of each expert
};
__device__ void list_jobs(const Experts& experts, Jobs& jobs) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int warp = static_cast<int>(threadIdx.x) >> 5;
  // Two experts a thread, side by side.
  int counts[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int expert = 2 * static_cast<int>(threadIdx.x) + i;
    counts[i] =
        expert < experts.count ? (experts.begins[expert + 1] - experts.begins[expert] + 7) / 8 : 0;
  }
  int sum = counts[0] + counts[1];
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0U, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) jobs.of_warps[warp] = sum;
  __syncthreads();
  for (int i = 0; i < warp; ++i) sum += jobs.of_warps[i];
  jobs.before[2 * threadIdx.x + 1] = sum - counts[1];
  jobs.before[2 * threadIdx.x + 2] = sum;
  if (threadIdx.x == 0) jobs.before[0] = 0;
  __syncthreads();
}
__device__ Job job_at(const Experts& experts, const Jobs& jobs, int index) {
  int low = 0, high = experts.count - 1;  // the last expert with before <= index
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (jobs.before[middle] <= index) low = middle;
    else high = middle - 1;
  }
  const int first = experts.begins[low] + 8 * (index - jobs.before[low]);
  return {low, first, min(8, experts.begins[low + 1] - first)};
}

// The same where each has as many rows.
__device__ __host__ int jobs_each(const Experts& experts) { return (experts.rows_each + 7) / 8; }
__device__ Job equal_job_at(const Experts& experts, int index) {
  const int first = 8 * (index % jobs_each(experts));
  return {index / jobs_each(experts), first, min(8, experts.rows_each - first)};
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

template <int Tiles, int slots, class Weight>
__global__ void __launch_bounds__(threads, 2)
    multiply(ProductShape shape, Experts experts, const bf16* x, Values<const Weight> w, void* y,
             bool wide_out) {
  using C = Chunk<Weight>;
  constexpr int ring_bytes = slots * C::bytes;  // of one warp
  static_assert(ring_bytes >= Tiles * 8 * tile_rows * 4, "a warp's sums reuse its ring");
  constexpr int x_row_bytes = C::inputs * sizeof(bf16);
  constexpr int x_row_chunks = x_row_bytes / 16;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ Jobs jobs;
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

  // The cluster's warps: `sharers` of them share a tile's chunks, the others have other tiles.
  const int chunks = (shape.inputs + C::inputs - 1) / C::inputs;
  int sharers = blocks * warps;
  while (sharers > blocks && sharers / 2 >= chunks) sharers /= 2;
  const int tile_step = blocks * warps / sharers;
  const int first_tile = (block * warps + warp) / sharers;
  const int first_chunk = (block * warps + warp) % sharers;

  release_next();
  const bool chosen = experts.begins != nullptr;
  if (chosen) {
    wait_for_previous();
    list_jobs(experts, jobs);
  }
  const int64_t outputs = int64_t{shape.outputs} * (chosen ? jobs.before[experts.count]
                                                           : experts.count * jobs_each(experts));
  const int64_t end = outputs * (index + 1) / clusters;
  int64_t stop = 0;
#pragma unroll 1
  for (int64_t begin = outputs * index / clusters; begin < end; begin = stop) {
    const int number = static_cast<int>(begin / shape.outputs);
    const Job job = chosen ? job_at(experts, jobs, number) : equal_job_at(experts, number);
    const auto place_of = [&](int row) {
      return chosen ? int64_t{job.first + row}
                    : int64_t{job.first + row} * experts.count + job.matrix;
    };
    const int first = static_cast<int>(begin - int64_t{number} * shape.outputs);
    const int last = static_cast<int>(min(min(end - begin, int64_t{shape.outputs - first}),
                                          int64_t{Tiles} * tile_rows * tile_step));
    stop = begin + last;
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
      constexpr int row_chunks = C::row_bytes / 16;
      constexpr int values = C::inputs / row_chunks;  // of 16 bytes
      const uint32_t to = shared_address(ring + place.slot * C::bytes);
      const int column = lane % row_chunks;
      const bool inside = k + column * values < shape.inputs;
      const auto from = w.at((row_0 + place.tile * tile_rows) * shape.inputs + k);
#pragma unroll
      for (int i = 0; i < tile_rows * row_chunks / 32; ++i) {
        const int row = lane / row_chunks + 32 / row_chunks * i;
        const bool valid = inside && place.tile * tile_rows + row < last;
        const auto source = from.at(valid ? int64_t{row} * shape.inputs + column * values : 0);
        if constexpr (std::is_same_v<Weight, nvfp4>) {
          copy_chunk(to + swizzled(row, column, 128), source.codes, valid);
        } else {
          copy_chunk(to + swizzled(row, column, C::row_bytes), source.data, valid);
        }
      }
      if constexpr (std::is_same_v<Weight, nvfp4>) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = lane / 4 + 8 * i;
          const bool valid =
              k + lane % 4 * 64 < shape.inputs && place.tile * tile_rows + row < last;
          const auto source = from.at(valid ? int64_t{row} * shape.inputs + lane % 4 * 64 : 0);
          copy_word(to + tile_rows * 128 + row * 16 + lane % 4 * 4, source.scales, valid);
        }
      }
    };
    const auto fetch_x = [&](const Place& place) {
      const int k = place.chunk * C::inputs;
      if (k >= shape.inputs || place.tile != first_tile) return;
      const uint32_t to = shared_address(x_ring + place.slot * x_slot_bytes);
#pragma unroll 1
      for (int i = lane; i < job.rows * x_row_chunks; i += 32) {
        const int row = i / x_row_chunks;
        const int chunk = i % x_row_chunks;
        const int input = k + chunk * (16 / static_cast<int>(sizeof(bf16)));
        const bool valid = input < shape.inputs;
        const int64_t from =
            experts.row_of == nullptr ? place_of(row) : experts.row_of[job.first + row];
        copy_chunk(to + swizzled(row, chunk, x_row_bytes),
                   valid ? x + from * shape.x_stride + input : x, valid);
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
        wait_for_copies<slots - 1>();
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
    for (int i = block * threads + static_cast<int>(threadIdx.x); i < tiles * tile_rows * job.rows;
         i += blocks * threads) {
      const int m = i / (tiles * tile_rows);
      const int n = i % (tiles * tile_rows);
      const int tile = n / tile_rows;
      const int place = (tile / tile_step * 8 + m) * tile_rows + n % tile_rows;
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
      const int64_t to = place_of(m) * shape.y_stride + first + n;
      if (wide_out) static_cast<float*>(y)[to] = sum;
      else static_cast<bf16*>(y)[to] = to_bf16(sum);
    }
    meet();
  }
  wait_for_previous();
}

template <class Weight>
void start(ProductShape shape, const Experts& experts, const bf16* x, const Values<const Weight>& w,
           void* y, bool wide_out, const Launch& how) {
  using C = Chunk<Weight>;
  assert(served<Weight>(shape) && shape.rows > 0);
  shape.rows = std::min(shape.rows, max_product_rows);  // at once
  assert(shape.x_stride * static_cast<int64_t>(sizeof(bf16)) % 16 == 0 && how.blocks > 0);
  assert(experts.begins == nullptr || experts.count <= max_experts);
  const bool single = experts.begins == nullptr && experts.count == 1;
  // A block with fewer than 16 outputs leaves its slots half empty. How many outputs the experts
  // have that were chosen, only the device knows.
  const int64_t outputs = shape.outputs;
  int cluster = 1;
  while (single && cluster < 8 && 2 * cluster * outputs <= how.blocks * tile_rows) {
    cluster *= 2;
  }
  const int clusters =
      single ? std::clamp(how.blocks / cluster, 1, shape.outputs * jobs_each(experts)) : how.blocks;
  const auto start = [&](auto kernel, int slots) {
    const int x_bytes = shape.rows * C::inputs * static_cast<int>(sizeof(bf16));
    const int ring_bytes = warps * slots * (C::bytes + x_bytes);
    // Clusters of blocks that each want an SM of their own would not all find room at once.
    launch("product", kernel, dim3(static_cast<unsigned>(clusters * cluster)), threads,
           cluster > 1 ? ring_bytes : lone_block_bytes(ring_bytes, how), how, cluster, shape,
           experts, x, w, y, wide_out);
  };
  if constexpr (std::is_same_v<Weight, bf16>) {
    const bool one = single && outputs * jobs_each(experts) <= clusters * tile_rows;
    if (shape.rows <= 2) {
      start(one ? multiply<1, 3, Weight> : multiply<8, 3, Weight>, 3);
    } else {
      start(one ? multiply<1, 2, Weight> : multiply<8, 2, Weight>, 2);
    }
  } else {
    // Twice the inputs take the registers of more sums.
    start(multiply < std::is_same_v<Weight, nvfp4> ? 3 : 8, 3, Weight >, 3);
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
