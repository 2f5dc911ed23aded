// What happens in a decode step: tensors, and tasks over them. No edges are stored by hand: a task
// waits for the last earlier writer of what it reads, and each lane keeps its order.
//
// A schedule is one micro-batch's passage through one pipeline stage, built for one rank. Batch and
// context are in no schedule: an extent that only a run knows is a symbol, resolved by StepState
// (cost.h).
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string_view>
#include <vector>

#include "layout/layout.h"
#include "model/weights.h"

namespace helix {

enum class Fill : uint8_t {
  fixed,
  absent,      // no axis: extent 1
  rows,        // requests of this replica in the micro-batch (of the chunk, in a chunk's task)
  stage_rows,  // requests of all replicas of the stage
  history,     // KV tokens that this rank holds for those rows, the newest not counted
  newest,      // rows whose newest token this rank owns
  touched,     // experts of this rank that some token chose
  routed,      // (token, expert) pairs of this rank
  arrived,     // rows of all replicas that chose an expert of this rank
};

struct Dim {
  Slice mine;  // of a fixed extent; of `touched` the part that this rank holds
  Fill fill = Fill::fixed;
};

enum class Kind : uint8_t {
  weight,      // one for each layer
  history,     // the KV cache: one for each layer and micro-batch
  newest,      // a view of the newest tokens in the cache: no memory of its own
  activation,  // one buffer for all layers and passages
  state,       // outlives the step: tokens, positions
};

using Id = int16_t;

struct Tensor {
  std::string_view name;
  Kind kind;
  double bytes;  // of one value; nvfp4 is 0.5625
  std::array<Dim, 4> dims;
  W weight = W::embed;   // which one, of Kind::weight
  int layer_offset = 0;  // a block ends with the norm of the block that follows
};

// The kinds of task. Each is a row of `operations` and a case in each executor.
enum class Op : uint8_t {
  embed,
  norm,
  add_norm,
  product,
  per_head,
  angles,
  rope,
  append,
  attend,
  merge,
  rescale,
  swiglu,
  add,
  route,
  experts,
  pick,
  advance,
  all_reduce,
  all_gather,
  reduce_scatter,
  all_to_all,
  dispatch,
  combine,
  shift,
};
enum class Work : uint8_t { none, product, experts, attend };  // which arithmetic counts as FLOPs
struct Operation {
  std::string_view name;
  Work work = Work::none;
  int rounds = 0;  // messages to each other rank of the group
};
inline constexpr Operation operations[] = {{"embed"},
                                           {"norm"},
                                           {"add_norm"},
                                           {"product", Work::product},
                                           {"per_head", Work::product},
                                           {"angles"},
                                           {"rope"},
                                           {"append"},
                                           {"attend", Work::attend},
                                           {"merge"},
                                           {"rescale"},
                                           {"swiglu"},
                                           {"add"},
                                           {"route", Work::product},
                                           {"experts", Work::experts},
                                           {"pick"},
                                           {"advance"},
                                           {"all_reduce", Work::none, 2},
                                           {"all_gather", Work::none, 1},
                                           {"reduce_scatter", Work::none, 1},
                                           {"all_to_all", Work::none, 1},
                                           {"dispatch", Work::none, 1},
                                           {"combine", Work::none, 1},
                                           {"shift", Work::none, 1}};
constexpr const Operation& row_of(Op op) { return operations[static_cast<int>(op)]; }
constexpr bool communicates(Op op) { return row_of(op).rounds > 0; }

enum class Lane : uint8_t {
  compute,
  exchange
};  // each in order; the second exists only under HOP-B
inline constexpr int all_chunks = -1;

template <int Max>
class Ids {
 public:
  Ids() = default;
  Ids(std::initializer_list<Id> ids) {
    for (const Id id : ids) push_back(id);
  }
  void push_back(Id id) { ids_[count_++] = id; }
  Id operator[](int i) const { return ids_[i]; }
  int size() const { return count_; }
  const Id* begin() const { return ids_; }
  const Id* end() const { return ids_ + count_; }

 private:
  Id ids_[Max] = {};
  int8_t count_ = 0;
};

struct Task {
  std::string_view name;
  Op op;
  Ids<5> reads;
  Ids<2> writes;
  Group group;  // of a communicating task
  Lane lane = Lane::compute;
  int chunk = all_chunks;
  // In each lane the last earlier task of the segment that wrote something this one reads; -1:
  // none.
  std::array<int, 2> after = {-1, -1};
};

// Tasks [begin, end) carried out once for each of `layers` layers from `first_layer`.
struct Segment {
  std::string_view kind;  // "prologue", "dense", "moe", "epilogue"
  int first_layer;
  int layers;
  int begin;
  int end;
};

struct Schedule {
  std::vector<Tensor> tensors;
  std::vector<Task> tasks;
  std::vector<Segment> segments;
  int chunks = 1;
  Place place{Layout{}, 0};
  const Tensor& operator[](Id id) const { return tensors[static_cast<size_t>(id)]; }
};

// What a schedule depends on.
struct Plan {
  const Model* model;
  Layout layout;
  Precision precision;
  int chunks = 1;  // above 1: HOP-B
};

// Builds the step of one rank. Which widths are legal is layout/'s matter. (step.cpp)
Schedule build_schedule(const Plan& plan, int rank);

}  // namespace helix
