// `verify`: every layout that the ranks allow, held against the judge.
#pragma once

#include <optional>
#include <string>

#include "bench/scope.h"
#include "bench/world.h"
#include "execute/factory.h"

namespace helix {

struct VerifyOptions {
  std::optional<std::string> sweep;  // the points of a sweep; else all layouts of the tiny models
  bool full = false;                 // the whole product of the other axes, instead of all pairs
  int64_t part = 1;  // of `parts` equal parts of the cases, dealt by seed (make test runs a third)
  int64_t parts = 1;
  uint64_t seed = 1;
  ExecutorChoice how;
  std::string exchange = "auto";
  Scope scope = Scope::step;  // or tasks
  std::string only;           // layouts whose description has this text
};

// Collective over the world. The table goes to stdout of rank 0. 0, or 1 when a case failed or a
// negative control was not caught.
int verify(World& world, const VerifyOptions& asked);

}  // namespace helix
