// All-reduce, residual and RMSNorm of many rows. A block has one row after another and three steps
// for each, a row behind each other, so that the links are busy while it waits and adds: it sends
// its summand, adds what came (and sends the sum, where rows have owners), takes the owner's sum.
// Each waits only for rows before it, on whatever grid the others work.
#include <algorithm>
#include <cassert>

#include "kernels/cuda/pieces.cuh"

namespace helix::cuda {
namespace {

constexpr int sm_threads = 1024;

// Warps in order; all threads get it.
__device__ float sum_over_block(float value) {
  __shared__ float of_warps[sm_threads / 32];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0U, value, step);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += of_warps[warp];
  __syncthreads();  // the next row writes them again
  return sum;
}

struct Work {
  int rows, width;
  float eps;
  bool owned;  // rows have owners
  Stored gains;
};

template <class Activation>
struct Reduction {
  const Channel& channel;
  const Work& work;
  const Activation* y;
  Activation* hidden;
  Activation* out;
  Exchange& exchange;

  __device__ int eights() const { return work.width / 8; }
  __device__ int64_t bytes(int64_t rows) const {
    return rows * work.width * static_cast<int>(sizeof(Activation));
  }
  __device__ int owner(int row) const { return row % channel.size; }
  __device__ bool adds(int row) const { return !work.owned || owner(row) == channel.index; }
  // Pieces: the summands that a member gets, then its sums.
  __device__ int64_t summand(int row) const { return work.owned ? row / channel.size : row; }
  __device__ int64_t sum(int row) const {
    return (work.rows + channel.size - 1) / channel.size + row / channel.size;
  }
  __device__ void put_to_peers(const Batch<Activation>& batch, int64_t piece, int first) const {
    for (int k = 1; k < channel.size; ++k)
      batch.store(exchange.pieces_at((channel.index + k) % channel.size) + bytes(piece), first,
                  eights());
  }

  __device__ void send(int row) const {
    if (work.owned && adds(row)) return;
    for_batches<Activation>(eights(), [&](int first) {
      Batch<Activation> batch;
      batch.load(y + int64_t{row} * work.width, first, eights());
      if (work.owned)
        batch.store(exchange.pieces_at(owner(row)) + bytes(summand(row)), first, eights());
      else put_to_peers(batch, summand(row), first);
    });
    if (work.owned) exchange.announce(owner(row), summand(row));
    else exchange.announce_to_all(summand(row));
  }

  __device__ void add(int row) const {
    if (!adds(row)) return;
    exchange.await_all(summand(row));
    float squares = 0;
    for_batches<Activation>(eights(), [&](int first) {
      float sums[Batch<Activation>::size][8] = {};
#pragma unroll 2
      for (int i = 0; i < channel.size; ++i) {
        const void* const own = y + int64_t{row} * work.width;
        Batch<Activation> batch;
        batch.load(i == channel.index ? own : exchange.pieces_from(i) + bytes(summand(row)), first,
                   eights());
#pragma unroll
        for (int j = 0; j < Batch<Activation>::size; ++j) batch.eights[j].add_to(sums[j]);
      }
      Batch<Activation> batch;
#pragma unroll
      for (int j = 0; j < Batch<Activation>::size; ++j) batch.eights[j].set(sums[j]);
      if (work.owned) put_to_peers(batch, sum(row), first);
      squares += keep(row, first, batch);
    });
    if (work.owned) exchange.announce_to_all(sum(row));
    norm(row, squares);
  }

  __device__ void take(int row) const {
    if (adds(row)) return;
    exchange.await_answer(owner(row), sum(row));
    float squares = 0;
    for_batches<Activation>(eights(), [&](int first) {
      Batch<Activation> batch;
      batch.load(exchange.pieces_from(owner(row)) + bytes(sum(row)), first, eights());
      squares += keep(row, first, batch);
    });
    norm(row, squares);
  }

