// How kernels are launched. Each may be dependent (programmatic dependent launch): it starts while
// its predecessor in the stream still runs, reads ahead what no task of the step writes, and waits
// for the predecessor before it touches anything else. An ordinary node of a graph costs 2.3 us of
// launch, ramp and drain on an H200, a dependent one that reads ahead almost nothing.
//
// The rule that makes reading ahead safe: weights, the KV history, and what is planned once a step
// (token counts, cuts) are written before the step's first launch, and that one is not dependent.
#pragma once

struct CUstream_st;

namespace helix::cuda {

struct Launch {
  CUstream_st* stream = nullptr;
  int blocks = 0;         // SMs that a kernel which reads memory for long may fill
  bool dependent = true;  // starts before the kernel launched before it has ended
  bool own_card = true;   // no other process works on the card
};

}  // namespace helix::cuda
