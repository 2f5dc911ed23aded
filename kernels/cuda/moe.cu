// Routing: a block an expert, which reads its weights once for all rows; then a warp a row chooses.
// Products: a warp an output of one expert, eight of its rows at a time.
#include "kernels/cuda/moe.h"

#include <cassert>

#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

constexpr int warps = 8;
constexpr int threads = 32 * warps;
constexpr int max_experts = 512;

// The index of the largest value that is not taken, by one warp; equals: the lowest index. NaN
// loses.
__device__ int largest_of(const float* values, const bool* taken, int count, int lane) {
  float best = -INFINITY;
  int at = count;
  for (int i = lane; i < count; i += 32) {
    if (taken[i]) continue;
    if (at == count || values[i] > best) {
      best = values[i];
      at = i;
    }
  }
  for (int step = 16; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(~0U, best, step);
    const int other_at = __shfl_xor_sync(~0U, at, step);
    const bool wins =
        other_at != count && (at == count || other > best || (!(best > other) && other_at < at));
    if (wins) {
      best = other;
      at = other_at;
    }
  }
  return at;
}
// Marks the `count` largest of `size` values.
__device__ void mark_largest(const float* values, bool* taken, int size, int count, int lane) {
  for (int i = lane; i < size; i += 32) taken[i] = false;
  __syncwarp();
  for (int i = 0; i < count; ++i) {
    const int next = largest_of(values, taken, size, lane);
    if (lane == 0 && next < size) taken[next] = true;
    __syncwarp();
  }
}

__device__ float sum_of_warp(float value) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0U, value, step);
  return value;
}

// logits become scores, by one warp.
__device__ void score(const Routing& routing, float* scores, int lane) {
  if (routing.sigmoid) {
    for (int i = lane; i < routing.experts; i += 32) scores[i] = 1 / (1 + expf(-scores[i]));
    return;
  }
  float top = -INFINITY;
  for (int i = lane; i < routing.experts; i += 32) top = fmaxf(top, scores[i]);
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0U, top, step));
  float sum = 0;
  for (int i = lane; i < routing.experts; i += 32) sum += scores[i] = expf(scores[i] - top);
  sum = sum_of_warp(sum);
  for (int i = lane; i < routing.experts; i += 32) scores[i] /= sum;
}

// Groups beyond the best, by the sum of their two best experts, are out of the running.
__device__ void mask_groups(const Routing& routing, float* compared, float* sums, bool* taken,
                            int lane) {
  const int size = routing.experts / routing.groups;
  for (int group = lane; group < routing.groups; group += 32) {
    float first = -INFINITY, second = -INFINITY;
    for (int i = group * size; i < (group + 1) * size; ++i) {
      if (compared[i] > first) {
        second = first;
        first = compared[i];
      } else if (compared[i] > second) {
        second = compared[i];
      }
    }
    sums[group] = first + second;
  }
  __syncwarp();
  mark_largest(sums, taken, routing.groups, routing.chosen_groups, lane);
  for (int i = lane; i < routing.experts; i += 32) {
    if (!taken[i / size]) compared[i] = -INFINITY;
  }
  __syncwarp();
}

// A thread keeps `vectors` times 8 of its expert's weights; a row's sum goes over a thread's
// values, the lanes of a warp, then the warps in order. Rows in tiles of `tile_rows`, along the
// grid.
constexpr int vectors = 4;
constexpr int tile_rows = 64;
__global__ void __launch_bounds__(threads)
    router_logits(Format format, int rows, int width, const void* x, Stored w, const float* skew,
                  float* logits) {
  __shared__ float of_warps[warps][tile_rows];
  release_next();
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int expert = static_cast<int>(blockIdx.x);
  const int first = static_cast<int>(blockIdx.y) * tile_rows;
  const int here = min(tile_rows, rows - first);
  for (int begin = 0; begin < width; begin += vectors * threads * 8) {
    float gains[vectors][8];
#pragma unroll
    for (int v = 0; v < vectors; ++v) {
      const int i = begin + (v * threads + static_cast<int>(threadIdx.x)) * 8;
      if (i < width) load8(w, int64_t{expert} * width + i, gains[v]);
    }
    if (begin == 0) wait_for_previous();
    for (int row = 0; row < here; ++row) {
      float sum = 0;
#pragma unroll
      for (int v = 0; v < vectors; ++v) {
        const int i = begin + (v * threads + static_cast<int>(threadIdx.x)) * 8;
        if (i >= width) break;
        float values[8];
        const int64_t at = int64_t{first + row} * width + i;
        format == Format::bf16 ? load8(static_cast<const bf16*>(x) + at, values)
                               : load8(static_cast<const float*>(x) + at, values);
#pragma unroll
        for (int j = 0; j < 8; ++j) sum += values[j] * gains[v][j];
      }
      sum = sum_of_warp(sum);
      if (lane == 0) of_warps[warp][row] = (begin == 0 ? 0 : of_warps[warp][row]) + sum;
    }
  }
  __syncthreads();
  for (int row = static_cast<int>(threadIdx.x); row < here; row += threads) {
    float sum = 0;
    for (const auto& partial : of_warps) sum += partial[row];
    logits[int64_t{first + row} * gridDim.x + expert] = sum + (skew == nullptr ? 0 : skew[expert]);
  }
}

