// Routing: logits are a product (plain.h); then a block a row chooses, a thread an expert. Pairs:
// one block lists them all.
#include "kernels/cuda/moe.h"

#include <cassert>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/plain.h"

namespace helix::cuda {
namespace {

constexpr int max_experts = 512;
constexpr int max_warps = max_experts / 32;

__device__ int lane_of_thread() { return static_cast<int>(threadIdx.x) & 31; }
__device__ int warp_of_thread() { return static_cast<int>(threadIdx.x) >> 5; }
__device__ unsigned lanes_before() { return (1U << lane_of_thread()) - 1; }

// All threads' values joined in a fixed order, for all of them.
template <class Join>
__device__ float over_block(float value, Join&& join) {
  __shared__ float of_warps[max_warps];
  for (int step = 16; step > 0; step /= 2) value = join(value, __shfl_xor_sync(~0U, value, step));
  __syncthreads();  // what stood there was read
  if (lane_of_thread() == 0) of_warps[warp_of_thread()] = value;
  __syncthreads();
  value = of_warps[0];
  for (int warp = 1; warp < static_cast<int>(blockDim.x) / 32; ++warp) {
    value = join(value, of_warps[warp]);
  }
  return value;
}
__device__ float score_of(const Routing& routing, float logit) {
  if (routing.sigmoid) return 1 / (1 + expf(-logit));
  const float top = over_block(logit, [](float a, float b) { return fmaxf(a, b); });
  const float size = expf(logit - top);
  return size / over_block(size, [](float a, float b) { return a + b; });
}

// How many of values [begin, end) come before the i-th: larger ones, and as large ones before it.
__device__ int rank_of(const float* values, int begin, int end, int i) {
  const float mine = values[i];
  int rank = 0;
#pragma unroll 8
  for (int j = begin; j < end; ++j) {
    rank += values[j] > mine || (values[j] == mine && j < i) ? 1 : 0;
  }
  return rank;
}

// Experts of groups beyond the best, by the sum of their two best experts, are out of the running.
__device__ void mask_groups(const Routing& routing, float* compared, int expert) {
  __shared__ float best[2][max_experts], sums[max_experts];
  const int size = routing.experts / routing.groups;
  const int group = expert / size;
  const bool there = group < routing.groups;
  if (there) {
    const int rank = rank_of(compared, group * size, (group + 1) * size, expert);
    if (rank < 2) best[rank][group] = compared[expert];
  }
  __syncthreads();
  if (expert < routing.groups) sums[expert] = best[0][expert] + best[1][expert];
  __syncthreads();
  if (there && rank_of(sums, 0, routing.groups, group) >= routing.chosen_groups) {
    compared[expert] = -INFINITY;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(max_experts)
    choose(Routing routing, float* logits, Stored bias, RoutingTrace trace, Choice* out) {
  __shared__ float scores[max_experts], compared[max_experts];
  __shared__ int chosen[max_experts], of_warps[max_warps];
  release_next();
  const int expert = static_cast<int>(threadIdx.x);
  const bool there = expert < routing.experts;
  const float skew = there && routing.skew != nullptr ? routing.skew[expert] : 0;
  const float raise = there && bias.base != nullptr ? plain_at(bias, expert) : 0;
  wait_for_previous();
  const int64_t row = blockIdx.x;
  float* const mine = logits + row * routing.experts + expert;
  const float logit = there ? __ldcg(mine) + skew : -INFINITY;
  if (there) *mine = logit;
  scores[expert] = score_of(routing, logit);
  const float value = scores[expert] + raise;
  compared[expert] = isnan(value) ? -INFINITY : value;
  __syncthreads();
  if (routing.groups > 1) mask_groups(routing, compared, expert);

  // The chosen ones, by ascending expert.
  const bool takes = there && rank_of(compared, 0, routing.experts, expert) < routing.chosen;
  const unsigned taken = __ballot_sync(~0U, takes);
  if (lane_of_thread() == 0) of_warps[warp_of_thread()] = __popc(taken);
  __syncthreads();
  int at = __popc(taken & lanes_before());
  for (int warp = 0; warp < warp_of_thread(); ++warp) at += of_warps[warp];
  if (takes) chosen[at] = expert;
  __syncthreads();
  const int i = static_cast<int>(threadIdx.x);
  if (i >= routing.chosen) return;
  if (trace.own != nullptr) trace.own[row * routing.chosen + i] = chosen[i];
  const int32_t* const forced =
      trace.forced == nullptr ? nullptr : trace.forced + row * routing.chosen;
  const int32_t* const goes_on = forced != nullptr && forced[0] >= 0 ? forced : chosen;
  float sum = 1e-20F;
  for (int j = 0; j < routing.chosen; ++j) sum += scores[goes_on[j]];
  const float factor = routing.renormalise ? routing.scale / sum : routing.scale;
  out[row * routing.chosen + i] = {goes_on[i], scores[goes_on[i]] * factor};
}

// One block; a thread an expert, and a choice. Where a choice goes: behind those of earlier tiles,
// of earlier warps, of earlier lanes.
__global__ void __launch_bounds__(max_experts)
    list_pairs(int rows, const int32_t* rows_there, int chosen, const Choice* choices, int first,
               int count, Pairs pairs, int64_t* met) {
  __shared__ int counts[max_experts], totals[max_warps];
  __shared__ int of_warps[max_warps][max_experts];
  release_next();
  wait_for_previous();
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = lane_of_thread();
  const int warp = warp_of_thread();
  const int there = (rows_there == nullptr ? rows : *rows_there) * chosen;
  const auto expert_of = [&](int i) {
    const int expert = i < there ? choices[i].expert - first : -1;
    return expert < count ? expert : -1;
  };
  counts[thread] = 0;
  __syncthreads();
  for (int i = thread; i < there; i += max_experts) {
    if (const int expert = expert_of(i); expert >= 0) atomicAdd(&counts[expert], 1);
  }
  __syncthreads();
  int end = counts[thread];
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0U, end, step);
    if (lane >= step) end += other;
  }
  if (lane == 31) totals[warp] = end;
  const int touched = __syncthreads_count(counts[thread] > 0);
  for (int i = 0; i < warp; ++i) end += totals[i];
  int next = end - counts[thread];  // pair of this thread's expert
  if (thread < count) pairs.begins[thread] = next;
  if (thread == count - 1) {
    pairs.begins[count] = end;
    met[0] += end;
    met[1] += touched;
    met[2] += 1;
  }
  for (int tile = 0; tile < rows * chosen; tile += max_experts) {
    const int i = tile + thread;
    const int expert = expert_of(i);
    const unsigned same = __match_any_sync(~0U, expert);
    const int before = __popc(same & lanes_before());
    if (thread < count) {
      for (auto& of_warp : of_warps) of_warp[thread] = 0;
    }
    __syncthreads();
    if (expert >= 0 && before == 0) of_warps[warp][expert] = __popc(same);
    __syncthreads();
    if (thread < count) {
      for (auto& of_warp : of_warps) {
        const int here = of_warp[thread];
        of_warp[thread] = next;
        next += here;
      }
    }
    __syncthreads();
    if (i < rows * chosen) {
      const int pair = expert < 0 ? -1 : of_warps[warp][expert] + before;
      pairs.pair_of[i] = pair;
      if (pair >= 0) pairs.row_of[pair] = i / chosen;
    }
    __syncthreads();
  }
}

__global__ void weigh(Format activations, int chosen, int width, const Choice* choices,
                      const int32_t* pair_of, const float* y, void* out) {
  release_next();
  wait_for_previous();
  const int64_t row = blockIdx.y;
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= width) return;
  float sum = 0;
  for (int j = 0; j < chosen; ++j) {
    const int64_t pair = pair_of[row * chosen + j];
    if (pair >= 0) sum += choices[row * chosen + j].gate * y[pair * width + i];
  }
  with_type(activations,
            [&]<class A>(A*) { static_cast<A*>(out)[row * width + i] = from_float<A>(sum); });
}

}  // namespace

