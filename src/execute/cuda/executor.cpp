#include "execute/cuda/executor.h"

#include <algorithm>

#include "base/error.h"
#include "base/heartbeat.h"
#include "execute/cuda/copies.h"
#include "execute/cuda/generate.h"
#include "execute/cuda/range.h"
#include "execute/issue.h"
#include "execute/routing.h"

namespace helix::cuda {

namespace {

int multiprocessors() {
  int device = 0;
  int count = 0;
  HELIX_CUDA(cudaGetDevice(&device));
  HELIX_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// SMs of a fused exchange, alone or beside attention: there 16 saturate a small one, on SMs where
// attention's block leaves room. Ranks that share a card have half of it together for kernels that
// wait for each other.
int exchange_blocks(const ExecutorChoice& how, int on_own_card) {
  if (how.exchange_blocks > 0) return how.exchange_blocks;
  if (how.ranks_per_card == 1) return on_own_card;
  return std::clamp(multiprocessors() / 2 / how.ranks_per_card, 1, 8);
}

std::unique_ptr<Exchange> make_exchange(const ExecutorChoice& how, MPI_Comm ranks,
                                        const Schedule& schedule, const Store& store,
                                        const Assignment& work) {
  constexpr double patience_s = 10;
  if (work.shard) return make_stand_in(schedule, store, work);
  switch (how.exchange) {
    case ExchangeKind::mpi: return make_mpi_exchange(ranks, schedule, store, work);
    case ExchangeKind::nccl: return make_nccl_exchange(ranks, schedule, store, work);
    case ExchangeKind::fused: break;
  }
  return make_fused_exchange(
      ranks, schedule, store, work,
      {how.ranks_per_card == 1, exchange_blocks(how, 128), exchange_blocks(how, 16), patience_s});
}

}  // namespace

CudaExecutor::CudaExecutor(MPI_Comm ranks, const Assignment& work, const ExecutorChoice& how)
    : PassageExecutor(ranks, work, fusions_of(ExecutorKind::cuda, how.exchange)),
      lanes_{LaneState{make_stream()}, LaneState{make_stream(Urgency::first)}},
      exchange_(make_exchange(how, ranks, schedule_, store_, work_)),
      store_(schedule_, work, allocate),
      graph_(how.graph && captures_lanes()),
      early_reads_(how.early_reads),
      own_card_(how.ranks_per_card == 1),
      exchanges_on_card_(how.exchange != ExchangeKind::mpi),
      blocks_(std::max(1, multiprocessors() - (work.chunks > 1 ? how.exchange_blocks : 0))),
      scale_(static_cast<float>(softmax_scale(*work.model))),
      frequencies_(std::span<const double>(rope_frequencies(*work.model))),
      travelled_(static_cast<size_t>(work.layout.pp)) {
  generate(store_, work_, blocks_);
  make_rows();
  make_scales();
  make_routing();
  const auto batch = std::ssize(work.lengths);
  sampled_on_card_ = Buffer<int32_t>(batch);
  teacher_on_card_ = Buffer<int32_t>(std::vector<int32_t>(work.lengths.size(), -1));
  for (size_t i = 0; i < schedule_.tasks.size(); ++i) issued_.push_back(make_event());
  folded_.assign(schedule_.tasks.size(), false);
  for (const Segment& segment : schedule_.segments)
    for (auto i = static_cast<size_t>(segment.begin) + 1; i < static_cast<size_t>(segment.end); ++i)
      folded_[i] = communicates(schedule_.tasks[i - 1].op) &&
                   exchange_->fuses(schedule_.tasks[i - 1], schedule_.tasks[i]);
  prepare();
  rewind();
  synchronise();
}

// HOP-B's lanes meet on the host where its exchange cannot stand in a graph.
bool CudaExecutor::captures_lanes() const {
  return std::ranges::none_of(schedule_.tasks, [&](const Task& task) {
    return task.lane == Lane::exchange && communicates(task.op) && !exchange_->captures(task);
  });
}

CudaExecutor::~CudaExecutor() { HELIX_CUDA_NOTHROW(cudaDeviceSynchronize()); }

void CudaExecutor::synchronise() const {
  for (const LaneState& lane : lanes_) HELIX_CUDA(cudaStreamSynchronize(lane.stream.get()));
  exchange_->check();
  beat();
}

AttentionShape CudaExecutor::attention_shape(const MicroBatch& m, size_t chunk) const {
  const Attention& a = work_.model->attention;
  return {.rows = static_cast<int>(m.most.chunks[chunk].rows),
          .heads = static_cast<int>(schedule_.place.heads(a.query_heads).count),
          .kv_heads = static_cast<int>(m.cache.heads),
          .head_size = static_cast<int>(a.head_size),
          .value_size = static_cast<int>(a.value_size),
          .scale = scale_};
}

// Whatever takes memory on the card, before the first step: a rank that asks for some while another
// rank's kernel on the same card waits for it may have to wait until that one gives up.
void CudaExecutor::prepare() {
  for (int i = 0; i < work_.layout.pp; ++i) {
    store_.turn_to(i);
    requests_ = store_.replicas()[static_cast<size_t>(schedule_.place.dp)];
    if (!work_.choices.empty()) write_choices();
    for (const Task& task : schedule_.tasks)
      if (communicates(task.op) && exchange_->captures(task))
        exchange_->prepare(task, rows_now().met.data() + 3);
    meet_products();
  }
  record_passages();
}

// One plan memory for each chunk: micro-batches follow one another.
void CudaExecutor::make_rows() {
  std::vector<int64_t> bytes(static_cast<size_t>(schedule_.chunks), 0);
  for (int i = 0; i < work_.layout.pp; ++i)
    for (size_t chunk = 0; chunk < bytes.size(); ++chunk)
      if (const auto shape = attention_shape(store_.micro_batch(i), chunk); shape.rows > 0)
        bytes[chunk] =
            std::max(bytes[chunk], (AttentionPlan::bytes(shape, blocks_) + 255) / 256 * 256);
  int64_t all = 0;
  for (const int64_t each : bytes) all += each;
  plan_memory_ = Buffer<std::byte>(all);
  for (int i = 0; i < work_.layout.pp; ++i) {
    const MicroBatch& m = store_.micro_batch(i);
    std::vector<int64_t> keys, values;
    for (int64_t row = 0; row < std::ssize(m.cache.capacity); ++row)
      for (int64_t head = 0; head < m.cache.heads; ++head) {
        keys.push_back(m.cache.first_key(row, head));
        values.push_back(m.cache.first_value(row, head));
      }
    Rows rows{Buffer<int64_t>(keys),
              Buffer<int64_t>(values),
              Buffer<int32_t>(m.cache.pages),
              Buffer<int32_t>(m.cache.swapped_pages()),
              Buffer<int32_t>(std::ssize(m.cache.capacity)),
              Buffer<int32_t>(std::ssize(m.cache.capacity)),
              Buffer<int64_t>(6),
              {}};
    std::byte* memory = plan_memory_.data();
    AttentionPlan* previous = nullptr;  // of a chunk with rows
    rows.plans.reserve(bytes.size());
    for (size_t chunk = 0; chunk < bytes.size(); memory += bytes[chunk++]) {
      AttentionShape shape = attention_shape(m, chunk);
      const bool used = shape.rows > 0;
      if (!used) shape.rows = 1;
      AttentionPlan& plan = rows.plans.emplace_back(shape, blocks_, memory);
      if (!used) continue;
      plan.has_previous = previous != nullptr;
      if (previous != nullptr) previous->has_next = true;
      previous = &plan;
    }
    rows_.push_back(std::move(rows));
  }
}

void CudaExecutor::make_scales() {
  if (!quantised(work_.precision.kv)) return;
  const Slice heads = schedule_.place.kv_heads(work_.model->attention.kv_heads);
  const Segment& last = schedule_.segments.back();
  std::vector<float> scales;
  for (int layer = schedule_.segments.front().first_layer; layer < last.first_layer; ++layer)
    for (int64_t head = heads.first; head < heads.first + heads.count; ++head)
      scales.push_back(generator_.kv_scale(layer, head));
  kv_scales_ = Buffer<float>(std::span<const float>(scales));
  int64_t bytes = 0;  // of a layer's newest tokens
  for (int i = 0; i < work_.layout.pp; ++i) {
    const KvCache& cache = store_.micro_batch(i).cache;
    bytes = std::max(bytes, std::ssize(cache.capacity) * heads.count * cache.token_bytes());
  }
  const int64_t layers = layers_before(last.first_layer);
  forced_codes_ = Buffer<std::byte>(std::vector<std::byte>(static_cast<size_t>(layers * bytes)));
  own_codes_ = Buffer<std::byte>(bytes);
}

void CudaExecutor::make_routing() {
  const helix::Experts& e = work_.model->experts;
  if (e.count == 0) return;
  for (int64_t layer = 0; layer < work_.model->layers; ++layer)
    skew_.emplace_back(std::span<const float>(generator_.routing_skew(layer)));
  int64_t rows = 0;
  for (int i = 0; i < work_.layout.pp; ++i)
    rows = std::max(rows, static_cast<int64_t>(store_.micro_batch(i).most.stage_rows));
  const int64_t pairs = rows * e.chosen;
  for (const Task& task : schedule_.tasks)
    if (task.op == Op::experts)
      experts_held_ = static_cast<int>(schedule_[task.reads[2]].dims[0].mine.count);
  pairs_memory_ = Buffer<int32_t>(experts_held_ + 1 + 2 * pairs);
  pairs_.begins = pairs_memory_.data();
  pairs_.row_of = pairs_.begins + experts_held_ + 1;
  pairs_.pair_of = pairs_.row_of + pairs;
  expert_sums_ = Buffer<float>(pairs * work_.model->hidden);
  int64_t layers = 0;
  for (const Segment& segment : schedule_.segments) layers += segment.layers;
  forced_ = Buffer<int32_t>(work_.layout.pp * layers * pairs);
  router_logits_ = Buffer<float>(rows * e.count);
  own_choice_ = Buffer<int32_t>(pairs);
}

// States and what is read of them -------------------------------------------------------------

void CudaExecutor::set_states(std::span<const int32_t> tokens, std::span<const int64_t> positions) {
  synchronise();
  if (std::byte* first = store_.activation(0, all_chunks); first != nullptr)
    write(tokens, reinterpret_cast<int32_t*>(first));
  write(positions, reinterpret_cast<int64_t*>(store_.activation(1, all_chunks)));
}

std::vector<int32_t> CudaExecutor::tokens(int micro_batch) const {
  const auto* first = reinterpret_cast<const int32_t*>(store_.activation_of(micro_batch, 0));
  if (first == nullptr) return {};
  synchronise();
  std::vector<int32_t> result(static_cast<size_t>(store_.micro_batch(micro_batch).requests.count));
  read(first, std::span(result));
  return result;
}

void CudaExecutor::teach(std::vector<int32_t> tokens) {
  synchronise();
  write(std::span<const int32_t>(tokens), teacher_on_card_.data());
  PassageExecutor::teach(std::move(tokens));
}

std::span<const int32_t> CudaExecutor::sampled() const {
  if (schedule_.place.pp + 1 < work_.layout.pp) return {};
  synchronise();
  sampled_ = sampled_on_card_.read();
  return sampled_;
}

std::vector<float> CudaExecutor::present_logits() const {
  for (const Task& task : schedule_.tasks) {
    if (task.op != Op::pick) continue;
    synchronise();
    const Array from = array(task.reads[0], all_chunks);
    std::vector<float> result(static_cast<size_t>(from.rows * from.width));
    if (activations() == Format::fp32) {
      read(from.as<const float>(), std::span(result));
    } else {
      std::vector<bf16> rounded(result.size());
      read(from.as<const bf16>(), std::span(rounded));
      std::ranges::transform(rounded, result.begin(), [](bf16 value) { return to_float(value); });
    }
    return result;
  }
  return {};
}

std::optional<StepState> CudaExecutor::observed(int micro_batch) const {
  synchronise();
  const auto met = rows_[static_cast<size_t>(micro_batch)].met.read();
  if (met[2] == 0) return std::nullopt;
  const auto layers = static_cast<double>(met[2]);
  StepState mean = travelled_[static_cast<size_t>(micro_batch)];
  mean.routed = static_cast<double>(met[0]) / layers;
  mean.touched = static_cast<double>(met[1]) / layers;
  mean.leaving = (mean.leaving + static_cast<double>(met[3])) / layers;
  mean.arrived = (mean.arrived + static_cast<double>(met[4])) / layers;
  mean.returning = (mean.returning + static_cast<double>(met[5])) / layers;
  return mean;
}

// Passages ------------------------------------------------------------------------------------

void CudaExecutor::pass(std::vector<double>* times) {
  beat();
  const Range range("passage");
  HELIX_CUDA(cudaMemsetAsync(rows_now().met.data(), 0, static_cast<size_t>(rows_now().met.bytes()),
                             stream(Lane::compute)));
  travelled_[static_cast<size_t>(store_.now_index())] = {};
  force_choices();
  force_codes();
  if (times != nullptr) {
    const std::vector<double> us = watched_us(Watch::covers);
    for (size_t i = 0; i < us.size(); ++i) (*times)[cover_of(static_cast<int>(i))] += us[i];
    return;
  }
  if (exchanges_sum_us_) {
    for (const double us : watched_us(Watch::exchanges)) *exchanges_sum_us_ += us;
    return;
  }
  if (replayable()) return replay(recorded_.at(passage_key()));
  issue_passage();
}

void CudaExecutor::issue_passage() {
  begin_passage();
  for (const Segment& segment : schedule_.segments)
    for (int i = 0; i < segment.layers; ++i) issue(segment, segment.first_layer + i);
}

void CudaExecutor::shift_alone() {
  issue(schedule_.tasks.back(), schedule_.segments.back().first_layer);
}

// Where the rows' tokens stand. What is launched next may not begin before it has ended.
void CudaExecutor::begin_passage() {
  for (LaneState& lane : lanes_) lane.after_kernel = false;
  const Launch launch{stream(Lane::compute), blocks_, false};
  const Rows& rows = rows_now();
  const auto newest = hooks_.newest == Newest::by_owner    ? Holder::owner
                      : hooks_.newest == Newest::by_nobody ? Holder::nobody
                                                           : Holder::everybody;
  const Place& me = schedule_.place;
  if (requests_.count == 0) return;
  count_tokens({work_.interval, me.l.kvp, me.kvp, newest}, static_cast<int>(requests_.count),
               reinterpret_cast<const int64_t*>(store_.activation(1, all_chunks)) + requests_.first,
               rows.tokens.data(), rows.append.data(), launch);
  for (int chunk = 0; chunk < schedule_.chunks; ++chunk)
    if (store_.rows(chunk) > 0)
      cut_attention(rows.plans[static_cast<size_t>(chunk)],
                    rows.tokens.data() + store_.first_row(chunk), launch);
}

void CudaExecutor::issue(const Segment& segment, int layer) {
  layer_ = layer;
  for (const int i : issue_order(schedule_, segment))
    issue(schedule_.tasks[static_cast<size_t>(i)], layer);
}

void CudaExecutor::issue(const Task& task, int layer) {
  LaneState& lane = lane_of(task);
  if (two_lanes()) wait_for_lanes(task);
  std::optional<Range> range;
  if (!folded(task)) range.emplace(launched_name(task));
  Timed timed;
  if (spans_ != nullptr && !folded(task)) {
    timed = {make_event(), make_event()};
    HELIX_CUDA(cudaEventRecord(timed.begin.get(), lane.stream.get()));
  }
  if (communicates(task.op)) {
    exchange(task, layer);
    if (task.op == Op::dispatch) {
      StepState met;
      exchange_->observe(met);
      StepState& sum = travelled_[static_cast<size_t>(store_.now_index())];
      sum.leaving += met.leaving;
      sum.arrived += met.arrived;
      sum.returning += met.returning;
    }
  } else if (!folded(task)) {
    launch(task, layer);
  }
  range.reset();
  if (spans_ != nullptr && !folded(task)) {
    HELIX_CUDA(cudaEventRecord(timed.end.get(), lane.stream.get()));
    lane.after_kernel = false;
    traced_.emplace_back(Span{&task, layer, 0, 0, folds_next(task)}, std::move(timed));
  }
  if (two_lanes())
    HELIX_CUDA(cudaEventRecord(issued_[static_cast<size_t>(&task - schedule_.tasks.data())].get(),
                               lane.stream.get()));
  if (capturing_) return;
  if (task.op == Op::route && forcing_ && hooks_.routing.own) note_choices(task, layer);
  if (task.op == Op::append && judged_codes_) note_codes(layer);
  after(task, layer);
}

std::string CudaExecutor::launched_name(const Task& task) const {
  return std::string(task.name) + (folds_next(task) ? "+" + std::string((&task + 1)->name) : "");
}

void CudaExecutor::exchange(const Task& task, int layer) {
  if (splits_go_along(*(&task - 1))) merge_splits(*(&task - 1), how(task));
  if (left_out_) return;
  const Launch launch = how(task);
  if (folds_next(task)) return exchange_->run_both(task, *(&task + 1), layer, launch);
  lane_of(task).after_kernel = exchange_->run(task, launch);
}

// A task waits for the last one of the other lane whose result it reads, and for the one before it
// in its own, where these went to another stream.
void CudaExecutor::wait_for_lanes(const Task& task) {
  LaneState& lane = lane_of(task);
  const auto wait_for = [&](const Task& before) {
    if (&lane_of(before) == &lane) return;
    lane.after_kernel = false;
    const auto i = static_cast<size_t>(&before - schedule_.tasks.data());
    HELIX_CUDA(cudaStreamWaitEvent(lane.stream.get(), issued_[i].get(), 0));
  };
  if (const int i = task.after.at(1 - static_cast<size_t>(task.lane)); i >= 0)
    wait_for(schedule_.tasks[static_cast<size_t>(i)]);
  if (task.lane != Lane::exchange || runs_beside(schedule_, task)) return;
  const Task* before = &task - 1;
  while (before->lane != Lane::exchange) --before;  // an earlier chunk's
  wait_for(*before);
}

}  // namespace helix::cuda
