// The exact merge of partial attention outputs, of two kinds: the splits that attention.cu left in
// its plan into messages ordered by peer, and the messages of KVP ranks into outputs.
#include <algorithm>
#include <cassert>
#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

constexpr int warps = 4;
constexpr int threads = 32 * warps;

// What both merges do for one (row, head): w_i = exp(lse_i - max), out = sum w_i o_i / sum w_i, in
// order of i within a group of lanes, then over the groups. A part with lse -inf is not read. One
// warp merges a slice of the values: its lanes form groups, a group shares the parts with the
// others, a lane holds a four of values, or several: fewer slices, each of which costs something
// beside its values. All that is needed is asked for at once: one trip to L2 (0.7 us).
constexpr int parts_ahead(int fours) { return fours == 1 ? 9 : 3; }  // 9: 132 splits, 16 groups

struct MergeGrid {
  int fours;
  int groups = 1;
  int slices;  // of a vector
  int tasks;
  int blocks;
  MergeGrid(int64_t vectors, int size, int parts, int most_blocks, int a_lane = 1) : fours(a_lane) {
    assert(size % (128 * fours) == 0 || (fours == 1 && 128 % size == 0));
    while (groups < 16 && (groups * parts_ahead(fours) < parts || 128 / groups > size)) groups *= 2;
    slices = size * groups / (128 * fours);
    tasks = static_cast<int>(vectors) * slices;
    blocks = std::min((tasks + warps - 1) / warps, most_blocks);
  }
  // From one of a lane's fours to the next.
  __device__ int apart() const { return 128 / groups; }
};

template <int fours>
struct Merged {
  float4 out[fours];
  float lse;
};
__device__ float4 add_scaled(float4 to, float w, float4 v) {
  return make_float4(to.x + w * v.x, to.y + w * v.y, to.z + w * v.z, to.w + w * v.w);
}
// value_of(part, n): the lane's n-th four.
template <int fours, class Lse, class Value>
__device__ Merged<fours> merge(int parts, int groups, int lane, Lse lse_of, Value value_of) {
  constexpr int ahead = parts_ahead(fours);
  const int group = lane * groups / 32;
  float shares[max_parts / 32];
#pragma unroll
  for (int j = 0; j < max_parts / 32; ++j) {
    shares[j] = lane + 32 * j < parts ? lse_of(lane + 32 * j) : -INFINITY;
  }
  float max = -INFINITY;
  float total = 0;  // +inf gives inf - inf, so that it is seen as NaN is
  Merged<fours> merged{};
#pragma unroll 1
  for (int first = 0; first < parts; first += ahead * groups) {
    float lses[ahead];
    float4 values[ahead][fours];
#pragma unroll
    for (int j = 0; j < ahead; ++j) {
      const int i = first + group + j * groups;
      lses[j] = i < parts ? lse_of(i) : -INFINITY;
#pragma unroll
      for (int n = 0; n < fours; ++n) values[j][n] = i < parts ? value_of(i, n) : float4{};
    }
    if (first == 0) {
#pragma unroll
      for (float lse : shares) max = fmaxf(max, lse);
      for (int step = 16; step > 0; step /= 2) max = fmaxf(max, __shfl_xor_sync(~0U, max, step));
#pragma unroll
      for (float lse : shares) {
        total += lse == -INFINITY ? 0 : power_of_two((lse - max) * log2_e);
      }
      for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0U, total, step);
    }
#pragma unroll
    for (int j = 0; j < ahead; ++j) {
      if (lses[j] == -INFINITY) continue;
      const float w = power_of_two((lses[j] - max) * log2_e);
#pragma unroll
      for (int n = 0; n < fours; ++n) {
        merged.out[n] = add_scaled(merged.out[n], w, values[j][n]);
      }
    }
  }
  merged.lse = total == 0 ? -INFINITY : max + log_two(total) * ln_2;
  const float scale = total == 0 ? 0 : reciprocal(total);
#pragma unroll
  for (float4& out : merged.out) {
    for (int step = 32 / groups; step < 32; step *= 2) {
      out.x += __shfl_xor_sync(~0U, out.x, step);
      out.y += __shfl_xor_sync(~0U, out.y, step);
      out.z += __shfl_xor_sync(~0U, out.z, step);
      out.w += __shfl_xor_sync(~0U, out.w, step);
    }
    out = add_scaled({}, scale, out);
  }
  return merged;
}

// body(vector, d, lane) for each of this warp's tasks; d is the lane's first value.
template <class Body>
__device__ void for_merges(const MergeGrid& grid, Body&& body) {
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int step = static_cast<int>(gridDim.x) * warps;
  for (int task = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
       task < grid.tasks; task += step) {
    const int width = 32 / grid.groups;
    body(task / grid.slices, (task % grid.slices * grid.fours * width + lane % width) * 4, lane);
  }
}