__global__ void __launch_bounds__(32)
    choose(Routing routing, const float* logits, Stored bias, RoutingTrace trace, Choice* out) {
  __shared__ float scores[max_experts], compared[max_experts], sums[max_experts];
  __shared__ bool taken[max_experts];
  __shared__ int chosen[max_experts];
  release_next();
  wait_for_previous();
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t row = blockIdx.x;
  for (int i = lane; i < routing.experts; i += 32)
    scores[i] = __ldcg(logits + row * routing.experts + i);
  score(routing, scores, lane);
  for (int i = lane; i < routing.experts; i += 32)
    compared[i] = scores[i] + (bias.base == nullptr ? 0 : plain_at(bias, i));
  __syncwarp();
  if (routing.groups > 1) mask_groups(routing, compared, sums, taken, lane);
  mark_largest(compared, taken, routing.experts, routing.chosen, lane);
  if (lane > 0) return;
  const int32_t* const forced =
      trace.forced == nullptr ? nullptr : trace.forced + row * routing.chosen;
  for (int i = 0, next = 0; i < routing.experts && next < routing.chosen; ++i) {
    if (!taken[i]) continue;
    if (trace.own != nullptr) trace.own[row * routing.chosen + next] = i;
    chosen[next++] = i;
  }
  float sum = 1e-20F;
  for (int i = 0; i < routing.chosen; ++i) {
    if (forced != nullptr && forced[0] >= 0) chosen[i] = forced[i];
    sum += scores[chosen[i]];
  }
  const float factor = routing.renormalise ? routing.scale / sum : routing.scale;
  for (int i = 0; i < routing.chosen; ++i) {
    out[row * routing.chosen + i] = {chosen[i], scores[chosen[i]] * factor};
  }
}

// One block; a thread an expert. Rows are few: every thread reads all choices.
__global__ void __launch_bounds__(max_experts)
    list_pairs(int rows, const int32_t* rows_there, int chosen, const Choice* choices, int first,
               int count, Pairs pairs, int64_t* met) {
  __shared__ int counts[max_experts];
  release_next();
  wait_for_previous();
  const int expert = static_cast<int>(threadIdx.x);
  const int there = rows_there == nullptr ? rows : *rows_there;
  int mine = 0;
  for (int i = 0; i < there * chosen; ++i) mine += choices[i].expert == first + expert ? 1 : 0;
  counts[expert] = expert < count ? mine : 0;
  for (int i = expert; i < rows * chosen; i += max_experts) {
    const int chose = i < there * chosen ? choices[i].expert - first : -1;
    if (chose < 0 || chose >= count) pairs.pair_of[i] = -1;
  }
  __syncthreads();
  if (expert >= count) return;
  int at = 0;
  for (int i = 0; i < expert; ++i) at += counts[i];
  pairs.begins[expert] = at;
  if (mine > 0) atomicAdd(reinterpret_cast<unsigned long long*>(met + 1), 1ULL);
  if (expert == count - 1) {
    pairs.begins[count] = at + mine;
    atomicAdd(reinterpret_cast<unsigned long long*>(met),
              static_cast<unsigned long long>(at + mine));
    atomicAdd(reinterpret_cast<unsigned long long*>(met + 2), 1ULL);
  }
  for (int i = 0; i < there * chosen && mine > 0; ++i) {
    if (choices[i].expert != first + expert) continue;
    pairs.row_of[at] = i / chosen;
    pairs.pair_of[i] = at++;
    --mine;
  }
}

template <class Activation>
__global__ void __launch_bounds__(threads)
    multiply(const int32_t* begins, const int32_t* row_of, int outputs, int inputs,
             const Activation* x, Stored w, void* y, bool wide_out) {
  constexpr int rows_at_once = 8;
  release_next();
  wait_for_previous();
  const int expert = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const int output = static_cast<int>(blockIdx.x) * warps + static_cast<int>(threadIdx.x) / 32;
  if (output >= outputs) return;
  const int end = begins[expert + 1];
  with_stored(w.format, [&]<class Weight>(Weight*) {
    const auto mine = w.as<Weight>().at((int64_t{expert} * outputs + output) * inputs);
    for (int first = begins[expert]; first < end; first += rows_at_once) {
      const Activation* rows[rows_at_once];
      float sums[rows_at_once] = {};
#pragma unroll
      for (int r = 0; r < rows_at_once; ++r) {
        const int pair = min(first + r, end - 1);
        rows[r] = x + int64_t{row_of == nullptr ? pair : row_of[pair]} * inputs;
      }
      for (int k = lane; k < inputs; k += 32) {
        const float weight = value_at(mine, k);
#pragma unroll
        for (int r = 0; r < rows_at_once; ++r) sums[r] += weight * to_float(rows[r][k]);
      }
#pragma unroll
      for (int r = 0; r < rows_at_once; ++r) {
        const float sum = sum_of_warp(sums[r]);
        if (lane > 0 || first + r >= end) continue;
        const int64_t to = int64_t{first + r} * outputs + output;
        if (wide_out) static_cast<float*>(y)[to] = sum;
        else static_cast<Activation*>(y)[to] = from_float<Activation>(sum);
      }
    }
  });
}

