// Single tasks held against float64: what a task has written, against what the judge's formulas
// make of what it had read. Results of products and of attention are sampled where they are dear.
#pragma once

#include <mpi.h>

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "bench/tasks/record.h"
#include "bench/tasks/sample.h"
#include "execute/exchange/groups.h"
#include "judge/tensors.h"

namespace helix {

// Experts that a router chose, by layer and request.
using OwnChoices = std::map<std::pair<int, int64_t>, std::vector<int32_t>>;

class TaskJudge {
 public:
  // `ranks`: the layout's, collective; null: this rank is alone, and exchanges are not judged.
  // `own_choices`: of routers whose tokens go to given experts.
  TaskJudge(const Schedule& schedule, const Assignment& work, const OwnRequests& requests,
            const OwnChoices& own_choices, MPI_Comm ranks);

  // How many tolerances of its type a task's worst result is off; infinite for one that is wrong
  // whatever the tolerance. In order of the schedule; collective over its group for a task that
  // communicates.
  double error(const TaskRecord& record);

  // Largest error of a result that is still rounding: of activations, of fp32 ones made of bf16.
  static double tolerance(Format activations) { return activations == Format::bf16 ? 8e-3 : 1e-5; }

 private:
  double off(const Sample& sample, const TaskRecord& record, int write = 0) const;
  uint64_t seed_of(const TaskRecord& record) const;
  std::vector<int64_t> rows(const TaskRecord& record, int64_t count) const;
  std::vector<int64_t> features(const TaskRecord& record, int64_t width, int64_t contraction) const;
  int64_t extent_of(Id id, size_t axis) const { return schedule_[id].dims[axis].mine.count; }
  int64_t weight_layer(const TaskRecord& record, Id id) const {
    return record.layer + schedule_[id].layer_offset;
  }

  double embed(const TaskRecord& record);
  double norm(const TaskRecord& record);
  double add_norm(const TaskRecord& record);
  double product(const TaskRecord& record);
  double per_head(const TaskRecord& record);
  double angles(const TaskRecord& record);
  double rope(const TaskRecord& record);
  double append(const TaskRecord& record);
  double attend(const TaskRecord& record);
  double merge(const TaskRecord& record);
  double rescale(const TaskRecord& record);
  double swiglu(const TaskRecord& record);
  double add(const TaskRecord& record);
  double pick(const TaskRecord& record);
  double advance(const TaskRecord& record);
  // Experts (experts.cpp).
  double route(const TaskRecord& record);
  double experts(const TaskRecord& record);
  double experts_up(const TaskRecord& record);
  double experts_down(const TaskRecord& record);
  // Exchanges, from what all ranks of the group had read (exchanges.cpp).
  double exchange(const TaskRecord& record);
  std::vector<Content> gather(const TaskRecord& record, int read) const;
  double all_to_all(const TaskRecord& record);
  double all_reduce(const TaskRecord& record);
  double all_gather(const TaskRecord& record);
  double reduce_scatter(const TaskRecord& record);
  double dispatch(const TaskRecord& record);
  double combine(const TaskRecord& record);
  Slice experts_of(int dp) const;

  const Schedule& schedule_;
  const Place& me_;
  const Assignment& work_;
  const Model& model_;
  const OwnRequests& requests_;
  const OwnChoices& own_choices_;
  std::optional<Groups> groups_;
  Tensors tensors_;
  Seen appended_;  // keys and values that the last append read
  struct Pair {
    int64_t row, expert;  // of this rank's, counted in the model
    double gate;
  };
  std::vector<Pair> pairs_;  // by ascending expert, then row, as `routed` results stand
};

}  // namespace helix
