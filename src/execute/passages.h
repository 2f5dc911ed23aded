// What the executors share that hold a rank's data: micro-batches through the stages, tick by tick.
// Passage i of a stage is micro-batch i mod PP in its step i / PP, and takes place in tick i +
// stage.
#pragma once

#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "execute/exchange/mpi.h"
#include "execute/executor.h"
#include "execute/store.h"

namespace helix {

// What the next shift carries: the micro-batch in hand onward, and the input of the next one.
struct Shift {
  bool send = false;
  bool receive = false;
  int receives = 0;  // micro-batch
};

class PassageExecutor : public Executor {
 public:
  const Model& model() const final { return *work_.model; }
  const Schedule& schedule() const final { return schedule_; }
  std::span<const Cover> covers() const final { return covers_; }
  StepState state(int micro_batch = 0) const final;
  Memory allocated() const final { return store().allocated(); }
  Hooks& hooks() final { return hooks_; }
  void set_depth(int64_t layers) final;
  void step() final;
  void mark() override { marks_.push_back(std::chrono::steady_clock::now()); }
  std::vector<double> take_intervals_us() override;
  void fill() final;
  std::vector<double> instrumented_step() final;
  void read_prompt() final;
  void rewind() final;
  void teach(std::vector<int32_t> tokens) override { teacher_ = std::move(tokens); }
  std::vector<float> logits() const final {
    return work_.layout.pp > 1 ? logits_ : present_logits();
  }

 protected:
  // Collective over `ranks`: the layout's, or one for a shard.
  PassageExecutor(MPI_Comm ranks, const Assignment& work, std::span<const Fusion> fusions);

  virtual const Store& store() const = 0;
  Store& store() { return const_cast<Store&>(std::as_const(*this).store()); }
  // All tasks of the micro-batch that the store was turned to. With `times`: one after another, a
  // barrier of the stage before each cover, and the microseconds of each are added.
  virtual void pass(std::vector<double>* times) = 0;
  // The step's last task alone, where a stage has nothing to do yet, or nothing more.
  virtual void shift_alone() = 0;
  virtual void depth_changed() {}  // passages have other layers than before
  virtual void plan(const Shift& shift) = 0;
  virtual void set_states(std::span<const int32_t> tokens, std::span<const int64_t> positions) = 0;
  // The input tokens of a micro-batch; empty where nothing reads them.
  virtual std::vector<int32_t> tokens(int micro_batch) const = 0;
  // What routing decided in a micro-batch's last passage, a layer's mean: touched, routed, leaving,
  // arrived and returning.
  virtual std::optional<StepState> observed(int micro_batch) const = 0;
  // Of the micro-batch in hand, [rows][vocabulary slice]; empty on stages without the LM head.
  virtual std::vector<float> present_logits() const = 0;

  // The arithmetic of a task, by its kind.
  void compute(const Task& task, int layer);
  virtual void embed(const Task& task, int layer) = 0;
  virtual void norm(const Task& task, int layer) = 0;
  virtual void add_norm(const Task& task, int layer) = 0;
  virtual void product(const Task& task, int layer) = 0;
  virtual void per_head(const Task& task, int layer) = 0;
  virtual void angles(const Task& task) = 0;
  virtual void rope(const Task& task) = 0;
  virtual void append(const Task& task, int layer) = 0;
  virtual void attend(const Task& task, int layer) = 0;
  virtual void merge(const Task& task) = 0;
  virtual void rescale(const Task& task) = 0;
  virtual void swiglu(const Task& task) = 0;
  virtual void add(const Task& task) = 0;
  virtual void route(const Task& task, int layer) = 0;
  virtual void experts(const Task& task, int layer) = 0;
  virtual void pick(const Task& task) = 0;
  virtual void advance(const Task& task) = 0;

  // The experts that a request's token goes to in place of the router's choice; empty: that.
  std::span<const int32_t> forced_choice(int layer, int64_t request) const;
  Format weight_format(Id id) const { return format_of(work_.precision, schedule_[id].weight); }
  Stored stored(Id id, int layer) const;  // a weight
  // A tensor whose outputs (store.h, holder) begin at `data`, here or where they were copied to.
  TensorView view_at(std::byte* data, Id tensor, int chunk, const StepState& state) const;

  size_t cover_of(int task) const;  // that carries it out

  Assignment work_;
  Generator generator_;
  Schedule schedule_;
  std::vector<Cover> covers_;
  Hooks hooks_;
  Slice requests_;    // of this replica, in the micro-batch in hand
  int64_t step_ = 0;  // of the passage in hand
  std::vector<int32_t> teacher_;
  double waited_us_ = 0;     // since the last rewind
  int64_t steps_taken_ = 0;  // likewise

 private:
  void ticks(int64_t count, std::vector<double>* times = nullptr);
  void begin(int64_t passage);
  bool takes_place(int64_t passage) const;
  int64_t passages_done() const;
  Shift shift_after(int64_t passage) const;
  void keep_logits();

  void stand_at(std::span<const int32_t> tokens, std::span<const int64_t> positions);

  std::vector<std::chrono::steady_clock::time_point> marks_;
  int64_t tick_ = 0;           // since the history's end
  int64_t room_;               // steps until the KV cache is full
  std::vector<float> logits_;  // of all micro-batches
};

}  // namespace helix
