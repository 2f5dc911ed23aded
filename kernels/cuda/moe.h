// Mixture of experts on a GPU: which experts a token chooses, and the products of the rows that
// chose one. Twins: kernels/cpu/reference_moe.h. All pointers are device memory unless said.
#pragma once

#include <cstdint>

#include "base/format.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

// As cpu::Routing. `skew` (may be null) is added to the logits, an expert each.
struct Routing {
  int experts = 0;  // at most 512
  int chosen = 0;
  int groups = 1;
  int chosen_groups = 1;
  bool sigmoid = false;
  bool renormalise = false;
  float scale = 1;
  const float* skew = nullptr;
};
struct Choice {
  int32_t expert;
  float gate;
};
// For verified steps; all null otherwise.
struct RoutingTrace {
  const int32_t* forced = nullptr;  // [rows][chosen]: goes on with these; negative: with its own
  int32_t* own = nullptr;           // [rows][chosen]
};
// As cpu::router_logits and cpu::choose, row by row: choices by ascending expert, ties to the
// lowest index. Sums in a fixed order: ranks that hold the same x decide the same. x:
// [rows][width], w: [experts][width], bias: [experts] or nowhere, logits: [rows][experts], out:
// [rows][chosen].
template <class Activation>
void route(const Routing& routing, int rows, int width, const Activation* x, const Stored& w,
           const Stored& bias, const RoutingTrace& trace, float* logits, Choice* out,
           const Launch& launch);

// Who chose experts [first, first + count): pairs (row, expert) by ascending expert, then row.
struct Pairs {
  int32_t* begins;   // [count + 1]: of each expert's pairs
  int32_t* row_of;   // [rows * chosen]
  int32_t* pair_of;  // [rows][chosen]: negative where the expert is another rank's
};
// `rows_there` (may be null): how many of the rows there are. `met` [3] is added to: pairs, experts
// that some row chose, and 1.
void pair_up(int rows, const int32_t* rows_there, int chosen, const Choice* choices, int first,
             int count, const Pairs& pairs, int64_t* met, const Launch& launch);

// out[r] = sum over the experts of row r, ascending, of gate * y[pair], rounded once; zero where
// there is none. y: [pairs][width], out: [rows][width].
template <class Activation>
void sum_pairs(int rows, int chosen, int width, const Choice* choices, const int32_t* pair_of,
               const float* y, Activation* out, const Launch& launch);

}  // namespace helix::cuda