template <class Activation>
void route(const Routing& routing, int rows, int width, const Activation* x, const Stored& w,
           const Stored& bias, const RoutingTrace& trace, float* logits, Choice* out,
           const Launch& how) {
  assert(rows > 0 && routing.experts <= max_experts && routing.chosen <= routing.experts);
  assert(routing.groups == 1 || routing.experts >= 2 * routing.groups);
  const ProductShape shape{rows, routing.experts, width, width, routing.experts};
  any_experts_product(shape, {.count = 1, .rows_each = rows}, x, w, logits, how);
  launch("choose", choose, dim3(static_cast<unsigned>(rows)), (routing.experts + 31) / 32 * 32, 0,
         how, 1, routing, logits, bias, trace, out);
}

void pair_up(int rows, const int32_t* rows_there, int chosen, const Choice* choices, int first,
             int count, const Pairs& pairs, int64_t* met, const Launch& how) {
  assert(count > 0 && count <= max_experts);
  launch("pair up", list_pairs, dim3(1), max_experts, 0, how, 1, rows, rows_there, chosen, choices,
         first, count, pairs, met);
}

template <class Activation>
void sum_pairs(int rows, int chosen, int width, const Choice* choices, const int32_t* pair_of,
               const float* y, Activation* out, const Launch& how) {
  const dim3 grid(static_cast<unsigned>((width + 255) / 256), static_cast<unsigned>(rows));
  launch("sum pairs", weigh, grid, 256, 0, how, 1, format_of<Activation>, chosen, width, choices,
         pair_of, y, out);
}

#define INSTANTIATE(Activation)                                                                    \
  template void route(const Routing&, int, int, const Activation*, const Stored&, const Stored&,   \
                      const RoutingTrace&, float*, Choice*, const Launch&);                        \
  template void sum_pairs(int, int, int, const Choice*, const int32_t*, const float*, Activation*, \
                          const Launch&);
INSTANTIATE(float)
INSTANTIATE(bf16)
#undef INSTANTIATE

}  // namespace helix::cuda
