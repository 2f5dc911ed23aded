// What one rank holds on a CPU: every tensor of its schedule in memory, weights and history made by the generator.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

#include "execute/executor.h"
#include "kernels/cpu/attention.h"
#include "model/weights.h"

namespace helix::cpu {

// Aligned memory that counts the bytes asked for.
class Allocation {
 public:
  Allocation() = default;
  Allocation(double bytes, double& counter);  // `counter` grows by `bytes`; zeroed; throws RunError
  std::byte* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

// The KV cache: for each layer, request and KV head `capacity` tokens of keys, then of values.
struct KvCache {
  std::vector<int64_t> capacity;  // tokens, a request
  std::vector<int64_t> before;    // tokens of all requests before it
  int64_t heads = 0;
  int64_t key_values = 0;    // of one token and head: D
  int64_t value_values = 0;  // Dv; 0 where the value is a part of the key (MLA)
  int64_t element = 0;       // bytes

  int64_t head_bytes(int64_t row) const { return capacity[row] * (key_values + value_values) * element; }
  int64_t key_offset(int64_t row, int64_t head) const {
    return before[row] * heads * (key_values + value_values) * element + head * head_bytes(row);
  }
  int64_t value_offset(int64_t row, int64_t head) const {
    return value_values == 0 ? key_offset(row, head) : key_offset(row, head) + capacity[row] * key_values * element;
  }
};

class Store {
 public:
  Store(const Schedule& schedule, const Assignment& work, const StepState& most);

  const Memory& allocated() const { return allocated_; }
  const KvCache& cache() const { return cache_; }
  std::byte* weight(Id id, int layer) const;   // of a layer of its segment, counted in the model
  std::byte* history(int layer) const { return history_[static_cast<size_t>(layer - first_layer_)].data(); }
  std::byte* workspace() const { return workspace_.data(); }

  // An activation as a task of `chunk` sees it. A tensor that is exchanged together with its log-sum-exps stands
  // in messages (PartialLayout), and `data` of both is the chunk's first message.
  std::byte* activation(Id id, int chunk) const;
  bool in_messages(Id id) const { return parts_[static_cast<size_t>(id)] > 0; }
  PartialLayout message(Id id, int chunk) const;  // of an output tensor in messages
  int parts(Id id) const { return parts_[static_cast<size_t>(id)]; }
  Id holder(Id id) const { return holder_[static_cast<size_t>(id)]; }

  int64_t first_row(int chunk) const { return chunk == all_chunks ? 0 : first_rows_[static_cast<size_t>(chunk)]; }
  int64_t rows(int chunk) const;
  const StepState& capacity() const { return most_; }
  std::span<const Slice> replicas() const { return replicas_; }  // the requests of each

 private:
  void find_messages();
  void allocate(const StepState& most);
  void generate_weights(const Assignment& work);
  void generate_history(const Assignment& work, const Slice& requests);

  const Schedule& schedule_;
  StepState most_;
  Memory allocated_;
  KvCache cache_;
  int first_layer_ = 0;
  std::vector<std::vector<Allocation>> weights_;  // a tensor: a layer
  std::vector<int> weight_layer_;                 // a tensor: the first layer of its segment
  std::vector<Allocation> buffers_;               // a tensor; empty where another holds it
  std::vector<Id> holder_;                        // a tensor: itself, or the outputs that its log-sum-exps follow
  std::vector<int> parts_;                        // messages a chunk; 0: a plain array
  std::vector<Allocation> history_;               // a layer
  Allocation workspace_;
  std::vector<int64_t> first_rows_;
  std::vector<Slice> replicas_;
};

}  // namespace helix::cpu
