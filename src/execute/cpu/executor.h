// The CPU executor: one rank's schedule carried out with OpenMP kernels and MPI.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "execute/cpu/exchange.h"
#include "execute/cpu/own_cores.h"
#include "kernels/cpu/moe.h"

namespace helix::cpu {

class CpuExecutor final : public PassageExecutor {
 public:
  // Collective over `ranks`: the layout's, or one for a shard. Throws RunError for what this
  // executor cannot do, on all ranks alike.
  CpuExecutor(MPI_Comm ranks, const Assignment& work);

  double exchanges_us() override;
  std::vector<Span> traced_step() override;
  double waited_us() override {
    return steps_taken_ == 0 ? 0 : waited_us_ / static_cast<double>(steps_taken_);
  }
  std::optional<SharedCores> shared_cores() const override { return cores_.notes(); }
  std::span<const int32_t> sampled() const override { return sampled_; }
  TensorView view(Id tensor, int chunk) override;

 private:
  const Store& store() const override { return store_; }
  void pass(std::vector<double>* times) override;
  void shift_alone() override;
  void plan(const Shift& shift) override { exchange_->plan(shift); }
  void set_states(std::span<const int32_t> tokens, std::span<const int64_t> positions) override;
  std::vector<int32_t> tokens(int micro_batch) const override;
  std::optional<StepState> observed(int micro_batch) const override;
  std::vector<float> present_logits() const override;

  // The lanes of one layer: each a cursor over the segment's tasks.
  struct Lanes {
    const Segment* segment;
    int layer;
    std::array<int, 2> at;
  };
  void run_layer(const Segment& segment, int layer);
  void run_timed(const Segment& segment, int layer, std::vector<Runs>& runs);
  void run_exchanges(const Segment& segment, int layer);
  bool advance_lane(Lane lane);  // true when the lane has nothing left
  void to_next(Lane lane, int from);
  bool carry_out(const Task& task, int layer);  // false while its messages are under way
  // The arithmetic of each kind of task (arithmetic.cpp, moe.cpp).
  void embed(const Task& task, int layer) override;
  void norm(const Task& task, int layer) override;
  void add_norm(const Task& task, int layer) override;
  void product(const Task& task, int layer) override;
  void per_head(const Task& task, int layer) override;
  void angles(const Task& task) override;
  void rope(const Task& task) override;
  void append(const Task& task, int layer) override;
  void attend(const Task& task, int layer) override;
  void merge(const Task& task) override;
  void rescale(const Task& task) override;
  void swiglu(const Task& task) override;
  void add(const Task& task) override;
  void route(const Task& task, int layer) override;
  void experts(const Task& task, int layer) override;
  void pick(const Task& task) override;
  void advance(const Task& task) override;
  Array array(Id id, int chunk) const { return store_.array(id, chunk, present_); }
  void pair_up(const Array& choice, const Slice& mine);
  std::byte* weight(Id id, int layer) const { return store_.weight(id, layer); }
  template <class T>
  struct Cached {
    Values<T> keys, values;
  };
  template <class T>
  Cached<T> cached(int layer, int64_t row, int64_t head) const;
  const std::byte* judged_codes(int layer, int64_t row) const;
  int64_t position(int64_t row) const;  // of the newest token of a row of this replica
  bool owns_newest(int64_t row) const;

  // Made first: a rank that runs out of memory must not leave the others in a split.
  std::unique_ptr<Exchange> exchange_;
  Store store_;
  std::vector<double> frequencies_;
  std::vector<std::vector<float>> skew_;  // of the routers, a layer
  float scale_;
  std::vector<int32_t> sampled_;
  Lanes lanes_ = {};
  std::function<void()> poll_;   // attention lets the exchange lane advance between its tiles
  OwnCores cores_;               // of instrumented steps
  bool only_exchanges_ = false;  // in the passages that come, of whatever is in their tensors
  std::vector<Span>* spans_ = nullptr;
  std::array<double, 2> began_us_ = {-1, -1};  // of the task in hand, a lane

  StepState present_;  // capacities, and what routing has decided in the layer in hand
  struct Observed {    // of the last step, layers summed
    StepState sum;
    int layers = 0;
    void add(const StepState& layer);
  };
  std::vector<Observed> observed_;  // a micro-batch
  struct Pairs {                    // (token, expert) of this rank, by ascending expert, then row
    std::vector<ExpertRows> experts;
    std::vector<int32_t> row_of;
    std::vector<float> gates;
  };
  Pairs pairs_;
  std::vector<float> expert_sums_;  // of each pair, before they are weighted
};

}  // namespace helix::cpu
