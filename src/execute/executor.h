// How a schedule is carried out: what every executor that has data offers to the timing loop and to
// verification.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "schedule/cost.h"
#include "schedule/covers.h"
#include "schedule/schedule.h"

namespace helix {

class HeldWeights;

// What one launch of an executor decodes.
struct Assignment {
  const Model* model = nullptr;
  Layout layout;
  Precision precision;
  int chunks = 1;  // above 1: HOP-B
  int64_t interval = 32;
  std::vector<int64_t> lengths;  // tokens of history of each request
  KvLayout kv_layout = KvLayout::dense;
  int64_t steps = 1;  // the KV cache holds lengths + steps tokens
  uint64_t seed = 1;
  double zipf = 0;  // routing skew (Generator::routing_skew)
  // In place of a generated history: every request's tokens, one more than its length. The last is
  // what it decodes first.
  std::vector<int32_t> prompt = {};
  // Experts that tokens go to in place of those that their router chooses, which goes on choosing
  // and gives them its gates: [layer with experts][request][chosen], ascending. A shard's router
  // sees what was drawn, so that its own say nothing. Empty: the router's.
  std::vector<int32_t> choices = {};
  // Where weights stay for the next executor; null: they go with this one.
  std::shared_ptr<HeldWeights> weights = nullptr;
  // This process alone carries out the tasks of that rank of the layout: what other ranks would
  // send is drawn (exchange/stand_in.h). None: a process is a rank, and all are there.
  std::optional<int> shard = std::nullopt;
};

// Ways to be wrong on purpose, so that verification shows that it can fail (helix.md, Errors others
// shipped).
enum class Newest : uint8_t { by_owner, by_nobody, by_everybody };

// A tensor of this rank while a task has just been carried out. What is exchanged stands in parts,
// one a peer, each [rows][values]; everything else is one part.
struct TensorView {
  std::byte* data;
  int64_t rows;    // of the task's chunk
  int64_t values;  // of a row, in one part
  int parts = 1;
  int64_t part_stride = 0;  // bytes
};

// In verified steps the judge's choice of experts is used in place of the executor's own: a tie
// decided otherwise is no error. Gates are the executor's.
struct ForcedRouting {
  // Experts of the token that a request decodes in its step `step` (0: the first after the history
  // or a rewind), ascending. No function, or an empty answer: the executor decides.
  std::function<std::span<const int32_t>(int64_t step, int layer, int64_t request)> judged;
  // Is told what this rank's router made of a token that goes to given experts (these, or
  // Assignment::choices): its logits, an expert each, and its own choice, ascending.
  std::function<void(int64_t step, int layer, int64_t request, std::span<const float> logits,
                     std::span<const int32_t> choice)>
      own;
};

// The same for the codes of quantised KV caches: the judge's newest token of a request, each KV
// head's key, then its value, as stored (base/format.h).
struct ForcedCodes {
  std::function<std::span<const std::byte>(int64_t step, int layer, int64_t request)> judged;
  int64_t codes = 0;      // of the tokens that this rank appended
  int64_t differing = 0;  // of these, not worth what the judge's are
  double beyond = 0;  // the most by which one was off by more than a step of its code, relative to
                      // the largest of its vector
};

struct Hooks {
  Newest newest = Newest::by_owner;
  bool pages_swapped = false;  // attention finds the first and the last page of a paged cache so
  ForcedRouting routing;
  ForcedCodes codes;
  // After each task: what is in its tensors may be read or changed. Slow; unset in measured steps.
  std::function<void(const Task& task, int layer)> after;
};

// When a task ran, on which lane, in microseconds from the beginning of the step.
struct Span {
  const Task* task;
  int layer;
  double begin_us;
  double end_us;
  bool with_next = false;  // together with the task after it
};

// Of a CPU rank's instrumented steps (machine/own_core.h): how long it waited until no core was
// shared, and of how many timed runs of covers how many began on a shared one nonetheless.
struct SharedCores {
  double waited_us = 0;
  int64_t runs = 0;
  int64_t shared = 0;
};

// With PP > 1 the batch is cut into PP micro-batches (layout/requests.h: cut), and stage s passes
// micro-batch (tick - s) mod PP in each tick; the ticks end with a shift between the stages. step()
// is PP ticks. The first is preceded by PP - 1 ticks that fill the pipeline, in which later stages
// have nothing to do yet; from then on the last stage ends step k of every request in the k-th
// step(), and earlier stages are up to PP - 1 micro-batches ahead. Passages beyond the KV cache's
// room are left out, so the last step that it has room for drains the pipeline.
class Executor {
 public:
  virtual ~Executor() = default;

