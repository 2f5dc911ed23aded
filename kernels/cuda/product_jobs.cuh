// The jobs of a launch of products: rows of x that share one matrix, at most so many at once.
#pragma once

#include <cstdint>

#include "kernels/cuda/product.h"

namespace helix::cuda {

inline constexpr int product_warps = 8;
inline constexpr int product_threads = 32 * product_warps;
inline constexpr int max_experts = 2 * product_threads;

struct Job {
  int matrix;
  int first;  // row, or pair
  int rows;
};

// Where matrices have as many rows each: the jobs of one.
template <int Most>
__device__ __host__ int jobs_each(const Experts& experts) {
  return (experts.rows_each + Most - 1) / Most;
}

// In shared memory: how many jobs stand before each expert's, of those that were chosen.
template <int Most>
struct Jobs {
  int of_warps[product_warps];  // first: read 16 bytes at a time, nothing else written among them
  int before[max_experts + 1];

  // By the whole block, of product_threads or more; what was chosen must be visible.
  __device__ void list(const Experts& experts) {
    const int lane = static_cast<int>(threadIdx.x) & 31;
    const int warp = static_cast<int>(threadIdx.x) >> 5;
    int counts[2];  // two experts a thread, side by side
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int expert = 2 * static_cast<int>(threadIdx.x) + i;
      counts[i] = expert < experts.count
                      ? (experts.begins[expert + 1] - experts.begins[expert] + Most - 1) / Most
                      : 0;
    }
    int sum = counts[0] + counts[1];
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0U, sum, step);
      if (lane >= step) sum += other;
    }
    if (lane == 31 && warp < product_warps) of_warps[warp] = sum;
    __syncthreads();
    if (warp < product_warps) {
      for (int i = 0; i < warp; ++i) sum += of_warps[i];
      before[2 * threadIdx.x + 1] = sum - counts[1];
      before[2 * threadIdx.x + 2] = sum;
    }
    if (threadIdx.x == 0) before[0] = 0;
    __syncthreads();
  }
  __device__ int count(const Experts& experts) const {
    return experts.begins != nullptr ? before[experts.count]
                                     : experts.count * jobs_each<Most>(experts);
  }
  __device__ Job at(const Experts& experts, int index) const {
    if (experts.begins == nullptr) {
      const int each = jobs_each<Most>(experts);
      const int first = Most * (index % each);
      return {index / each, first, min(Most, experts.rows_each - first)};
    }
    int low = 0, high = experts.count - 1;  // the last expert with before <= index
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (before[middle] <= index) low = middle;
      else high = middle - 1;
    }
    const int first = experts.begins[low] + Most * (index - before[low]);
    return {low, first, min(Most, experts.begins[low + 1] - first)};
  }
};

// Where a job's row stands in y, and in x, there one after another but for pairs that are gathered.
__device__ inline int64_t row_of_y(const Experts& experts, const Job& job, int row) {
  return experts.begins != nullptr ? int64_t{job.first + row}
                                   : int64_t{job.first + row} * experts.count + job.matrix;
}
__device__ inline int64_t row_of_x(const Experts& experts, const Job& job, int row) {
  return experts.row_of != nullptr ? experts.row_of[job.first + row] : row_of_y(experts, job, row);
}

// All outputs of all jobs stand in one line; part `index` of `parts` of it is walked through:
// f(job, first of its outputs, how many of them), `most` at once.
template <int Most, class F>
__device__ void for_passes(const ProductShape& shape, const Experts& experts,
                           const Jobs<Most>& jobs, int64_t index, int64_t parts, int most, F&& f) {
  const int64_t outputs = int64_t{shape.outputs} * jobs.count(experts);  // less than 2^31
  const int end = static_cast<int>(outputs * (index + 1) / parts);
  int stop = 0;
#pragma unroll 1
  for (int begin = static_cast<int>(outputs * index / parts); begin < end; begin = stop) {
    const int number = begin / shape.outputs;
    const int first = begin - number * shape.outputs;
    const int count = min(min(end - begin, shape.outputs - first), most);
    stop = begin + count;
    f(jobs.at(experts, number), first, count);
  }
}

// For more than eight rows a matrix (product_wide.cu).
template <class Weight>
void start_wide(const ProductShape& shape, const Experts& experts, const bf16* x,
                const Values<const Weight>& w, void* y, bool wide_out, const Launch& how);

}  // namespace helix::cuda
