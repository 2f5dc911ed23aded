// The GPU executor: one rank's schedule as kernels on one card. A passage is a CUDA graph where its
// exchange can be captured, or a graph between each two exchanges; with hooks, or without graphs,
// the same launches go to the streams one by one.
//
// Nothing that changes from step to step is in a graph: positions, tokens, counts and choices stand
// in device memory. The lanes of HOP-B are two streams.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "execute/cuda/exchange.h"
#include "execute/cuda/state.h"
#include "execute/factory.h"
#include "execute/passages.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/product_library.h"

namespace helix::cuda {

class CudaExecutor final : public PassageExecutor {
 public:
  // On the card that this rank has opened (factory.h). Collective over `ranks`: the layout's, or
  // one for a shard. Throws RunError where the card has too little memory.
  CudaExecutor(MPI_Comm ranks, const Assignment& work, const ExecutorChoice& how);
  ~CudaExecutor() override;

  void mark() override;
  std::vector<double> take_intervals_us() override;
  bool replays() const override { return graph_; }
  std::string_view peer_memory() const override { return exchange_->peer_memory(); }
  bool times_in_place() const override { return exchanges_on_card_; }
  std::vector<Span> traced_step() override;
  double exchanges_us() override;
  bool leave_out_exchanges(bool out) override;
  void teach(std::vector<int32_t> tokens) override;
  std::span<const int32_t> sampled() const override;
  TensorView view(Id tensor, int chunk) override;

 private:
  // What the kernels of one micro-batch read beside its tensors.
  struct Rows {
    Buffer<int64_t> keys, values;      // of each (row, KV head), offsets in the cache
    Buffer<int32_t> pages, swapped;    // the table of a paged cache, and a wrong one
    Buffer<int32_t> tokens, append;    // of each row (state.h)
    Buffer<int64_t> met;               // by routing (moe.h), then by dispatch (travel.h)
    std::vector<AttentionPlan> plans;  // a chunk; none where it has no rows
  };
  struct LaneState {
    OwnedStream stream;
    bool after_kernel =
        false;  // the last thing launched, so that the next may start before its end
  };
  // A part of a passage that is replayed: a graph, or a task that cannot stand in one.
  struct Piece {
    OwnedGraphExec graph;
    const Task* task = nullptr;
  };
  // A passage with kernels in it that note the time: behind each cover, all on one lane, in the
  // order of the schedule; or around all exchanges, of them alone.
  enum class Watch : uint8_t { covers, exchanges };
  struct Watched {
    Watch what;
    Buffer<int64_t> stamps;  // ns
    std::vector<int> ends;   // with each of them: a task, or one of these
    std::vector<Piece> pieces = {};
    static constexpr int nothing = -1;
    static constexpr int stamp = -2;  // the one before
  };

  const Store& store() const override { return store_; }
  void pass(std::vector<double>* times) override;
  void shift_alone() override;
  void depth_changed() override { record_passages(); }
  void plan(const Shift& shift) override { exchange_->plan(shift); }
  void set_states(std::span<const int32_t> tokens, std::span<const int64_t> positions) override;
  std::vector<int32_t> tokens(int micro_batch) const override;
  std::optional<StepState> observed(int micro_batch) const override;
  std::vector<float> present_logits() const override;

  bool captures_lanes() const;
  void make_rows();
  void make_scales();
  AttentionShape attention_shape(const MicroBatch& m, size_t chunk) const;
  void make_routing();
  void prepare();
  void meet_products();
  const Rows& rows_now() const { return rows_[static_cast<size_t>(store_.now_index())]; }

  // Carrying out (executor.cpp), looked at (hooks.cpp) and timed (times.cpp) …
  void issue_passage();
  void begin_passage();
  void issue(const Segment& segment, int layer);
  void issue(const Task& task, int layer);
  void wait_for_lanes(const Task& task);
  void after(const Task& task, int layer);
  std::vector<double> watched_us(Watch what);  // of a passage, by task
  double time_on_host(const Task& task);
  void stamp(int ends);
  void stamp_stamps();
  void force_choices();
  void write_choices();
  void note_choices(const Task& task, int layer);
  void force_codes();
  void note_codes(int layer);
  int64_t codes_of_layer() const;
  // … replaying (replay.cpp) …
  // A micro-batch; judged choices, judged codes; exchanges left out.
  using PassageKey = std::tuple<int, bool, bool, bool>;
  PassageKey passage_key() const {
    return {store_.now_index(), forcing_, forcing_codes_, left_out_};
  }
  bool replayable() const;
  void replay(const std::vector<Piece>& pieces);
  void record_passages();
  void record_missing();
  std::vector<Piece> record();
  // … and the launches of each kind of task (launches.cpp).
  void launch(const Task& task, int layer);
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

