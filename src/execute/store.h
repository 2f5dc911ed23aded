// What one rank holds: every tensor of its schedule, in memory of an executor's kind.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "execute/executor.h"
#include "execute/kv_cache.h"
#include "execute/weights.h"
#include "kernels/cpu/partial.h"
#include "model/weights.h"

namespace helix {

using cpu::PartialLayout;

// Requests that pass a stage together, in replicas and chunks.
struct MicroBatch {
  Slice requests;                   // of the batch
  StepState most;                   // capacities
  std::vector<Slice> replicas;      // the requests of each, counted in the micro-batch
  std::vector<int64_t> first_rows;  // a chunk
  KvCache cache;
};

// Part of a weight, and of a request's history, that this rank holds.
struct WeightPart {
  W weight;
  int64_t layer;
  Part part;
  std::byte* data;
};
struct HistoryPart {  // in one piece: of a paged cache no more than a page
  int64_t layer;
  int64_t request;
  int64_t length = 0;  // of the whole history
  int64_t kv_head;
  Generator::Positions positions = {};
  std::byte* cache;  // of the layer, with places for `cached` values
  int64_t cached;
  int64_t first_key = 0;    // where they begin in it
  int64_t first_value = 0;  // MLA: a value is a part of its key
};

// An activation, or a weight of one layer, as kernels see it.
struct Array {
  std::byte* data;
  int64_t rows;
  int64_t width;  // values of a row
  std::array<int64_t, 4> extents;
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }
};

// All of a rank's tensors, or those alone that its communicating tasks read and write.
enum class Holds : uint8_t { everything, exchanged };

// Weights once, a KV cache for each micro-batch, and one buffer for every activation: what follows
// is about the micro-batch that the store was turned to.
class Store {
 public:
  Store(const Schedule& schedule, const Assignment& work, Allocate allocate,
        Holds holds = Holds::everything);

  // What the generator fills, one after another: weights that are not filled yet, and all history.
  void for_each_weight(const std::function<void(const WeightPart&)>& f) const;
  void for_each_history(const std::function<void(const HistoryPart&)>& f) const;

  void turn_to(int micro_batch) { now_ = micro_batch; }
  int now_index() const { return now_; }
  const MicroBatch& now() const { return micro_batches_[static_cast<size_t>(now_)]; }
  const MicroBatch& micro_batch(int index) const {
    return micro_batches_[static_cast<size_t>(index)];
  }

  const Memory& allocated() const { return allocated_; }
  const KvCache& cache() const { return now().cache; }
  std::byte* weight(Id id, int layer) const;  // of a layer of its segment, counted in the model
  std::byte* history(int layer) const {
    return history_[static_cast<size_t>(layer - first_layer_) * micro_batches_.size() +
                    static_cast<size_t>(now_)]
        .get();
  }
  std::byte* workspace() const { return workspace_.get(); }

  // An activation as a task of `chunk` sees it. A tensor that is exchanged together with its
  // log-sum-exps stands in messages (PartialLayout), and `data` of both is the chunk's first
  // message.
  std::byte* activation(Id id, int chunk) const;
  Array array(Id id, int chunk, const StepState& state) const;
  // Where it stands: all messages of the chunk; of log-sum-exps in one message they alone.
  std::span<std::byte> bytes(Id id, int chunk) const;
  // One that is whole, as `micro_batch` sees it.
  std::byte* activation_of(int micro_batch, Id id) const;
  bool in_messages(Id id) const { return parts_[static_cast<size_t>(id)] > 0; }
  PartialLayout message(Id id, int chunk) const;  // of an output tensor in messages
  int parts(Id id) const { return parts_[static_cast<size_t>(id)]; }
  Id holder(Id id) const { return holder_[static_cast<size_t>(id)]; }

  int64_t first_row(int chunk) const {
    return chunk == all_chunks ? 0 : now().first_rows[static_cast<size_t>(chunk)];
  }
  int64_t rows(int chunk) const;
  const StepState& capacity() const { return now().most; }
  std::span<const Slice> replicas() const { return now().replicas; }

 private:
  MicroBatch make_micro_batch(const Assignment& work, const Slice& requests) const;
  void find_messages();
  std::vector<bool> used() const;  // tensors that a task reads or writes
  void allocate_all(const std::string& values);
  void allocate_buffers();
  void hold_weights(const std::string& values);
  void allocate_history(const Segment& segment, const Task& task);
  WeightSlice slice_of(Id id, int64_t layer) const;  // of its segment, from 0
  Block block(double bytes, double& counter) const;  // `counter` grows by `bytes`

  const Schedule& schedule_;
  Allocate allocate_;
  Holds holds_;
  std::vector<int64_t> lengths_;
  int64_t interval_;
  std::vector<MicroBatch> micro_batches_;
  int now_ = 0;
  Memory allocated_;
  int first_layer_ = 0;
  std::shared_ptr<HeldWeights> held_;
  std::vector<std::vector<std::shared_ptr<HeldWeights::Held>>> weights_;  // a tensor: a layer
  std::vector<int> weight_layer_;  // a tensor: the first layer of its segment
  std::vector<Block> buffers_;     // a tensor; empty where another holds it
  std::vector<Id> holder_;         // a tensor: itself, or the outputs that its log-sum-exps follow
  std::vector<int> parts_;         // messages a chunk; 0: a plain array
  std::vector<Block> history_;     // a layer: a micro-batch
  Block workspace_;
};

}  // namespace helix
