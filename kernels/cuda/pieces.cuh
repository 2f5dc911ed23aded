// What the kernels of long exchanges share: eight values as they stand in memory, and several of
// them under way in each thread.
#pragma once

#include "kernels/cuda/channel.cuh"

namespace helix::cuda {

// all_reduce_norm and exchange_merge where payload travels in pieces.
template <class Activation>
void all_reduce_rows(const Channel& channel, Way way, int rows, int width, const Activation* y,
                     Activation* hidden, const Stored& w, float eps, Activation* out,
                     const Launch& launch);
template <class Activation>
void exchange_pieces(const Channel& channel, const PartialLayout& part, const std::byte* messages,
                     Activation* out, const Launch& launch);

template <class Activation>
struct Eight {
  static constexpr int count = static_cast<int>(sizeof(Activation)) / 2;
  uint4 words[count] = {};

  __device__ void load(const void* from, int64_t i) {
#pragma unroll
    for (int k = 0; k < count; ++k)
      words[k] = __ldcg(static_cast<const uint4*>(from) + i * count + k);
  }
  __device__ void store(void* to, int64_t i) const {
#pragma unroll
    for (int k = 0; k < count; ++k) static_cast<uint4*>(to)[i * count + k] = words[k];
  }
  __device__ void add_to(float (&sum)[8], float weight = 1) const {
    float values[8];
    get(values);
#pragma unroll
    for (int k = 0; k < 8; ++k) sum[k] += weight * values[k];
  }
  __device__ void get(float (&values)[8]) const {
    if constexpr (count == 1) {
      unpack(words[0], static_cast<const bf16*>(nullptr), values);
    } else {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        values[4 * k] = __uint_as_float(words[k].x);
        values[4 * k + 1] = __uint_as_float(words[k].y);
        values[4 * k + 2] = __uint_as_float(words[k].z);
        values[4 * k + 3] = __uint_as_float(words[k].w);
      }
    }
  }
  __device__ void set(const float (&v)[8]) {  // rounded
    if constexpr (count == 1) {
      words[0] = make_uint4(pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7]));
    } else {
#pragma unroll
      for (int k = 0; k < 2; ++k)
        words[k] = make_uint4(__float_as_uint(v[4 * k]), __float_as_uint(v[4 * k + 1]),
                              __float_as_uint(v[4 * k + 2]), __float_as_uint(v[4 * k + 3]));
    }
  }
};

// Of a thread: the eights first, first + blockDim.x … of a row; those past its end are 0.
template <class Activation>
struct Batch {
  static constexpr int size = 2;
  Eight<Activation> eights[size];

  template <class Body>
  __device__ static void for_each(int first, int count, Body&& body) {
#pragma unroll
    for (int j = 0; j < size; ++j) {
      const int i = first + j * static_cast<int>(blockDim.x);
      if (i < count) body(j, i);
    }
  }
  __device__ void load(const void* row, int first, int count) {
    for_each(first, count, [&](int j, int i) { eights[j].load(row, i); });
  }
  __device__ void store(void* row, int first, int count) const {
    for_each(first, count, [&](int j, int i) { eights[j].store(row, i); });
  }
};
template <class Activation, class Body>
__device__ void for_batches(int count, Body&& body) {
  const int step = Batch<Activation>::size * static_cast<int>(blockDim.x);
  for (int first = static_cast<int>(threadIdx.x); first < count; first += step) body(first);
}

}  // namespace helix::cuda
