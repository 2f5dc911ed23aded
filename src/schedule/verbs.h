// The words that step.cpp is written in: each makes its output tensor and appends one task.
#pragma once

#include <utility>

#include "schedule/schedule.h"

namespace helix {

class Verbs {
 public:
  Verbs(const Plan& plan, int rank);

 protected:
  struct Partial {
    Id out, lse;
  };

  Dim dim(Id id, int axis) const { return s[id].dims[static_cast<size_t>(axis)]; }
  Id weight(W which, const std::array<Dim, 4>& dims, int layer_offset = 0);
  Id activation(std::string_view name, const std::array<Dim, 4>& dims);
  Id number(std::string_view name, Kind kind, double bytes, const std::array<Dim, 4>& dims);
  Id task(std::string_view name, Op op, Ids<5> reads, Id writes, const Group& group = {});

  // Tasks that are carried out once for each of `layers` layers; nothing where there are none.
  template <class Body>
  void segment(std::string_view kind, int64_t first_layer, int64_t layers, Body body) {
    if (layers == 0) return;
    const int begin = static_cast<int>(s.tasks.size());
    body();
    s.segments.push_back({kind, static_cast<int>(first_layer), static_cast<int>(layers), begin,
                          static_cast<int>(s.tasks.size())});
  }
  // HOP-B: the body is written once and repeated for each chunk of requests; what follows joins the
  // chunks.
  template <class Body>
  auto per_chunk(Body body) {
    const size_t begin = s.tasks.size();
    chunk_ = 0;
    const auto result = body();
    chunk_ = all_chunks;
    lane_ = Lane::compute;
    repeat_chunks(begin);
    return result;
  }
  void then_exchange() {
    if (s.chunks > 1) lane_ = Lane::exchange;
  }

  // Products. `outputs` are the extents of a row of the result; the contraction is a row of `in`.
  Id product(W which, Id in, const std::array<Dim, 3>& outputs);
  Id product(std::string_view name, Id weight, Id in, const std::array<Dim, 3>& outputs);
  Id per_head(W which, Id in, Dim heads, Dim made, Dim contracted, Dim out_width);
  Id norm(W which, Id in, int layer_offset = 0);  // a tensor of its own
  void norm_in_place(W which, Id in);             // over the last numbers that the weight covers
  void rope(Id in);                               // in place
  Id swiglu(Id in);
  void add(Id to, Id from);  // to += from
  // The KV cache.
  Id append(Id kv);
  Partial attend(Id query, Id newest);
  Partial all_to_all(const Group& group, const Partial& part, Dim heads);
  Id merge(const Partial& parts, Dim heads);
  Id rescale(const Partial& part, Id lses);
  // Collectives; over one rank each is nothing and gives back its input.
  Id all_reduce(std::string_view name, const Group& group, Id in);
  Id gather_heads(std::string_view name, const Group& group, Id in, Dim heads);
  Id scatter_heads(std::string_view name, const Group& group, Id in, Dim heads);  // summed
  Id gather_ranks(std::string_view name, const Group& group, Id in);  // a leading axis of ranks
  Id enter(std::string_view name, Id in);                             // every replica's rows
  Id leave(std::string_view name, Id in);  // the sum over replicas, my rows
  // Mixture of experts.
  Id route(Id in);
  struct Arrived {
    Id rows, choice;
  };
  Arrived dispatch(Id in, Id choice);
  Id combine(Id in, Id choice);
  Id experts(Id in, Id choice, Dim out_rows);  // the sum over my experts, weighted by the gate

  Schedule s;
  const Plan& plan;
  const Model& m;
  const Place& me;
  const Layout& l;
  const Dim rows{{}, Fill::rows}, one{{}, Fill::absent}, hidden;
  const Dim stage_rows;  // of all replicas: the same rows where there is one
  Id angles_ = -1;       // of this step's positions
  Id positions_ = -1;    // state

 private:
  Id collective(std::string_view name, Op op, const Group& group, Id in,
                const std::array<Dim, 4>& dims);
  void repeat_chunks(size_t begin);

  Lane lane_ = Lane::compute;
  int chunk_ = all_chunks;
};

}  // namespace helix
