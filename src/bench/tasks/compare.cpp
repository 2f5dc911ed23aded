#include "bench/tasks/compare.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "bench/hashes.h"
#include "bench/tasks/judge.h"
#include "bench/tasks/probes.h"

namespace helix {

double tasks_tolerance(const Precision& p) { return TaskJudge::tolerance(p.activations); }

Comparison compare_tasks(MPI_Comm ranks, Executor& executor, const Assignment& work) {
  if (!work.prompt.empty())
    throw RunError("tasks are judged on a generated history; a prompt's takes whole steps");
  executor.rewind();
  const Probes probes(executor, work);
  Hashes hashes(executor);
  Recorder recorder(executor, work,
                    [&](const Task& task, int layer) { return probes.put(task, layer); });
  OwnChoices own_choices;
  auto& own = executor.hooks().routing.own;
  own = [&](int64_t, int layer, int64_t request, std::span<const float>,
            std::span<const int32_t> choice) {
    own_choices.try_emplace({layer, request}, choice.begin(),
                            choice.end());  // of the first passage
  };
  executor.step();
  own = {};
  TaskJudge judge(executor.schedule(), work, recorder.requests(), own_choices,
                  work.shard ? MPI_COMM_NULL : ranks);
  Comparison result;
  for (const TaskRecord& record : recorder.take())
    result.max_rel_err =
        std::max(result.max_rel_err, judge.error(record) * tasks_tolerance(work.precision));
  result.hashes_differing = count_differing(ranks, executor.schedule().place, hashes.take());
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &result.max_rel_err, 1, MPI_DOUBLE, MPI_MAX, ranks));
  executor.rewind();
  return result;
}

}  // namespace helix