// Two attention blocks of 128 registers a thread and two of these fit an SM.
template <class Activation>
__global__ void __maxnreg__(112)
    collect_splits(AttentionPlan plan, MergeGrid grid, PartialLayout part, std::byte* out) {
  release_next();
  const AttentionShape shape = plan.shape;
  for_merges(grid, [&](int vector, int d, int lane) {
    const int row = vector / shape.heads;
    const int head = vector % shape.heads;
    const Splits splits = plan.splits[row * shape.kv_heads + head / shape.group()];
    const float* const lses = plan.lses + head % shape.group() * plan.slots() + splits.first;
    const float* const values =
        plan.outs +
        (int64_t{splits.first} * shape.group() + head % shape.group()) * shape.value_size + d;
    std::byte* const message = out + head / part.heads * part.bytes();
    wait_for_previous();
    const auto merge_slice = [&]<int fours>() {
      const int apart = grid.apart();
      const Merged<fours> merged = merge<fours>(
          splits.count, grid.groups, lane, [&](int i) { return __ldcg(lses + i); },
          [&](int i, int n) {
            return load4(values + int64_t{i} * shape.group() * shape.value_size + n * apart);
          });
      if (lane * grid.groups >= 32) return;
      const int64_t slot = head % part.heads;
      auto* const to = reinterpret_cast<Activation*>(message + part.output_offset(row, slot)) + d;
#pragma unroll
      for (int n = 0; n < fours; ++n) store_words(merged.out[n], to + n * apart);
      if (d == 0) *reinterpret_cast<float*>(message + part.lse_offset(row, slot)) = merged.lse;
    };
    if (grid.fours == 1) merge_slice.template operator()<1>();
    else merge_slice.template operator()<4>();
  });
  wait_for_previous();
}

template <class Activation>
__global__ void __launch_bounds__(threads)
    merge_messages(PartialLayout part, int parts, MergeGrid grid, const std::byte* messages,
                   Activation* out) {
  release_next();
  wait_for_previous();
  const int64_t step = part.bytes();
  for_merges(grid, [&](int vector, int d, int lane) {
    const std::byte* const lses = messages + part.lse_offset(0, vector);
    const std::byte* const values = messages + part.output_offset(0, vector);
    const Merged<1> merged = merge<1>(
        parts, grid.groups, lane,
        [&](int i) { return __ldcg(reinterpret_cast<const float*>(lses + i * step)); },
        [&](int i, int) {
          return load_words(reinterpret_cast<const Activation*>(values + i * step) + d);
        });
    if (lane * grid.groups < 32) store_words(merged.out[0], out + vector * part.value_size + d);
  });
}

}  // namespace

template <class Activation>
void merge_splits(const AttentionPlan& plan, const PartialLayout& part, std::byte* out,
                  const Launch& how) {
  const AttentionShape& shape = plan.shape;
  // Few blocks of few registers, so that all are on their SMs beside two attention blocks: else the
  // next attention's blocks would come late, two of them on one SM (88 us in place of 70). A block
  // of MLA's has an SM to itself, and leaves 16 times as much to merge.
  const int most_blocks = shape.group() > 16 ? 4 * how.blocks : how.blocks;
  const int splits = plan.shares / shape.pairs() + 2;  // of a pair, about
  // Wide where one trip still does.
  const bool wide = shape.value_size % 512 == 0 && splits <= 16 * parts_ahead(4);
  const MergeGrid grid(int64_t{shape.rows} * shape.heads, shape.value_size, splits, most_blocks,
                       wide ? 4 : 1);
  // MLA's begins when attention has ended: blocks that are there before cost more than the launch
  // that they spare (a step of R1's shard, 64 requests of 131072 tokens: 26.3 ms, in turn 22.9).
  const bool early = how.dependent && shape.group() <= 16;
  const Launch launched{how.stream, how.blocks, early, how.own_card};
  launch("merge splits", collect_splits<Activation>, dim3(static_cast<unsigned>(grid.blocks)),
         threads, 0, launched, 1, plan, grid, part, out);
}

template <class Activation>
void merge_partials(const PartialLayout& part, int parts, const std::byte* messages,
                    Activation* out, const Launch& how) {
  assert(parts <= max_parts && how.blocks > 0);
  if (part.rows * part.heads == 0) return;
  const MergeGrid grid(part.rows * part.heads, static_cast<int>(part.value_size), parts,
                       how.blocks);
  launch("merge partials", merge_messages<Activation>, dim3(static_cast<unsigned>(grid.blocks)),
         threads, 0, how, 1, part, parts, grid, messages, out);
}

#define INSTANTIATE(Activation)                                                                  \
  template void merge_splits<Activation>(const AttentionPlan&, const PartialLayout&, std::byte*, \
                                         const Launch&);                                         \
  template void merge_partials(const PartialLayout&, int, const std::byte*, Activation*,         \
                               const Launch&);
INSTANTIATE(float)
INSTANTIATE(bf16)
#undef INSTANTIATE

}  // namespace helix::cuda