template <class Activation>
__global__ void weigh(int chosen, int width, const Choice* choices, const int32_t* pair_of,
                      const float* y, Activation* out) {
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
  out[row * width + i] = from_float<Activation>(sum);
}

}  // namespace

template <class Activation>
void route(const Routing& routing, int rows, int width, const Activation* x, const Stored& w,
           const Stored& bias, const RoutingTrace& trace, float* logits, Choice* out,
           const Launch& how) {
  assert(rows > 0 && routing.experts <= max_experts && routing.chosen <= routing.experts);
  assert(width % 8 == 0);
  const dim3 grid(static_cast<unsigned>(routing.experts),
                  static_cast<unsigned>((rows + tile_rows - 1) / tile_rows));
  launch("router logits", router_logits, grid, threads, 0, how, 1,
         std::is_same_v<Activation, bf16> ? Format::bf16 : Format::fp32, rows, width, x, w,
         routing.skew, logits);
  launch("choose", choose, dim3(static_cast<unsigned>(rows)), 32, 0, how, 1, routing, logits, bias,
         trace, out);
}

void pair_up(int rows, const int32_t* rows_there, int chosen, const Choice* choices, int first,
             int count, const Pairs& pairs, int64_t* met, const Launch& how) {
  assert(count > 0 && count <= max_experts);
  launch("pair up", list_pairs, dim3(1), max_experts, 0, how, 1, rows, rows_there, chosen, choices,
         first, count, pairs, met);
}

namespace {

template <class Out>
bool by_tiles(const ProductShape& shape, const Experts& experts, const bf16* x, const Stored& w,
              Out* y, const Launch& how) {
  const auto start = [&]<class Weight>(Weight*) {
    if (served<Weight>(shape)) experts_product(shape, experts, x, w.as<Weight>(), y, how);
    return served<Weight>(shape);
  };
  switch (w.format) {
    case Format::bf16: return start(static_cast<bf16*>(nullptr));
    case Format::fp8: return start(static_cast<fp8*>(nullptr));
    case Format::nvfp4: return start(static_cast<nvfp4*>(nullptr));
    default: return false;
  }
}
bool by_tiles(const ProductShape&, const Experts&, const float*, const Stored&, float*,
              const Launch&) {
  return false;
}

}  // namespace

template <class Activation, class Out>
void any_experts_product(const ProductShape& shape, const Experts& experts, const Activation* x,
                         const Stored& w, Out* y, const Launch& how) {
  if (by_tiles(shape, experts, x, w, y, how)) return;
  const dim3 grid(static_cast<unsigned>((shape.outputs + warps - 1) / warps),
                  static_cast<unsigned>(experts.count));
  launch("experts", multiply<Activation>, grid, threads, 0, how, 1, experts.begins, experts.row_of,
         shape.outputs, shape.inputs, x, w, y, std::is_same_v<Out, float>);
}

template <class Activation>
void sum_pairs(int rows, int chosen, int width, const Choice* choices, const int32_t* pair_of,
               const float* y, Activation* out, const Launch& how) {
  const dim3 grid(static_cast<unsigned>((width + 255) / 256), static_cast<unsigned>(rows));
  launch("sum pairs", weigh<Activation>, grid, 256, 0, how, 1, chosen, width, choices, pair_of, y,
         out);
}

#define INSTANTIATE(Activation)                                                                    \
  template void route(const Routing&, int, int, const Activation*, const Stored&, const Stored&,   \
                      const RoutingTrace&, float*, Choice*, const Launch&);                        \
  template void any_experts_product(const ProductShape&, const Experts&, const Activation*,        \
                                    const Stored&, float*, const Launch&);                         \
  template void sum_pairs(int, int, int, const Choice*, const int32_t*, const float*, Activation*, \
                          const Launch&);
INSTANTIATE(float)
INSTANTIATE(bf16)
#undef INSTANTIATE
template void any_experts_product(const ProductShape&, const Experts&, const bf16*, const Stored&,
                                  bf16*, const Launch&);

}  // namespace helix::cuda
