// y [m][n] = x [m][k] w [n][k]^T for more than eight rows m, and for a matrix a head: up to 64 rows
// at a time share what is read of w, and what it becomes as bf16. Hopper's tensor cores, a
// warpgroup a tile:
//   y^T [64 outputs][64 m] += w [64][16] x^T [16][64]:   w in registers, x in shared memory
//
// The line of outputs is cut over clusters as in product.cu, and taken in passes of up to 4 tiles;
// the blocks of a cluster take chunks of k in turn. A stage of a block's ring holds one chunk: x of
// all rows, and slots of w (product_slots.cuh), four a tile. One warpgroup fills stages, two
// multiply, each up to 2 tiles. The blocks' sums meet in the cluster's shared memory and are added
// in order of the blocks. What is read ahead: as in product.cu.
#include <cooperative_groups.h>

#include <algorithm>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/product_jobs.cuh"
#include "kernels/cuda/product_slots.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace helix::cuda {
namespace {

constexpr int group_threads = 128;
constexpr int multipliers = 2;  // warpgroups
constexpr int threads = (multipliers + 1) * group_threads;
constexpr int most_rows = 64;
constexpr int tile_outputs = 64;
constexpr int tile_slots = tile_outputs / tile_rows;  // a warp's each
constexpr int group_tiles = 2;
constexpr int most_tiles = multipliers * group_tiles;
constexpr int most_outputs = most_tiles * tile_outputs;
constexpr int64_t tiles_of(int64_t outputs) { return (outputs + tile_outputs - 1) / tile_outputs; }
constexpr int most_stages = 4;
constexpr int most_bytes = 224 * 1024;        // beside the list of jobs
constexpr int block_bytes = most_rows * 128;  // 64 values of each row of x

// A block's memory: stages, and the sums of a pass.
struct Ring {
  int stages;  // at least 2
  int tiles;   // of a pass
  // For clusters of so many outputs.
  template <class Weight>
  __device__ __host__ static Ring of(int64_t outputs) {
    Ring ring{0, static_cast<int>(tiles_of(outputs < most_outputs ? outputs : most_outputs))};
    const auto room = [&] { return (most_bytes - ring.sums_bytes()) / ring.stage_bytes<Weight>(); };
    while (room() < 2) --ring.tiles;
    ring.stages = room() < most_stages ? room() : most_stages;
    return ring;
  }
  template <class Weight>
  __device__ __host__ int stage_bytes() const {
    return most_rows * Chunk<Weight>::x_row_bytes + tiles * tile_slots * Chunk<Weight>::bytes;
  }
  // Of a row of sums: so that the rows of a fragment lie in different banks.
  __device__ __host__ int pitch() const { return tiles * tile_outputs + 4; }
  __device__ __host__ int sums_bytes() const { return most_rows * pitch() * 4; }
  template <class Weight>
  int bytes() const {
    return stages * stage_bytes<Weight>() + sums_bytes();
  }
};
// A stage in its turn, and the parity of that turn.
struct Turn {
  int stage = 0;
  int parity = 0;
  __device__ void next(int stages) {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }
};

// Products read registers for as long as they run: none may be used anew before.
__device__ void keep(Fragments& a) {
#pragma unroll
  for (auto& fragment : a) {
    asm volatile("" : "+r"(fragment[0]), "+r"(fragment[1]), "+r"(fragment[2]), "+r"(fragment[3]));
  }
}

// Adds the products of a warpgroup's tiles over one chunk, of which `inputs` are there: `slot` is
// the warp's of the first tile. Two parts' fragments take turns.
template <int Tiles, class Weight>
__device__ void add_chunk(float (&sums)[group_tiles][32], const unsigned char* slot, uint32_t x,
                          int inputs, int lane) {
  constexpr int apart = multipliers * tile_slots * Chunk<Weight>::bytes;
  Fragments a[2][Tiles] = {};
#pragma unroll 1
  for (int block = 0; block * 64 < inputs; ++block) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) {
        load_fragments(slot + tile * apart, 2 * block + half, lane,
                       static_cast<const Weight*>(nullptr), a[half][tile]);
      }
      begin_products();
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint64_t b = factor(x + block * block_bytes + (2 * half + i) * 32);
#pragma unroll
        for (int tile = 0; tile < Tiles; ++tile) multiply_rows(sums[tile], a[half][tile][i], b);
      }
      commit_products();
      wait_for_products<1>();  // those before these
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) keep(a[half ^ 1][tile]);
    }
  }
  wait_for_products();
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile) keep(a[1][tile]);
}

