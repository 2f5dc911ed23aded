#include "kernels/cuda/travel.h"

#include <algorithm>
#include <cassert>

#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

constexpr int threads = 128;

__device__ void copy_row(int words, const std::byte* from, std::byte* to) {
  const auto* const source = reinterpret_cast<const uint32_t*>(from);
  auto* const target = reinterpret_cast<uint32_t*>(to);
  for (int i = static_cast<int>(threadIdx.x); i < words; i += threads) target[i] = source[i];
}
__device__ std::byte* hidden_of(const Travel& travel, std::byte* message, int64_t row) {
  return message + 8 + row * 4 * travel.row_words;
}
__device__ std::byte* choice_of(const Travel& travel, std::byte* message, int64_t most_rows,
                                int64_t row) {
  return hidden_of(travel, message, most_rows) + row * 4 * travel.choice_words();
}
__device__ int rows_before(const int32_t* received, int peer) {
  int before = 0;
  for (int i = 0; i < peer; ++i) before += received[i];
  return before;
}
__device__ void count(int64_t* met, int which, int rows) {
  if (met != nullptr && rows > 0)
    atomicAdd(reinterpret_cast<unsigned long long*>(met + which),
              static_cast<unsigned long long>(rows));
}

// A block a (row, peer), and one more that says how many rows there are.
__global__ void __launch_bounds__(threads)
    pack_messages(const __grid_constant__ Travel travel, const std::byte* x,
                  const Choice* choices) {
  __shared__ int of_warps[threads / 32];
  release_next();
  wait_for_previous();
  const int row = static_cast<int>(blockIdx.x);
  const int peer = static_cast<int>(blockIdx.y);
  const int rows = travel.rows[travel.me];
  const Slice held = travel.experts[peer];
  const auto goes = [&](int r) {
    for (int i = 0; i < travel.chosen; ++i) {
      const int64_t expert = choices[int64_t{r} * travel.chosen + i].expert - held.first;
      if (expert >= 0 && expert < held.count) return true;
    }
    return false;
  };
  int before = 0;
  for (int r = static_cast<int>(threadIdx.x); r < row; r += threads) before += goes(r) ? 1 : 0;
  before = __reduce_add_sync(~0U, before);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = before;
  __syncthreads();
  before = 0;
  for (const int warp : of_warps) before += warp;
  if (row == rows) {
    if (threadIdx.x > 0) return;
    *reinterpret_cast<int64_t*>(travel.to[peer]) = before;
    if (peer != travel.me) count(travel.met, 0, before);
    return;
  }
  const bool leaves = goes(row);
  if (threadIdx.x == 0) travel.slots[peer * rows + row] = leaves ? before : -1;
  if (!leaves) return;
  copy_row(travel.row_words, x + int64_t{row} * 4 * travel.row_words,
           hidden_of(travel, travel.to[peer], before));
  copy_row(travel.choice_words(),
           reinterpret_cast<const std::byte*>(choices + int64_t{row} * travel.chosen),
           choice_of(travel, travel.to[peer], rows, before));
}

// A block a (row, peer).
__global__ void __launch_bounds__(threads)
    unpack_messages(const __grid_constant__ Travel travel, std::byte* x, Choice* choices) {
  release_next();
  wait_for_previous();
  const int row = static_cast<int>(blockIdx.x);
  const int peer = static_cast<int>(blockIdx.y);
  const auto rows_of = [&](int i) {
    return static_cast<int>(*reinterpret_cast<const int64_t*>(travel.from[i]));
  };
  int before = 0;
  for (int i = 0; i < peer; ++i) before += rows_of(i);
  const int here = rows_of(peer);
  if (row == 0 && threadIdx.x == 0) {
    travel.received[peer] = here;
    if (peer == travel.peers - 1) *travel.arrived = before + here;
    count(travel.met, 1, here);
    if (peer != travel.me) count(travel.met, 2, here);
  }
  if (row >= here) return;
  copy_row(travel.row_words, hidden_of(travel, travel.from[peer], row),
           x + int64_t{before + row} * 4 * travel.row_words);
  copy_row(travel.choice_words(), choice_of(travel, travel.from[peer], travel.rows[peer], row),
           reinterpret_cast<std::byte*>(choices + int64_t{before + row} * travel.chosen));
}

__global__ void __launch_bounds__(threads)
    pack_back(const __grid_constant__ Travel travel, const std::byte* y) {
  release_next();
  wait_for_previous();
  const int row = static_cast<int>(blockIdx.x);
  const int peer = static_cast<int>(blockIdx.y);
  if (peer == travel.me || row >= travel.received[peer]) return;
  const int64_t bytes = int64_t{4} * travel.row_words;
  copy_row(travel.row_words, y + (rows_before(travel.received, peer) + row) * bytes,
           travel.to[peer] + row * bytes);
}

template <class Activation>
__global__ void __launch_bounds__(threads)
    sum_back(const __grid_constant__ Travel travel, int width, const Activation* y,
             Activation* out) {
  release_next();
  wait_for_previous();
  const int64_t row = blockIdx.x;
  const int rows = travel.rows[travel.me];
  const int64_t mine = rows_before(travel.received, travel.me);
  for (int i = static_cast<int>(threadIdx.x); i < width; i += threads) {
    float sum = 0;
    for (int peer = 0; peer < travel.peers; ++peer) {
      const int64_t slot = travel.slots[peer * rows + row];
      if (slot < 0) continue;
      const Activation* const from = peer == travel.me
                                         ? y + mine * width
                                         : reinterpret_cast<const Activation*>(travel.from[peer]);
      sum += to_float(from[slot * width + i]);
    }
    out[row * width + i] = from_float<Activation>(sum);
  }
}

// Of a grid over the rows of the fullest message.
int most_rows(const Travel& travel) {
  return std::max(1, *std::max_element(travel.rows, travel.rows + travel.peers));
}

}  // namespace

void pack_travellers(const Travel& travel, const std::byte* x, const Choice* choices,
                     const Launch& how) {
  assert(travel.peers <= max_members && travel.row_words % 2 == 0);
  launch(
      "pack travellers", pack_messages,
      dim3(static_cast<unsigned>(travel.rows[travel.me] + 1), static_cast<unsigned>(travel.peers)),
      threads, 0, how, 1, travel, x, choices);
}

void unpack_travellers(const Travel& travel, std::byte* x, Choice* choices, const Launch& how) {
  launch("unpack travellers", unpack_messages,
         dim3(static_cast<unsigned>(most_rows(travel)), static_cast<unsigned>(travel.peers)),
         threads, 0, how, 1, travel, x, choices);
}

void pack_returning(const Travel& travel, const std::byte* y, const Launch& how) {
  launch("pack returning", pack_back,
         dim3(static_cast<unsigned>(most_rows(travel)), static_cast<unsigned>(travel.peers)),
         threads, 0, how, 1, travel, y);
}

template <class Activation>
void sum_returned(const Travel& travel, const Activation* y, Activation* out, const Launch& how) {
  const int rows = travel.rows[travel.me];
  if (rows == 0) return;
  launch("sum returned", sum_back<Activation>, dim3(static_cast<unsigned>(rows)), threads, 0, how,
         1, travel, travel.row_words * 4 / static_cast<int>(sizeof(Activation)), y, out);
}

template void sum_returned(const Travel&, const float*, float*, const Launch&);
template void sum_returned(const Travel&, const bf16*, bf16*, const Launch&);

}  // namespace helix::cuda
