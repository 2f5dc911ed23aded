#include "execute/cuda/state.h"

#include "kernels/cuda/device.cuh"

namespace helix::cuda {
namespace {

__global__ void count(Shard shard, int rows, const int64_t* positions, int32_t* tokens,
                      int32_t* append) {
  for (int row = static_cast<int>(threadIdx.x); row < rows; row += static_cast<int>(blockDim.x)) {
    const int64_t position = positions[row];
    const auto before =
        static_cast<int32_t>(local_length(position, shard.interval, shard.kvp, shard.mine));
    const bool here = shard.newest == Holder::owner
                          ? owner(position, shard.interval, shard.kvp) == shard.mine
                          : shard.newest == Holder::everybody;
    tokens[row] = before + (here ? 1 : 0);
    append[row] = here ? before : -1;
  }
}

__global__ void go_on(Advance step) {
  release_next();
  wait_for_previous();
  for (int row = static_cast<int>(threadIdx.x); row < step.rows;
       row += static_cast<int>(blockDim.x)) {
    ++step.positions[row];
    if (step.best == nullptr) continue;
    Best winner = step.best[row];  // ranks hold ascending words: ties stay with the lowest
    for (int rank = 1; rank < step.ranks; ++rank) {
      const Best other = step.best[rank * step.rows + row];
      if (other.value > winner.value || isnan(other.value)) winner = other;
    }
    const int32_t taught = step.teacher[row];
    step.teacher[row] = -1;
    step.sampled[row] = winner.index;
    step.tokens[row] = taught >= 0 ? taught : winner.index;
  }
}

__global__ void note_time(int64_t* to) { asm volatile("mov.u64 %0, %globaltimer;" : "=l"(*to)); }

}  // namespace

void stamp(int64_t* to, const Launch& how) {
  launch("stamp", note_time, dim3(1), 1, 0, {how.stream, how.blocks, false}, 1, to);
}

void count_tokens(const Shard& shard, int rows, const int64_t* positions, int32_t* tokens,
                  int32_t* append, const Launch& how) {
  launch("count tokens", count, dim3(1), 256, 0, {how.stream, how.blocks, false}, 1, shard, rows,
         positions, tokens, append);
}

void advance(const Advance& step, const Launch& how) {
  launch("advance", go_on, dim3(1), 256, 0, how, 1, step);
}

}  // namespace helix::cuda