  // The sum into the residual, or out. Returns the squares of what the norm is of.
  __device__ float keep(int row, int first, const Batch<Activation>& sum) const {
    const int64_t at = int64_t{row} * work.width;
    if (hidden == nullptr) return sum.store(out + at, first, eights()), 0;
    Batch<Activation> batch;
    batch.load(hidden + at, first, eights());
    float squares = 0;
#pragma unroll
    for (int j = 0; j < Batch<Activation>::size; ++j) {
      float values[8];
      batch.eights[j].get(values);
      sum.eights[j].add_to(values);
      batch.eights[j].set(values);
      batch.eights[j].get(values);
#pragma unroll
      for (const float v : values) squares += v * v;
    }
    batch.store(hidden + at, first, eights());
    return squares;
  }

  __device__ void norm(int row, float squares) const {
    if (hidden == nullptr) return;
    const float mean = sum_over_block(squares) / static_cast<float>(work.width);
    const float scale = rsqrtf(mean + work.eps);
    const int64_t at = int64_t{row} * work.width;
    for_batches<Activation>(eights(), [&](int first) {
      Batch<Activation> batch;
      batch.load(hidden + at, first, eights());  // what this thread wrote
      Batch<Activation>::for_each(first, eights(), [&](int j, int i) {
        float values[8];
        float gains[8];
        batch.eights[j].get(values);
        load8(work.gains, 8 * i, gains);
#pragma unroll
        for (int k = 0; k < 8; ++k) values[k] *= scale * gains[k];
        batch.eights[j].set(values);
      });
      batch.store(out + at, first, eights());
    });
  }
};

__global__ void __launch_bounds__(sm_threads)
    reduce_rows(const __grid_constant__ Channel channel, Format activations,
                const __grid_constant__ Work work, const void* y, void* hidden, void* out) {
  if (channel.own_card) release_next();
  Exchange exchange(channel);
  wait_for_previous();
  exchange.begin();
  const auto begin_of = [&](int64_t block) {
    return static_cast<int>(block * work.rows / gridDim.x);
  };
  const int begin = begin_of(blockIdx.x);
  const int end = begin_of(blockIdx.x + 1);
  with_type(activations, [&]<class A>(A*) {
    const Reduction<A> rows{
        channel, work, static_cast<const A*>(y), static_cast<A*>(hidden), static_cast<A*>(out),
        exchange};
    for (int i = begin; i < end + 2; ++i) {
      if (i < end) rows.send(i);
      if (i > begin && i <= end) rows.add(i - 1);
      if (i > begin + 1) rows.take(i - 2);
    }
  });
}

}  // namespace

template <class Activation>
void all_reduce_rows(const Channel& channel, Way way, int rows, int width, const Activation* y,
                     Activation* hidden, const Stored& w, float eps, Activation* out,
                     const Launch& how) {
  assert(width % 8 == 0 && width * sizeof(Activation) >= Room::least_piece);
  // A few rows get wide blocks; of many, a multiprocessor has up to four at a time, so that some of
  // them send while others add. The same on every member, as the order of a norm's sum is.
  const int most_threads = std::clamp(128 * sm_threads / rows / 32 * 32, 256, sm_threads);
  const int batches = width / 8 / Batch<Activation>::size;
  const int threads = std::clamp((batches + 31) / 32 * 32, 128, most_threads);
  const int blocks = std::clamp(how.blocks * (sm_threads / threads), 1, rows);
  launch("all-reduce+norm", reduce_rows, dim3(static_cast<unsigned>(blocks)), threads, 0, how, 1,
         channel, format_of<Activation>, Work{rows, width, eps, way == Way::owners, w}, y, hidden,
         out);
}

template void all_reduce_rows(const Channel&, Way, int, int, const float*, float*, const Stored&,
                              float, float*, const Launch&);
template void all_reduce_rows(const Channel&, Way, int, int, const bf16*, bf16*, const Stored&,
                              float, bf16*, const Launch&);

}  // namespace helix::cuda
