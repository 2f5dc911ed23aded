// What changes from step to step stands in device memory, and so in no graph: positions, tokens,
// and from them how many tokens each row has here and where its newest one belongs.
#pragma once

#include <cstdint>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/launch.h"
#include "layout/requests.h"

namespace helix::cuda {

// Who holds the newest token: its owner, or, to be wrong on purpose, nobody or everybody.
enum class Holder : uint8_t { owner, nobody, everybody };
struct Shard {
  int64_t interval = 1;
  int kvp = 1;
  int mine = 0;
  Holder newest = Holder::owner;
};
// Of each row: `tokens` that stand here, the newest counted if it is here, and the newest's place,
// negative where it is not. Never a dependent launch: what follows may read both ahead.
void count_tokens(const Shard& shard, int rows, const int64_t* positions, int32_t* tokens,
                  int32_t* append, const Launch& launch);

// The end of a step: positions go on by one. Where there are `best` candidates, [ranks][rows], the
// winner is sampled and becomes the input of the next step, or the teacher's token does, once
// (negative: none). Later arrays are null where there are no tokens.
struct Advance {
  int rows = 0;
  int ranks = 0;
  int64_t* positions = nullptr;
  const Best* best = nullptr;
  int32_t* tokens = nullptr;
  int32_t* sampled = nullptr;
  int32_t* teacher = nullptr;
};
void advance(const Advance& step, const Launch& launch);

// The time, in ns, at which it is this kernel's turn.
void stamp(int64_t* to, const Launch& launch);

}  // namespace helix::cuda
