// Costs as linear terms in what a run knows (rows, history, experts touched …): a schedule is
// compiled once, and a batch or context then costs a few multiplications a cover.
#pragma once

#include <array>

#include "schedule/covers.h"

namespace helix::simulated {

// 1, and the members of StepState (of one chunk).
inline constexpr size_t symbol_count = 11;
using Symbols = std::array<double, symbol_count>;
inline constexpr size_t rows_symbol = 1, newest_symbol = 3, looked_up_symbol = 5,
                        touched_symbol = 6, routed_symbol = 7;
Symbols symbols_of(const StepState& state, int chunk);

struct Terms {  // a factor a symbol
  Symbols early = {}, late = {}, flops = {}, sent = {};
};
// cost() is the one place where bytes are counted: the factors are its values at each symbol alone.
Terms terms_of(const Schedule& schedule, const Cover& cover);

constexpr double dot(const Symbols& factors, const Symbols& values) {
  double sum = 0;
  for (size_t i = 0; i < symbol_count; ++i) sum += factors[i] * values[i];
  return sum;
}

}  // namespace helix::simulated
