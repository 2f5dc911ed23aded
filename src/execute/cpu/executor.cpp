#include "execute/cpu/executor.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/heartbeat.h"
#include "execute/cpu/generate.h"
#include "layout/requests.h"

namespace helix::cpu {

namespace {

double now_us() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::micro>(now).count();
}

}  // namespace

CpuExecutor::CpuExecutor(MPI_Comm ranks, const Assignment& work)
    : PassageExecutor(ranks, work, cpu_fusions()),
      exchange_(make_exchange(ranks, schedule_, store_, work_)),
      store_(schedule_, work_, allocate),
      frequencies_(rope_frequencies(*work.model)),
      scale_(static_cast<float>(softmax_scale(*work.model))),
      present_(store_.capacity()),
      observed_(static_cast<size_t>(work.layout.pp)) {
  generate(store_, work_);
  for (int64_t layer = 0; layer < work.model->layers; ++layer)
    skew_.push_back(generator_.routing_skew(layer));
  if (work.chunks > 1) poll_ = [this] { advance_lane(Lane::exchange); };
  rewind();
}

void CpuExecutor::set_states(std::span<const int32_t> tokens, std::span<const int64_t> positions) {
  std::byte* first = store_.activation(0, all_chunks);  // null where nothing reads them
  if (first != nullptr) std::ranges::copy(tokens, reinterpret_cast<int32_t*>(first));
  std::ranges::copy(positions, reinterpret_cast<int64_t*>(store_.activation(1, all_chunks)));
}

std::vector<int32_t> CpuExecutor::tokens(int micro_batch) const {
  const auto* first = reinterpret_cast<const int32_t*>(store_.activation_of(micro_batch, 0));
  if (first == nullptr) return {};
  return {first, first + store_.micro_batch(micro_batch).requests.count};
}

void CpuExecutor::Observed::add(const StepState& layer) {
  sum.touched += layer.touched;
  sum.routed += layer.routed;
  sum.leaving += layer.leaving;
  sum.arrived += layer.arrived;
  sum.returning += layer.returning;
  ++layers;
}

std::optional<StepState> CpuExecutor::observed(int micro_batch) const {
  const auto& [sum, layers] = observed_[static_cast<size_t>(micro_batch)];
  if (layers == 0) return std::nullopt;  // nothing is decoded yet: what is expected stands
  StepState mean;
  mean.touched = sum.touched / layers;
  mean.routed = sum.routed / layers;
  mean.leaving = sum.leaving / layers;
  mean.arrived = sum.arrived / layers;
  mean.returning = sum.returning / layers;
  return mean;
}

void CpuExecutor::pass(std::vector<double>* times) {
  present_ = store_.capacity();
  if (!only_exchanges_) observed_[static_cast<size_t>(store_.now_index())] = {};
  std::vector<Runs> runs(times != nullptr ? covers_.size() : 0);
  for (const Segment& segment : schedule_.segments)
    for (int layer = segment.first_layer; layer < segment.first_layer + segment.layers; ++layer) {
      if (only_exchanges_) run_exchanges(segment, layer);
      else if (times != nullptr) run_timed(segment, layer, runs);
      else run_layer(segment, layer);
    }
  for (size_t c = 0; c < runs.size(); ++c) (*times)[c] += runs[c].us();
}

void CpuExecutor::shift_alone() {
  const Segment& last = schedule_.segments.back();
  carry_out(schedule_.tasks[static_cast<size_t>(last.end - 1)], last.first_layer);
}

void CpuExecutor::run_layer(const Segment& segment, int layer) {
  lanes_ = {&segment, layer, {}};
  to_next(Lane::compute, segment.begin);
  to_next(Lane::exchange, segment.begin);
  for (bool compute_done = false; !compute_done;) {
    advance_lane(Lane::exchange);
    const int before = lanes_.at[0];
    compute_done = advance_lane(Lane::compute);
    if (compute_done || lanes_.at[0] != before) continue;
    const double began = now_us();
    const int waiting_for = lanes_.at[1];
    while (lanes_.at[1] == waiting_for) advance_lane(Lane::exchange);
    waited_us_ += now_us() - began;
  }
}