// What a block's threads know of a launch.
template <class Weight>
struct Block {
  using C = Chunk<Weight>;
  const ProductShape& shape;
  const Experts& experts;
  const Ring& ring;
  unsigned char* memory;
  uint64_t* full;   // [stages]
  uint64_t* empty;  // [stages]
  int rank;         // in the cluster
  int blocks;
  int warp = static_cast<int>(threadIdx.x) / 32;
  int lane = static_cast<int>(threadIdx.x) % 32;

  __device__ unsigned char* x(int stage) const {
    return memory + stage * ring.stage_bytes<Weight>();
  }
  __device__ unsigned char* w(int stage) const { return x(stage) + most_rows * C::x_row_bytes; }
  __device__ float* sums() const { return reinterpret_cast<float*>(x(ring.stages)); }
  // The chunks that are this block's, and where the i-th begins.
  __device__ int chunks() const {
    return ((shape.inputs + C::inputs - 1) / C::inputs - rank + blocks - 1) / blocks;
  }
  __device__ int input(int i) const { return (rank + i * blocks) * C::inputs; }

  __device__ void fetch_w(int i, int stage, const Values<const Weight>& from, int rows) const {
#pragma unroll 1
    for (int slot = warp % 4; slot * tile_rows < rows; slot += 4) {
      fetch_tile<true>(w(stage) + slot * C::bytes,
                       from.at(slot * tile_rows * int64_t{shape.inputs} + input(i)), shape.inputs,
                       rows - slot * tile_rows, shape.inputs - input(i), lane);
    }
  }
  // x: a thread copies the same 16 bytes of each step-th row of a chunk.
  static constexpr int row_chunks = C::x_row_bytes / 16;
  static constexpr int step = group_threads / row_chunks;
  using Sources = const bf16 * [most_rows / step];  // where its rows begin
  __device__ int first_row() const {
    return static_cast<int>(threadIdx.x) % group_threads / row_chunks;
  }
  __device__ void find(const bf16* from, const Job& job, Sources& sources) const {
#pragma unroll
    for (int i = 0; i < most_rows / step; ++i) {
      const int row = min(first_row() + i * step, job.rows - 1);
      sources[i] = from + row_of_x(experts, job, row) * shape.x_stride;
    }
  }
  __device__ void fetch_x(int i, int stage, const Sources& sources, int rows) const {
    const int chunk = static_cast<int>(threadIdx.x) % row_chunks;
    const int at = input(i) + chunk * 8;
    const uint32_t to = shared_address(x(stage)) + chunk / 8 * block_bytes;
#pragma unroll
    for (int j = 0; j < most_rows / step; ++j) {
      if (first_row() + j * step < rows)
        copy_chunk(below<128>(to + swizzled(first_row(), chunk % 8, 128), j * step),
                   sources[j] + at, at < shape.inputs);
    }
  }
  // The stages of one pass, by one warpgroup.
  __device__ void fill(Turn& turn, const bf16* from, const Values<const Weight>& weights,
                       const Job& job, int first, int last) const {
    const auto mine = weights.at((int64_t{job.matrix} * shape.outputs + first) * shape.inputs);
    const auto take = [&](int i, const Turn& next) {
      wait_for_phase(&empty[next.stage], next.parity ^ 1);
      fetch_w(i, next.stage, mine, last);
    };
    Sources sources;
    find(from, job, sources);
    const int at_once = min(ring.stages, chunks());
    Turn ahead = turn;
#pragma unroll 1
    for (int i = 0; i < at_once; ++i, ahead.next(ring.stages)) take(i, ahead);
    wait_for_previous();
#pragma unroll 1
    for (int i = 0; i < chunks(); ++i, turn.next(ring.stages)) {
      if (i >= at_once) take(i, turn);
      fetch_x(i, turn.stage, sources, job.rows);
      arrive_with_copies(&full[turn.stage]);
      arrive(&full[turn.stage]);  // what was stored without a copy
    }
  }

