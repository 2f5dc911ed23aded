// All-reduce, residual and RMSNorm in one kernel, of rows that travel in words, each to every
// member. A cluster of up to eight blocks has a row, so that the sum of squares goes through shared
// memory; a thread keeps its values in registers from the sum to the norm. Longer ones:
// all_reduce_rows.cu.
#include <cooperative_groups.h>

#include <algorithm>
#include <cassert>

#include "kernels/cuda/pieces.cuh"

namespace helix::cuda {
namespace {

namespace groups = cooperative_groups;

constexpr int threads = 512;
constexpr int cluster_blocks = 8;
constexpr int thread_units = 2;  // widths up to 4 * 512 * 8 * 2

template <class Activation>
__device__ float4 load_unit(const Activation* from) {
  return load_words(from);
}
// Of plain numbers.
__device__ inline float4 plain_unit(const Stored& from, int64_t unit) {
  return from.format == Format::bf16 ? load_words(from.as<bf16>().data + 4 * unit)
                                     : load_words(from.as<float>().data + 4 * unit);
}
template <class Activation>
__device__ float4 rounded(float4 v) {
  return make_float4(to_float(from_float<Activation>(v.x)), to_float(from_float<Activation>(v.y)),
                     to_float(from_float<Activation>(v.z)), to_float(from_float<Activation>(v.w)));
}

template <class Activation>
__device__ void put_unit(const Exchange& exchange, int member, int64_t unit, float4 value) {
  uint2 words[unit_words<Activation>];
  words_of(value, words, static_cast<const Activation*>(nullptr));
#pragma unroll
  for (int w = 0; w < unit_words<Activation>; ++w)
    exchange.put(member, unit * unit_words<Activation> + w, words[w]);
}
// The sum over the members, in their order, of my value and of `unit` of each inbox.
template <class Activation>
__device__ float4 sum_of(Exchange& exchange, const Channel& channel, int64_t unit, float4 own) {
  constexpr int words = unit_words<Activation>;
  constexpr int ahead = 8 / words;
  float4 sum{};
#pragma unroll 1
  for (int first = 0; first < channel.size; first += ahead) {
    uint2 came[ahead * words];
    exchange.await(came, [&](int k) {
      const int i = first + k / words;
      return WordAt{i < channel.size && i != channel.index ? i : -1, unit * words + k % words};
    });
#pragma unroll
    for (int j = 0; j < ahead; ++j) {
      const int i = first + j;
      if (i >= channel.size) break;
      uint2 payload[words];
#pragma unroll
      for (int w = 0; w < words; ++w) payload[w] = came[j * words + w];
      const float4 v =
          i == channel.index ? own : unit_of(payload, static_cast<const Activation*>(nullptr));
      sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
    }
  }
  return rounded<Activation>(sum);
}

// Over the cluster: warps in order within a block, blocks in order. All threads get it. Every block
// writes its sum into all of them, which have begun once they arrived at the cluster's barrier, so
// that nobody reads what another may have left; `turn`: rows take turns.
__device__ float sum_over_cluster(groups::cluster_group& cluster, float value, int turn) {
  __shared__ float of_warps[threads / 32];
  __shared__ float of_blocks[2][cluster_blocks];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0U, value, step);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  if (turn == 0) cluster.barrier_wait();
  if (threadIdx.x < cluster.num_blocks()) {
    float sum = 0;
    for (const float warp : of_warps) sum += warp;
    *cluster.map_shared_rank(&of_blocks[turn % 2][cluster.block_rank()], threadIdx.x) = sum;
  }
  cluster.sync();
  float sum = 0;
  for (unsigned block = 0; block < cluster.num_blocks(); ++block) sum += of_blocks[turn % 2][block];
  return sum;
}

struct Work {
  int rows, width;
  float eps;
};

// Units of a row are cut over the cluster's blocks, rows over clusters. Everything is sent before
// anything is waited for. A thread has the same units of every row; their gains are read ahead.
template <class Activation>
__global__ void __launch_bounds__(threads, 1)
    reduce_and_norm(const __grid_constant__ Channel channel, Work work, const Activation* y,
                    Activation* hidden, Stored w, Activation* out) {
  groups::cluster_group cluster = groups::this_cluster();
  const int blocks = static_cast<int>(cluster.num_blocks());
  const int rank = static_cast<int>(cluster.block_rank());
  const int units = work.width / 4;
  const int of_block = (units + blocks - 1) / blocks;
  const int first = rank * of_block + static_cast<int>(threadIdx.x);
  const int last = min(units, (rank + 1) * of_block);
  const auto for_units = [&](auto&& body) {
#pragma unroll
    for (int i = 0; i < thread_units; ++i)
      if (first + i * threads < last) body(i, first + i * threads);
  };
  if (channel.own_card) release_next();
  if (hidden != nullptr) cluster.barrier_arrive();
  float4 gains[thread_units];
  if (hidden != nullptr) for_units([&](int i, int u) { gains[i] = plain_unit(w, u); });
  float4 mine[thread_units];
  const auto load = [&](int row) {
    for_units([&](int i, int u) { mine[i] = load_unit(y + int64_t{row} * work.width + 4 * u); });
  };
  const int first_row = static_cast<int>(blockIdx.y);
  Exchange exchange(channel);
  wait_for_previous();
  exchange.begin([&] { load(first_row); });

  for (int row = first_row; row < work.rows; row += gridDim.y) {
    if (row > first_row) load(row);
    for_units([&](int i, int u) {
      for (int k = 1; k < channel.size; ++k)
        put_unit<Activation>(exchange, (channel.index + k) % channel.size, int64_t{row} * units + u,
                             mine[i]);
    });
  }

  for (int row = first_row, turn = 0; row < work.rows; row += gridDim.y, ++turn) {
    const int64_t at = int64_t{row} * work.width;
    float4 values[thread_units];
    if (work.rows > static_cast<int>(gridDim.y)) load(row);
    if (hidden != nullptr)
      for_units([&](int i, int u) { values[i] = load_unit(hidden + at + 4 * u); });
    float squares = 0;
    for_units([&](int i, int u) {
      const float4 sum = sum_of<Activation>(exchange, channel, int64_t{row} * units + u, mine[i]);
      if (hidden == nullptr) return store_words(sum, out + at + 4 * u);
      const float4 h = values[i];
      const float4 v =
          rounded<Activation>(make_float4(h.x + sum.x, h.y + sum.y, h.z + sum.z, h.w + sum.w));
      store_words(v, hidden + at + 4 * u);
      squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
      values[i] = v;
    });
    if (hidden == nullptr) continue;
    const float total = sum_over_cluster(cluster, squares, turn);
    const float scale = rsqrtf(total / static_cast<float>(work.width) + work.eps);
    for_units([&](int i, int u) {
      const float4 v = values[i];
      const float4 g = gains[i];
      store_words(
          make_float4(v.x * scale * g.x, v.y * scale * g.y, v.z * scale * g.z, v.w * scale * g.w),
          out + at + 4 * u);
    });
  }
}

// Of a row's cluster: 64 units a block are worth one.
int worth_blocks(int64_t width) {
  int blocks = 1;
  while (blocks < cluster_blocks && width / 4 > 64 * blocks) blocks *= 2;
  return blocks;
}

}  // namespace

