// Send, receive and merge of long partial attention outputs. A piece is some vectors of each
// message. A block sends one after another, and merges each behind the next.
#include <algorithm>
#include <cassert>
#include <cmath>

#include "kernels/cuda/pieces.cuh"

namespace helix::cuda {
namespace {

constexpr int threads = 256;
constexpr int sm_blocks = 4;  // some of them send while others merge
constexpr int piece_bytes = 8 << 10;

struct Pieces {
  PartialLayout part;
  int64_t vectors;
  int64_t of_piece;  // vectors
  int64_t count;
};

template <class Activation>
struct Merging {
  const Channel& channel;
  const Pieces& pieces;
  const std::byte* messages;
  Activation* out;
  Exchange& exchange;

  __device__ int64_t first(int64_t piece) const { return piece * pieces.of_piece; }
  __device__ int vectors(int64_t piece) const {
    return static_cast<int>(min(pieces.of_piece, pieces.vectors - first(piece)));
  }
  __device__ int of_vector() const { return static_cast<int>(pieces.part.value_size) / 8; }
  __device__ int eights(int64_t piece) const { return vectors(piece) * of_vector(); }
  __device__ int64_t outputs_at(int64_t vector) const {
    return vector * pieces.part.value_size * static_cast<int>(sizeof(Activation));
  }
  __device__ int64_t lse_at(int64_t vector) const {
    return pieces.part.outputs_bytes() + vector * 4;
  }

  __device__ void send(int64_t piece) const {
    const int64_t outputs = outputs_at(first(piece));
    const int64_t lses = lse_at(first(piece));
    for (int k = 1; k < channel.size; ++k) {  // each member begins with another peer
      const int member = (channel.index + k) % channel.size;
      const std::byte* const from = messages + member * pieces.part.bytes();
      std::byte* const to = exchange.pieces_at(member);
      for_batches<Activation>(eights(piece), [&](int at) {
        Batch<Activation> batch;
        batch.load(from + outputs, at, eights(piece));
        batch.store(to + outputs, at, eights(piece));
      });
      for (int i = static_cast<int>(threadIdx.x); i < vectors(piece); i += threads)
        reinterpret_cast<float*>(to + lses)[i] =
            __ldcg(reinterpret_cast<const float*>(from + lses) + i);
    }
    exchange.announce_to_all(piece);
  }

  // w_i = exp(lse_i - max), out = sum w_i o_i / sum w_i in order of the members.
  __device__ void merge(int64_t piece) const {
    exchange.await_all(piece);
    const auto message = [&](int i) {
      return i == channel.index ? messages + i * pieces.part.bytes() : exchange.pieces_from(i);
    };
    for (int i = static_cast<int>(threadIdx.x); i < eights(piece); i += threads) {
      const int64_t vector = first(piece) + i / of_vector();
      const int64_t at = outputs_at(vector) / 16 / Eight<Activation>::count + i % of_vector();
      const auto lse_of = [&](int from) {
        return __ldcg(reinterpret_cast<const float*>(message(from) + lse_at(vector)));
      };
      float max = -INFINITY;
#pragma unroll 4
      for (int m = 0; m < channel.size; ++m) max = fmaxf(max, lse_of(m));
      float total = 0;
      float sum[8] = {};
#pragma unroll 4
      for (int m = 0; m < channel.size; ++m) {
        const float lse = lse_of(m);
        if (lse == -INFINITY) continue;
        Eight<Activation> values;
        values.load(message(m), at);
        const float weight = expf(lse - max);  // +inf gives NaN, so that it is seen as NaN is
        values.add_to(sum, weight);
        total += weight;
      }
      const float scale = total == 0 ? 0 : 1 / total;
      for (float& v : sum) v *= scale;
      Eight<Activation> merged;
      merged.set(sum);
      merged.store(out, at);
    }
  }
};

__global__ void __launch_bounds__(threads, sm_blocks)
    merge_pieces(const __grid_constant__ Channel channel, Format activations,
                 const __grid_constant__ Pieces pieces, const std::byte* messages, void* out) {
  if (channel.own_card) release_next();
  Exchange exchange(channel);
  wait_for_previous();
  exchange.begin();
  const auto begin_of = [&](int64_t block) { return block * pieces.count / gridDim.x; };
  const int64_t begin = begin_of(blockIdx.x);
  const int64_t end = begin_of(blockIdx.x + 1);
  with_type(activations, [&]<class A>(A*) {
    const Merging<A> merging{channel, pieces, messages, static_cast<A*>(out), exchange};
    for (int64_t i = begin; i <= end; ++i) {
      if (i < end) merging.send(i);
      if (i > begin) merging.merge(i - 1);
    }
  });
}

}  // namespace

template <class Activation>
void exchange_pieces(const Channel& channel, const PartialLayout& part, const std::byte* messages,
                     Activation* out, const Launch& how) {
  assert(part.value_size % 8 == 0 && part.bytes() % 16 == 0);
  const int64_t vectors = part.rows * part.heads;
  const int64_t each = std::max<int64_t>(1, piece_bytes / (part.value_size * part.element_bytes));
  const Pieces pieces{part, vectors, each, (vectors + each - 1) / each};
  const int64_t blocks = std::min<int64_t>(pieces.count, sm_blocks * how.blocks);
  launch("exchange+merge", merge_pieces, dim3(static_cast<unsigned>(blocks)), threads, 0, how, 1,
         channel, format_of<Activation>, pieces, messages, out);
}

template void exchange_pieces(const Channel&, const PartialLayout&, const std::byte*, float*,
                              const Launch&);
template void exchange_pieces(const Channel&, const PartialLayout&, const std::byte*, bf16*,
                              const Launch&);

}  // namespace helix::cuda