  // The products of a pass, [m][outputs], to this block's sums. Thread (g, t) of a warp holds
  // outputs g and g + 8 of a slot, of m = 2 t and 2 t + 1 of each eight.
  __device__ void multiply(Turn& turn, const Job& job, int last) const {
    const int tiles = (last + tile_outputs - 1) / tile_outputs - warp / 4;
    float found[group_tiles][32] = {};
#pragma unroll 1
    for (int i = 0; i < chunks(); ++i, turn.next(ring.stages)) {
      wait_for_phase(&full[turn.stage], turn.parity);
      show_to_tensor_cores();
      const unsigned char* const slot = w(turn.stage) + warp * C::bytes;
      const uint32_t xs = shared_address(x(turn.stage));
      const int inputs = min(shape.inputs - input(i), C::inputs);
      if (tiles > multipliers) add_chunk<2, Weight>(found, slot, xs, inputs, lane);
      else if (tiles > 0) add_chunk<1, Weight>(found, slot, xs, inputs, lane);
      arrive(&empty[turn.stage]);  // each thread for what it read
    }
#pragma unroll
    for (int tile = 0; tile < group_tiles; ++tile) {
      if (tile * multipliers >= tiles) break;
      float* const to = sums() + (tile * multipliers * tile_slots + warp) * tile_rows + lane / 4;
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const int m = 8 * (i / 4) + 2 * (lane & 3) + (i & 1);
        if (m < job.rows) to[m * ring.pitch() + 8 * (i / 2 % 2)] = found[tile][i];
      }
    }
  }
};

__device__ float2 pair_at(const float* from) { return *reinterpret_cast<const float2*>(from); }
// Of a row of y, which may begin anywhere; `both`, or the first alone.
__device__ void store_pair(float2 from, float* to, bool both) {
  to[0] = from.x;
  if (both) to[1] = from.y;
}
__device__ void store_pair(float2 from, bf16* to, bool both) {
  if (both && reinterpret_cast<uintptr_t>(to) % 4 == 0) {
    *reinterpret_cast<uint32_t*>(to) = pack(from.x, from.y);
    return;
  }
  to[0] = to_bf16(from.x);
  if (both) to[1] = to_bf16(from.y);
}

template <class Weight>
__global__ void __launch_bounds__(threads, 1)
    multiply(ProductShape shape, Experts experts, const bf16* x, Values<const Weight> w, void* y,
             bool wide_out, Ring ring) {
  extern __shared__ __align__(1024) unsigned char memory[];
  __shared__ Jobs<most_rows> jobs;
  __shared__ uint64_t full[most_stages], empty[most_stages];
  const auto cluster = cooperative_groups::this_cluster();
  const int blocks = static_cast<int>(cluster.num_blocks());
  const Block<Weight> block{
      shape, experts, ring, memory, full, empty, static_cast<int>(cluster.block_rank()), blocks};
  const int64_t index = blockIdx.x / blocks;
  int clusters = static_cast<int>(gridDim.x) / blocks;

  release_next();
  if (threadIdx.x < most_stages) {
    make_barrier(&full[threadIdx.x], 2 * group_threads);
    make_barrier(&empty[threadIdx.x], multipliers * group_threads);
  }
  if (experts.begins != nullptr) {
    wait_for_previous();
    jobs.list(experts);
  }
  __syncthreads();
  if (experts.begins != nullptr) {
    // Who has outputs of two experts walks through all inputs twice: none, if that leaves few idle.
    const int count = jobs.count(experts);
    if (count > 0 && clusters % count * 8 <= clusters) clusters -= clusters % count;
    if (index >= clusters) return;
    ring = Ring::of<Weight>((int64_t{shape.outputs} * count + clusters - 1) / clusters);
  }
  const int most = ring.tiles * tile_outputs;
  Turn turn;
  if (block.warp >= 4 * multipliers) {
    give_registers<120>();
    for_passes(shape, experts, jobs, index, clusters, most,
               [&](const Job& job, int first, int last) {
                 block.fill(turn, x, w, job, first, last);
                 if (blocks == 1) return;
                 cluster.sync();  // a cluster's barriers are for all of its threads
                 cluster.sync();
               });
    return;
  }
  take_registers<192>();
  const auto meet_all = [&] {
    if (blocks == 1) meet(1, multipliers * group_threads);
    else cluster.sync();
  };
  for_passes(shape, experts, jobs, index, clusters, most, [&](const Job& job, int first, int last) {
    block.multiply(turn, job, last);
    meet_all();
#pragma unroll 1
    for (int m = block.rank * 4 * multipliers + block.warp; m < job.rows;
         m += blocks * 4 * multipliers) {
      const int64_t to = row_of_y(experts, job, m) * shape.y_stride + first;
      const float* const mine = block.sums() + m * ring.pitch();
#pragma unroll 4
      for (int n = 2 * block.lane; n < last; n += 64) {
        float2 sum = blocks == 1 ? pair_at(mine + n) : float2{};
#pragma unroll 8  // so many are asked for at once
        for (int other = 0; other < (blocks == 1 ? 0 : blocks); ++other) {
          const float2 part = pair_at(cluster.map_shared_rank(mine, other) + n);
          sum.x += part.x;
          sum.y += part.y;
        }
        const float scale = rest_of_scale<Weight>(w.scale);
        sum = {sum.x * scale, sum.y * scale};
        if (wide_out) store_pair(sum, static_cast<float*>(y) + to + n, n + 1 < last);
        else store_pair(sum, static_cast<bf16*>(y) + to + n, n + 1 < last);
      }
    }
    meet_all();
  });
  wait_for_previous();
}

