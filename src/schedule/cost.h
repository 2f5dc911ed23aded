// What a task costs, counted once here and used three times: the roofline share of a measured run,
// the simulator's price, and the check that both agree with the messages and bytes that were really
// sent and allocated.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "layout/requests.h"
#include "schedule/schedule.h"

namespace helix {

// The symbols of a run: of one step of one rank. A StepState of maxima gives capacities.
struct Load {
  double rows = 0;
  double history = 0;  // tokens, without the newest
  double newest = 0;   // rows whose newest token this rank owns
};
struct StepState {
  Load all;
  std::vector<Load> chunks;
  double stage_rows = 0;
  double looked_up = 0;  // rows whose input token stands in this rank's part of the embedding
  double touched = 0;
  double routed = 0;
  double leaving = 0;  // rows sent to DP peers for their experts; a row counts once for each peer
  double arrived = 0;
  double returning = 0;  // of those that arrived, the rows of other replicas
};

double extent(const Dim& dim, const StepState& state, int chunk);
// Values of a tensor (of one chunk), and their bytes.
double volume(const Tensor& tensor, const StepState& state, int chunk = all_chunks);
double bytes_of(const Tensor& tensor, const StepState& state, int chunk = all_chunks);

struct Cost {
  double early = 0;  // bytes read that no predecessor makes: weights, KV history
  double late = 0;   // bytes of activations and of the newest token, read and written
  double flops = 0;  // 2 a multiply-add, of products and attention
  double sent = 0;   // bytes to other ranks, as handed to the message library
  int messages = 0;  // a collective over g ranks counts g - 1 of its per-peer payload
  Cost& operator+=(const Cost& other);
  friend bool operator==(const Cost&, const Cost&) = default;
};
Cost cost(const Schedule& schedule, const Task& task, const StepState& state);
// One step of the rank: each segment's tasks times its layers.
Cost step_cost(const Schedule& schedule, const StepState& state);

// Bytes that a rank allocates, as the executors do it.
struct Memory {
  double weights = 0;
  double kv = 0;
  double buffers = 0;
  double total() const { return weights + kv + buffers; }
};
Memory memory(const Schedule& schedule, const StepState& most);
// The same where a stage has several micro-batches in flight: weights and buffers once, a cache for
// each.
Memory memory(const Schedule& schedule, std::span<const StepState> micro_batches);
// Where messages stand that are not a tensor: the summands of a reduction before they are added in
// rank order, tokens on their way to experts. One for all tasks.
double workspace_bytes(const Schedule& schedule, const StepState& most);

// The state of one rank for requests with `lengths` tokens of history each, of which `decoded`
// steps are done. Requests are cut, by their histories, into replicas and, of this rank's replica,
// chunks. Routing and lookups are the expectation for tokens that choose independently.
struct Requests {
  std::span<const int64_t> lengths;  // of the stage's micro-batch
  int64_t interval = 1;
  int64_t decoded = 0;
  KvLayout kv_layout = KvLayout::dense;
};
StepState state_of(const Schedule& schedule, const Model& model, const Requests& requests);
// Capacities: histories of `lengths + steps` tokens a request, each with room for whole intervals,
// or pages; every expert touched.
StepState capacity_of(const Schedule& schedule, const Model& model, const Requests& requests,
                      int64_t steps);
// Those of each of the PP micro-batches into which the whole batch is cut; for `memory`.
std::vector<StepState> capacities_of(const Schedule& schedule, const Model& model,
                                     const Requests& batch, int64_t steps);
// Symbol by symbol.
StepState maximum(std::span<const StepState> states);

}  // namespace helix