  Array array(Id id, int chunk) const { return store_.array(id, chunk, store_.capacity()); }
  std::byte* weight(Id id, int layer) const { return store_.weight(id, layer); }
  KvView cache_view(int layer, int64_t first_row) const;
  int64_t layers_before(int layer) const { return layer - schedule_.segments.front().first_layer; }
  Format activations() const { return work_.precision.activations; }
  bool watching(Watch what) const { return watched_ != nullptr && watched_->what == what; }
  bool one_lane() const { return watched_ != nullptr; }
  bool two_lanes() const { return schedule_.chunks > 1 && !one_lane(); }
  LaneState& lane_of(const Task& task) {
    return lanes_[!one_lane() && runs_beside(schedule_, task) ? 1 : 0];
  }
  cudaStream_t stream(Lane lane) const { return lanes_.at(static_cast<size_t>(lane)).stream.get(); }
  Launch how(const Task& task);
  // cuBLASLt works on one lane alone. Its kernels fill the card, and did not end where a kernel of
  // another rank on the card waited for this one (four ranks under MPS): kernels of ours do.
  ProductLibrary* library_for(const Task& task) {
    const bool waited_for = !own_card_ && exchanges_on_card_;
    return runs_beside(schedule_, task) || waited_for ? nullptr : &library_;
  }
  // Carried out together with the task before it, where nobody looks at what stands between them.
  bool folded(const Task& task) const {
    return !hooks_.after && folded_[static_cast<size_t>(&task - schedule_.tasks.data())];
  }
  bool folds_next(const Task& task) const {
    return (&task - schedule_.tasks.data()) + 1 < std::ssize(schedule_.tasks) &&
           folded(*(&task + 1));
  }
  // Where an exchange beside the next chunk's attention comes next, attention's second half goes to
  // its stream, so that the next chunk's follows at once.
  bool splits_go_along(const Task& task) const {
    return task.op == Op::attend && two_lanes() && !hooks_.after &&
           runs_beside(schedule_, *(&task + 1));
  }
  void merge_splits(const Task& attend, const Launch& launch);
  const AttentionPlan& plan_of(const Task& attend) const {
    return rows_now().plans[static_cast<size_t>(std::max(attend.chunk, 0))];
  }
  std::string launched_name(const Task& task) const;  // of all that is launched for it
  void exchange(const Task& task, int layer);
  int layers_now() const {  // that a passage goes through
    return schedule_.segments.end()[-2].first_layer + schedule_.segments.end()[-2].layers;
  }
  bool gathered(const Task& route) const {
    return schedule_[route.reads[0]].dims[0].fill == Fill::stage_rows;
  }
  int64_t first_request(const Task& route) const {
    return store_.now().requests.first + (gathered(route) ? 0 : requests_.first);
  }
  void synchronise() const;

  std::array<LaneState, 2> lanes_;
  std::unique_ptr<Exchange> exchange_;  // made first: a rank that runs out of memory must not leave
                                        // the others in a split
  Store store_;
  bool graph_;
  bool early_reads_;
  bool own_card_;
  bool exchanges_on_card_;
  int blocks_;  // SMs
  float scale_;
  Buffer<double> frequencies_;
  Buffer<float> kv_scales_;  // [layers of this stage][KV heads]; none where there are no scales
  std::vector<Rows> rows_;   // a micro-batch
  Buffer<std::byte> plan_memory_;
  ProductLibrary library_;
  Buffer<int32_t> teacher_on_card_, sampled_on_card_;  // [batch]
  mutable std::vector<int32_t> sampled_;

  // Mixture of experts: one layer after another.
  std::vector<Buffer<float>> skew_;  // of the routers, a layer
  int experts_held_ = 0;
  Pairs pairs_ = {};
  Buffer<int32_t> pairs_memory_;
  Buffer<float> expert_sums_;  // of each pair, before they are weighted
  int32_t* forced_now() const {
    return forced_.data() + forced_.count() / work_.layout.pp * store_.now_index();
  }
  Buffer<int32_t> forced_;  // [micro-batch][layers of this stage][rows][chosen]
  std::vector<int32_t> forced_on_host_;
  Buffer<float> router_logits_;  // of the last router
  Buffer<int32_t> own_choice_;
  bool forcing_ = false;            // the passage in hand goes on with the judge's choices
  bool forcing_codes_ = false;      // and with its codes of the newest tokens
  bool judged_codes_ = false;       // which it has
  Buffer<std::byte> forced_codes_;  // [layers of this stage][rows][KV heads][key, value]
  Buffer<std::byte> own_codes_;     // of one layer
  std::vector<std::byte> forced_codes_on_host_;
  std::vector<StepState> travelled_;  // by dispatch, a micro-batch, layers summed

  struct Staged {  // a tensor that a hook looks at
    std::span<std::byte> on_card;
    std::vector<std::byte> bytes;
  };
  std::map<std::byte*, Staged> staged_;

  std::vector<bool> folded_;        // a task
  std::vector<OwnedEvent> issued_;  // a task: the other lane waits for it
  std::map<PassageKey, std::vector<Piece>> recorded_;
  std::map<std::pair<Watch, int>, Watched> watched_passages_;  // a micro-batch
  Watched* watched_ = nullptr;                                 // the passage in hand
  std::optional<double> exchanges_sum_us_;  // of the passages that come, if these alone are timed
  bool left_out_ = false;                   // the exchanges
  bool capturing_ = false;
  std::vector<OwnedEvent> marks_;
  size_t marked_ = 0;
  int layer_ = 0;  // in hand
  std::vector<Span>* spans_ = nullptr;
  struct Timed {
    OwnedEvent begin, end;
  };
  std::vector<std::pair<Span, Timed>> traced_;
};

}  // namespace helix::cuda