// How many clusters of so many blocks find room at once: an SM has one block, and a cluster the SMs
// of one part of the card.
template <class Weight>
int clusters_at_once(int cluster, int bytes) {
  cudaLaunchAttribute size{};
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(cluster));
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.attrs = &size;
  config.numAttrs = 1;
  int count = 0;
  HELIX_CUDA(
      cudaFuncSetAttribute(multiply<Weight>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  HELIX_CUDA(cudaOccupancyMaxActiveClusters(&count, multiply<Weight>, &config));
  return std::max(count, 1);
}

}  // namespace

template <class Weight>
void start_wide(const ProductShape& shape, const Experts& experts, const bf16* x,
                const Values<const Weight>& w, void* y, bool wide_out, const Launch& how) {
  const int chunks = (shape.inputs + Chunk<Weight>::inputs - 1) / Chunk<Weight>::inputs;
  const bool chosen = experts.begins != nullptr;
  // Not by the number of rows, on which bits may not depend.
  int cluster = 1;
  while (!chosen && experts.count == 1 && cluster < 8 && 2 * cluster <= chunks &&
         2 * cluster * int64_t{shape.outputs} <= how.blocks * 2 * tile_outputs) {
    cluster *= 2;
  }
  int clusters = std::max(1, how.blocks / cluster);
  if (cluster > 1) clusters = std::min(clusters, clusters_at_once<Weight>(cluster, most_bytes));
  int64_t outputs = most_outputs;
  if (!chosen) {
    const int jobs = experts.count * jobs_each<most_rows>(experts);
    outputs = int64_t{shape.outputs} * jobs;
    if (clusters > jobs) clusters -= clusters % jobs;  // none has outputs of two
    clusters = static_cast<int>(std::min<int64_t>(clusters, tiles_of(outputs)));
    outputs = (outputs + clusters - 1) / clusters;
  }
  // Where experts choose, only the device knows how many outputs there are: all room is asked for.
  const Ring ring = Ring::of<Weight>(outputs);
  const int bytes = chosen ? most_bytes : ring.bytes<Weight>();
  launch("wide product", multiply<Weight>, dim3(static_cast<unsigned>(clusters * cluster)), threads,
         cluster > 1 ? bytes : lone_block_bytes(bytes, how), how, cluster, shape, experts, x, w, y,
         wide_out, ring);
}

#define INSTANTIATE(Weight)                                                  \
  template void start_wide(const ProductShape&, const Experts&, const bf16*, \
                           const Values<const Weight>&, void*, bool, const Launch&);
INSTANTIATE(bf16)
INSTANTIATE(fp8)
INSTANTIATE(nvfp4)
#undef INSTANTIATE

}  // namespace helix::cuda
