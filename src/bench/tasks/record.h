// What each task of a step read and wrote, kept while an executor carries the step out.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "execute/executor.h"
#include "layout/requests.h"

namespace helix {

// A tensor as one task sees it: the rows of its chunk; what is exchanged has its parts one after
// another in a row. A choice is two numbers, expert and gate, and so is a best: value and index.
struct Content {
  int64_t rows = 0;
  int64_t width = 0;  // numbers of a row
  std::vector<float> numbers;

  std::span<const float> row(int64_t index) const {
    return std::span(numbers).subspan(static_cast<size_t>(index * width),
                                      static_cast<size_t>(width));
  }
  double at(int64_t row, int64_t index) const {
    return static_cast<double>(numbers[static_cast<size_t>(row * width + index)]);
  }
};
using Seen = std::shared_ptr<const Content>;

struct TaskRecord {
  const Task* task;
  int layer;
  std::vector<Seen> reads;  // null: a weight, the cache, or what nothing has written yet
  std::vector<Seen> writes;
};

// The requests of one rank's first micro-batch.
struct OwnRequests {
  int64_t first = 0;             // of the batch, this replica's
  std::vector<int64_t> lengths;  // [rows]
  std::vector<Slice> chunks;     // of the rows
  int64_t stage_first = 0;       // of the batch, the micro-batch's
  std::vector<int64_t> stage_lengths;
  std::vector<Slice> replicas;  // of the micro-batch

  OwnRequests(const Assignment& work, const Schedule& schedule);
};

// Listens from the history's end to the end of this rank's first passage: to the last layer of each
// segment, which shows most of what layers share. What a task reads is what its last writer wrote,
// not what the memory holds by then.
class Recorder {
 public:
  // `change`: called after each task that is noted, and after what an earlier hook does; which
  // tensor it has changed, or -1.
  using Change = std::function<Id(const Task& task, int layer)>;
  Recorder(Executor& executor, const Assignment& work, Change change = {});
  ~Recorder() { executor_.hooks().after = before_; }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  const OwnRequests& requests() const { return requests_; }
  // In order of the schedule, the same on all ranks of a stage.
  std::vector<TaskRecord> take();

 private:
  int distance(const Task& task, int layer) const;  // of a layer from the one that is noted
  void note(const Task& task, int layer);
  void put(Id id, int chunk, Seen content);
  Seen find(Id id, int chunk) const;
  Content content(Id id, int chunk);

  Executor& executor_;
  const Schedule& schedule_;
  OwnRequests requests_;
  std::function<void(const Task&, int)> before_;
  Change change_;
  struct Present {             // a tensor's content
    Seen whole;                // or else
    std::vector<Seen> pieces;  // a chunk each
  };
  std::map<Id, Present> present_;
  std::vector<TaskRecord> records_;
  bool passing_ = false, ended_ = false;
};

}  // namespace helix