  virtual const Model& model() const = 0;
  virtual const Schedule& schedule() const = 0;
  // The runs of tasks that it carries out as one, all tasks in order.
  virtual std::span<const Cover> covers() const = 0;
  // Of a micro-batch's passage that comes next; what routing decides, as it was observed in its
  // last one (a layer's mean). The cost of a step is the sum over PP micro-batches.
  virtual StepState state(int micro_batch = 0) const = 0;
  virtual Memory allocated() const = 0;  // bytes taken by our allocator, by purpose
  virtual Hooks& hooks() = 0;

  // Steps pass the model's first `layers` layers alone, and then its end: at PP 1, and no fewer
  // than the leading dense ones of a model with experts. Rewinds.
  virtual void set_depth(int64_t layers) = 0;
  // Decodes one token of each request. Collective over the layout's ranks; no barrier. It may
  // return before the step is carried out. In steady state (after fill()) the slowest rank's time
  // is the TTL.
  virtual void step() = 0;
  // Marks in time: the end of what was issued so far, whether or not it is carried out yet; and the
  // microseconds between the marks since the last call, waiting for the last one.
  virtual void mark() = 0;
  virtual std::vector<double> take_intervals_us() = 0;
  // Steps without hooks are carried out in another way than those with, as a captured graph; both
  // have to be verified.
  virtual bool replays() const { return false; }
  // How GPUs reach each other's memory, where its exchange does so; else empty.
  virtual std::string_view peer_memory() const { return ""; }
  // The ticks before the first result; step() does so itself where it was not done since the
  // history's end.
  virtual void fill() = 0;
  // One step cover by cover; microseconds of each of covers(), layers summed.
  virtual std::vector<double> instrumented_step() = 0;
  virtual std::optional<SharedCores> shared_cores() const { return std::nullopt; }
  // Are these intervals of one step, an exchange's with the wait for ranks that come later? Else
  // there is a barrier of the stage before each cover.
  virtual bool times_in_place() const { return false; }
  // Microseconds of a step's exchanges, issued at once and nothing else between them; not a number
  // where the executor has no such step. Collective.
  virtual double exchanges_us() { return std::numeric_limits<double>::quiet_NaN(); }
  // One step with the begin and end of each task.
  virtual std::vector<Span> traced_step() = 0;
  // Microseconds of a step() in which the compute lane waited for the exchange lane, the mean since
  // the last rewind, where the executor sees it.
  virtual double waited_us() { return 0; }
  // Steps that come are carried out without their exchanges, whose results stay what they were; or
  // with them again. False: it does not do that. Between steps that all ranks have ended.
  virtual bool leave_out_exchanges(bool /*out*/) { return false; }

  // Fills the history by decoding the prompt, one token a step; nothing without one. Once, before
  // the first step; collective.
  virtual void read_prompt() = 0;
  // Back to the first token after the history.
  virtual void rewind() = 0;
  // The next step's result is `tokens` ([batch]) instead of the sampled ones.
  virtual void teach(std::vector<int32_t> tokens) = 0;
  // After a step: this rank's logits [batch][vocabulary slice], and the sampled tokens [batch].
  // Both are empty on stages without the LM head; with PP > 1 logits are kept of taught steps
  // alone.
  virtual std::vector<float> logits() const = 0;
  virtual std::span<const int32_t> sampled() const = 0;
  // The content of a tensor as a task of `chunk` sees it; for hooks.
  virtual TensorView view(Id tensor, int chunk) = 0;
};

}  // namespace helix
