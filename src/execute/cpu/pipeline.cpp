// Steps: PP micro-batches through the stages, tick by tick. Passage i of a stage is micro-batch i
// mod PP in its step i / PP, and takes place in tick i + stage.
#include <algorithm>
#include <chrono>

#include "execute/cpu/executor.h"

namespace helix::cpu {

namespace {

double now_us() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::micro>(now).count();
}

}  // namespace

void CpuExecutor::rewind() {
  tick_ = 0;
  store_.turn_to(0);
  const Generator generator(*work_.model, work_.precision, work_.seed);
  auto* tokens = reinterpret_cast<int32_t*>(
      store_.activation(0, all_chunks));  // null where nothing reads them
  auto* positions = reinterpret_cast<int64_t*>(store_.activation(1, all_chunks));
  for (size_t i = 0; i < work_.lengths.size(); ++i) {
    if (tokens != nullptr) tokens[i] = generator.first_token(static_cast<int64_t>(i));
    positions[i] = work_.lengths[i];
  }
}

bool CpuExecutor::takes_place(int64_t passage) const {
  const int64_t stages = work_.layout.pp;
  return passage >= 0 && (stages == 1 || passage < work_.steps * stages);
}

int64_t CpuExecutor::passages_done() const {
  const int64_t done = std::max<int64_t>(0, tick_ - schedule_.place.pp);
  return work_.layout.pp == 1 ? done : std::min(done, work_.steps * work_.layout.pp);
}

// The first stage gets tokens one round after it sent their hidden state off; the first round's are
// there.
void CpuExecutor::plan_shift(int64_t passage) {
  const int64_t stages = work_.layout.pp;
  const bool first = schedule_.place.pp == 0;
  const bool last = schedule_.place.pp + 1 == stages;
  collectives_.plan({.send = takes_place(passage) && (!last || takes_place(passage + stages)),
                     .receive = takes_place(passage + 1) && (!first || passage + 1 >= stages),
                     .receives = static_cast<int>((passage + 1 + stages) % stages)});
}

template <class RunLayer>
void CpuExecutor::pass(int64_t passage, RunLayer run_layer) {
  store_.turn_to(static_cast<int>(passage % work_.layout.pp));
  step_ = passage / work_.layout.pp;
  requests_ = store_.replicas()[static_cast<size_t>(schedule_.place.dp)];
  present_ = store_.capacity();
  observed_[static_cast<size_t>(store_.now_index())] = {};
  for (const Segment& segment : schedule_.segments)
    for (int layer = 0; layer < segment.layers; ++layer)
      run_layer(segment, segment.first_layer + layer);
  if (work_.layout.pp > 1 && !teacher_.empty()) keep_logits();
}

template <class RunLayer>
void CpuExecutor::ticks(int64_t count, RunLayer run_layer) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t passage = tick_ - schedule_.place.pp;
    if (work_.layout.pp > 1) plan_shift(passage);
    if (takes_place(passage)) {
      pass(passage, run_layer);
    } else if (work_.layout.pp > 1) {  // nothing to do yet, or nothing more: the others still shift
      const Segment& last = schedule_.segments.back();
      carry_out(schedule_.tasks[static_cast<size_t>(last.end - 1)], last.first_layer);
    }
    ++tick_;
  }
}

void CpuExecutor::fill() {
  const int64_t missing = std::max<int64_t>(0, work_.layout.pp - 1 - tick_);
  ticks(missing, [this](const Segment& segment, int layer) { run_layer(segment, layer); });
}

void CpuExecutor::step() {
  fill();
  exposed_us_ = 0;
  ticks(work_.layout.pp, [this](const Segment& segment, int layer) { run_layer(segment, layer); });
  teacher_.clear();
}

std::vector<double> CpuExecutor::instrumented_step() {
  fill();
  std::vector<double> times(schedule_.tasks.size(), 0);
  ticks(work_.layout.pp,
        [&](const Segment& segment, int layer) { run_timed(segment, layer, times); });
  teacher_.clear();
  return times;
}

std::vector<Span> CpuExecutor::traced_step() {
  fill();
  std::vector<Span> spans;
  collectives_.barrier();
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

// Of the micro-batch in hand, [rows][vocabulary slice]; empty on stages without the LM head.
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

void CpuExecutor::keep_logits() {
  const std::vector<float> mine = present_logits();
  const Slice requests = store_.now().requests;
  if (mine.empty()) return;
  const auto width = static_cast<int64_t>(mine.size()) / requests.count;
  logits_.resize(work_.lengths.size() * static_cast<size_t>(width));
  std::copy(mine.begin(), mine.end(), logits_.begin() + requests.first * width);
}

std::vector<float> CpuExecutor::logits() const {
  return work_.layout.pp > 1 ? logits_ : present_logits();
}

}  // namespace helix::cpu