// Words are for rows that are all at work at once, on 64 SMs at most: two H200 take 9.4 us for 16
// rows of 4096 values in words, 6.3 in pieces; eight ranks of one, which have 8 SMs each, 69
// and 14. By way of its owner a row takes 3 us longer and (n - 1) (n - 2) / n less of it is sent:
// on four H200 the better from 700 KB on.
Way best_way(int blocks, int members, int64_t rows, int64_t width, int64_t element_bytes) {
  constexpr int64_t most_in_words = 512 << 10;
  constexpr int64_t worth_an_owner = 1 << 20;
  const int64_t row_bytes = width * element_bytes;
  const int64_t sent = (members - 1) * rows * row_bytes;
  if (width % 8 != 0 || row_bytes < Room::least_piece) return Way::words;
  if (sent <= most_in_words && rows * worth_blocks(width) <= std::clamp(blocks, cluster_blocks, 64))
    return Way::words;
  return sent * (members - 2) > members * worth_an_owner ? Way::owners : Way::pieces;
}

template <class Activation>
void all_reduce_norm(const Channel& channel, Way way, int rows, int width, const Activation* y,
                     Activation* hidden, const Stored& w, float eps, Activation* out,
                     const Launch& how) {
  assert(channel.size <= max_members && rows > 0 && width > 0 && width % 4 == 0);
  assert(width <= 4 * threads * thread_units * cluster_blocks && how.blocks > 0);
  assert(fits(all_reduce_room(way, channel.size, rows, width, sizeof(Activation)), channel.room));
  if (way != Way::words)
    return all_reduce_rows(channel, way, rows, width, y, hidden, w, eps, out, how);
  int blocks = worth_blocks(width);  // of a cluster
  while (blocks > how.blocks) blocks /= 2;
  while (blocks < cluster_blocks && width > 4 * threads * thread_units * blocks) blocks *= 2;
  const dim3 grid(static_cast<unsigned>(blocks),
                  static_cast<unsigned>(std::clamp(how.blocks / blocks, 1, rows)));
  launch("all-reduce+norm", reduce_and_norm<Activation>, grid, threads, 0, how, blocks, channel,
         Work{rows, width, eps}, y, hidden, w, out);
}

template void all_reduce_norm(const Channel&, Way, int, int, const float*, float*, const Stored&,
                              float, float*, const Launch&);
template void all_reduce_norm(const Channel&, Way, int, int, const bf16*, bf16*, const Stored&,
                              float, bf16*, const Launch&);

}  // namespace helix::cuda
