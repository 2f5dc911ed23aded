// Faults made on purpose, so that tests see how a run ends: HELIX_BENCH_FAULT is
// KIND:rank=R:point=P, for example hang:rank=1:point=3. Points count from 1, in the order of the
// sweep.
#pragma once

#include <cstdint>

namespace helix {

enum class FaultKind : uint8_t {
  none,
  kill,        // the rank is killed while it decodes
  failure,     // "throw": an exception while it decodes
  hang,        // it stands still while it decodes
  throw_load,  // an exception while it loads the model
  no_room,     // "out_of_memory": it has too little memory for the model
  wrong        // its newest token is lost, so that verification fails
};

struct Fault {
  FaultKind kind = FaultKind::none;
  int rank = 0;
  int64_t point = 1;
};

// Of the environment. Throws InputError.
Fault wanted_fault();

// Does not return, or throws, for those that strike while decoding.
void strike(FaultKind kind);

}  // namespace helix