void CpuExecutor::to_next(Lane lane, int from) {
  while (from < lanes_.segment->end && schedule_.tasks[static_cast<size_t>(from)].lane != lane)
    ++from;
  lanes_.at[static_cast<size_t>(lane)] = from;
}

bool CpuExecutor::advance_lane(Lane lane) {
  const auto mine = static_cast<size_t>(lane);
  const int at = lanes_.at[mine];
  if (at == lanes_.segment->end) return true;
  const Task& task = schedule_.tasks[static_cast<size_t>(at)];
  if (task.after[1 - mine] >= lanes_.at[1 - mine]) return false;
  if (!carry_out(task, lanes_.layer)) return false;
  to_next(lane, at + 1);
  return lanes_.at[mine] == lanes_.segment->end;
}

bool CpuExecutor::carry_out(const Task& task, int layer) {
  double& began = began_us_[static_cast<size_t>(task.lane)];
  if (spans_ != nullptr && began < 0) began = now_us();
  if (communicates(task.op)) {
    if (!exchange_->progress(task, task.lane == Lane::compute)) return false;
    if (task.op == Op::dispatch) exchange_->observe(present_);
  } else {
    compute(task, layer);
  }
  if (spans_ != nullptr) spans_->push_back({&task, layer, began, now_us()});
  began = -1;
  if (hooks_.after) hooks_.after(task, layer);
  beat();
  return true;
}

void CpuExecutor::run_timed(const Segment& segment, int layer, std::vector<Runs>& runs) {
  lanes_ = {&segment, layer, {segment.end, segment.end}};  // nothing runs beside
  for (size_t c = 0; c < covers_.size(); ++c) {
    if (covers_[c].begin < segment.begin || covers_[c].begin >= segment.end) continue;
    cores_.wait(*exchange_);
    const double began = now_us();
    for (int i = covers_[c].begin; i < covers_[c].end; ++i)
      while (!carry_out(schedule_.tasks[static_cast<size_t>(i)], layer)) {
      }
    runs[c].add(now_us() - began, cores_.own());
  }
}

void CpuExecutor::run_exchanges(const Segment& segment, int layer) {
  for (int i = segment.begin; i < segment.end; ++i) {
    const Task& task = schedule_.tasks[static_cast<size_t>(i)];
    while (communicates(task.op) && !carry_out(task, layer)) {
    }
  }
}

double CpuExecutor::exchanges_us() {
  rewind();
  only_exchanges_ = true;
  fill();
  exchange_->barrier();
  const double began = now_us();
  step();
  const double took = now_us() - began;
  only_exchanges_ = false;
  rewind();
  return took;
}

std::vector<Span> CpuExecutor::traced_step() {
  fill();
  std::vector<Span> spans;
  exchange_->barrier();
  spans_ = &spans;
  const double began = now_us();
  step();
  spans_ = nullptr;
  for (Span& span : spans) {
    span.begin_us -= began;
    span.end_us -= began;
  }
  return spans;
}

std::vector<float> CpuExecutor::present_logits() const {
  for (const Task& task : schedule_.tasks) {
    if (task.op != Op::pick) continue;
    const Array from = array(task.reads[0], all_chunks);
    std::vector<float> result(static_cast<size_t>(from.rows * from.width));
    for (size_t i = 0; i < result.size(); ++i)
      result[i] = work_.precision.activations == Format::bf16 ? to_float(from.as<bf16>()[i])
                                                              : from.as<float>()[i];
    return result;
  }
  return {};
}

TensorView CpuExecutor::view(Id tensor, int chunk) {
  return view_at(store_.activation(tensor, chunk), tensor, chunk, present_);
}

int64_t CpuExecutor::position(int64_t row) const {
  return reinterpret_cast<const int64_t*>(store_.activation(1, all_chunks))[requests_.first + row];
}

bool CpuExecutor::owns_newest(int64_t row) const {
  if (hooks_.newest != Newest::by_owner) return hooks_.newest == Newest::by_everybody;
  return owner(position(row), work_.interval, schedule_.place.l.kvp) == schedule_.place.kvp;
}

}  // namespace helix::cpu
