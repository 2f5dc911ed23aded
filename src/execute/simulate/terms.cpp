#include "execute/simulate/terms.h"

namespace helix::simulated {

namespace {

// The inverse of symbols_of, all chunks alike.
StepState state_of(const Symbols& v, int chunks) {
  const Load load{.rows = v[1], .history = v[2], .newest = v[3]};
  return {.all = load,
          .chunks = std::vector<Load>(static_cast<size_t>(chunks), load),
          .stage_rows = v[4],
          .looked_up = v[5],
          .touched = v[6],
          .routed = v[7],
          .leaving = v[8],
          .arrived = v[9],
          .returning = v[10]};
}

}  // namespace

Symbols symbols_of(const StepState& s, int chunk) {
  const Load& load = chunk == all_chunks ? s.all : s.chunks[static_cast<size_t>(chunk)];
  return {1,         load.rows, load.history, load.newest, s.stage_rows, s.looked_up,
          s.touched, s.routed,  s.leaving,    s.arrived,   s.returning};
}

Terms terms_of(const Schedule& s, const Cover& cover) {
  // As many values as the stage has ranks, so that every group divides what it reduces.
  const double unit = s.place.l.stage_ranks();
  const Cost constant = cost(s, cover, state_of({}, s.chunks));
  Terms terms;
  for (size_t i = 0; i < symbol_count; ++i) {
    Symbols alone = {};
    alone[i] = unit;
    const Cost c = cost(s, cover, state_of(alone, s.chunks));
    const auto factor = [&](double Cost::*field) {
      return i == 0 ? constant.*field : (c.*field - constant.*field) / unit;
    };
    terms.early[i] = factor(&Cost::early);
    terms.late[i] = factor(&Cost::late);
    terms.flops[i] = factor(&Cost::flops);
    terms.sent[i] = factor(&Cost::sent);
  }
  return terms;
}

}  // namespace helix::simulated
