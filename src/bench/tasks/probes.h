// Queries that look at single tokens. Among 32 768 tokens of random data one token weighs next to
// nothing, and losing it would go unseen. So each head of a task that is judged gets a query made
// of one token's key, long enough that this token has about half of the weight: the newest, both
// ends of this rank's shard, and some between.
#pragma once

#include "bench/tasks/record.h"

namespace helix {

class Probes {
 public:
  Probes(Executor& executor, const Assignment& work);
  // After a task of a layer that is judged: after the last before attention its queries are
  // changed; which tensor was, or -1. Marked models have tokens of weight, and are left alone.
  Id put(const Task& task, int layer) const;

 private:
  std::vector<double> key(int layer, int64_t row, int64_t kv, int64_t token,
                          const Content& appended) const;
  Content appended(const Task& append) const;

  Executor& executor_;
  const Assignment& work_;
  OwnRequests requests_;
  Generator generator_;
};

}  // namespace helix
