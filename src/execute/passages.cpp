#include "execute/passages.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "execute/routing.h"
#include "model/weights.h"

namespace helix {

namespace {

Schedule schedule_for(MPI_Comm ranks, const Assignment& work) {
  int rank = 0;
  HELIX_MPI(MPI_Comm_rank(ranks, &rank));
  return build_schedule({work.model, work.layout, work.precision, work.chunks},
                        work.shard.value_or(rank));
}

}  // namespace

PassageExecutor::PassageExecutor(MPI_Comm ranks, const Assignment& work,
                                 std::span<const Fusion> fusions)
    : work_(work),
      generator_(*work.model, work.precision, work.seed, work.zipf),
      schedule_(schedule_for(ranks, work)),
      covers_(covers_of(schedule_, fusions)),
      room_(work.steps) {}

size_t PassageExecutor::cover_of(int task) const {
  const auto next = std::ranges::upper_bound(covers_, task, {}, &Cover::begin);
  return static_cast<size_t>(next - covers_.begin()) - 1;
}

void PassageExecutor::stand_at(std::span<const int32_t> tokens,
                               std::span<const int64_t> positions) {
  tick_ = 0;
  waited_us_ = 0;
  steps_taken_ = 0;
  store().turn_to(0);
  set_states(tokens, positions);
}

void PassageExecutor::rewind() {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < std::ssize(work_.lengths); ++i)
    tokens.push_back(work_.prompt.empty() ? generator_.first_token(i) : work_.prompt.back());
  stand_at(tokens, work_.lengths);
}

// What repeats stands before the epilogue.
void PassageExecutor::set_depth(int64_t layers) {
  Segment& repeated = schedule_.segments[schedule_.segments.size() - 2];
  repeated.layers = static_cast<int>(layers) - repeated.first_layer;
  depth_changed();
  rewind();
}

void PassageExecutor::read_prompt() {
  if (work_.prompt.empty()) return;
  const size_t batch = work_.lengths.size();
  stand_at(std::vector<int32_t>(batch, work_.prompt.front()), std::vector<int64_t>(batch, 0));
  room_ = std::ssize(work_.prompt) - 1;  // the last of these steps drains the pipeline
  for (size_t next = 1; next < work_.prompt.size(); ++next) {
    teach(std::vector<int32_t>(batch, work_.prompt[next]));
    step();
  }
  room_ = work_.steps;
  rewind();
}

bool PassageExecutor::takes_place(int64_t passage) const {
  const int64_t stages = work_.layout.pp;
  return passage >= 0 && (stages == 1 || passage < room_ * stages);
}

int64_t PassageExecutor::passages_done() const {
  const int64_t done = std::max<int64_t>(0, tick_ - schedule_.place.pp);
  return work_.layout.pp == 1 ? done : std::min(done, room_ * work_.layout.pp);
}

// The first stage gets tokens one round after it sent their hidden state off; the first round's are
// there.
Shift PassageExecutor::shift_after(int64_t passage) const {
  const int64_t stages = work_.layout.pp;
  const bool first = schedule_.place.pp == 0;
  const bool last = schedule_.place.pp + 1 == stages;
  return {.send = takes_place(passage) && (!last || takes_place(passage + stages)),
          .receive = takes_place(passage + 1) && (!first || passage + 1 >= stages),
          .receives = static_cast<int>((passage + 1 + stages) % stages)};
}

void PassageExecutor::begin(int64_t passage) {
  store().turn_to(static_cast<int>(passage % work_.layout.pp));
  step_ = passage / work_.layout.pp;
  requests_ = store().replicas()[static_cast<size_t>(schedule_.place.dp)];
}

void PassageExecutor::ticks(int64_t count, std::vector<double>* times) {
  for (int64_t i = 0; i < count; ++i) {
    const int64_t passage = tick_ - schedule_.place.pp;
    if (work_.layout.pp > 1) plan(shift_after(passage));
    if (takes_place(passage)) {
      begin(passage);
      pass(times);
      if (work_.layout.pp > 1 && !teacher_.empty()) keep_logits();
    } else if (work_.layout.pp > 1) {
      shift_alone();
    }
    ++tick_;
  }
}

void PassageExecutor::fill() { ticks(std::max<int64_t>(0, work_.layout.pp - 1 - tick_)); }

void PassageExecutor::step() {
  fill();
  ++steps_taken_;
  ticks(work_.layout.pp);
  teacher_.clear();
}

std::vector<double> PassageExecutor::take_intervals_us() {
  std::vector<double> intervals;
  for (size_t i = 1; i < marks_.size(); ++i)
    intervals.push_back(
        std::chrono::duration<double, std::micro>(marks_[i] - marks_[i - 1]).count());
  marks_.clear();
  return intervals;
}

std::vector<double> PassageExecutor::instrumented_step() {
  fill();
  std::vector<double> times(covers_.size(), 0);
  ticks(work_.layout.pp, &times);
  teacher_.clear();
  return times;
}

StepState PassageExecutor::state(int micro_batch) const {
  const Slice requests = store().micro_batch(micro_batch).requests;
  const auto lengths =
      std::span<const int64_t>(work_.lengths)
          .subspan(static_cast<size_t>(requests.first), static_cast<size_t>(requests.count));
  const int64_t passages = passages_done();
  const int64_t decoded =
      passages / work_.layout.pp + (micro_batch < passages % work_.layout.pp ? 1 : 0);
  StepState state = state_of(schedule_, *work_.model, {lengths, work_.interval, decoded});
  const Place& me = schedule_.place;
  const Slice words = rows_of(work_.model->vocabulary, me.l.stage_ranks(), me.in_stage());
  state.looked_up = 0;
  for (const int32_t token : tokens(micro_batch))
    state.looked_up += token >= words.first && token < words.first + words.count ? 1 : 0;
  if (const auto met = observed(micro_batch)) {
    state.touched = met->touched;
    state.routed = met->routed;
    state.leaving = met->leaving;
    state.arrived = met->arrived;
    state.returning = met->returning;
  }
  return state;
}

void PassageExecutor::keep_logits() {
  const std::vector<float> mine = present_logits();
  const Slice requests = store().now().requests;
  if (mine.empty()) return;
  const auto width = static_cast<int64_t>(mine.size()) / requests.count;
  logits_.resize(work_.lengths.size() * static_cast<size_t>(width));
  std::copy(mine.begin(), mine.end(), logits_.begin() + requests.first * width);
}

void PassageExecutor::compute(const Task& task, int layer) {
  switch (task.op) {
    case Op::embed: return embed(task, layer);
    case Op::norm: return norm(task, layer);
    case Op::add_norm: return add_norm(task, layer);
    case Op::product: return product(task, layer);
    case Op::per_head: return per_head(task, layer);
    case Op::angles: return angles(task);
    case Op::rope: return rope(task);
    case Op::append: return append(task, layer);
    case Op::attend: return attend(task, layer);
    case Op::merge: return merge(task);
    case Op::rescale: return rescale(task);
    case Op::swiglu: return swiglu(task);
    case Op::add: return add(task);
    case Op::route: return route(task, layer);
    case Op::experts: return experts(task, layer);
    case Op::pick: return pick(task);
    case Op::advance: return advance(task);
    default: throw RunError("no arithmetic for task '" + std::string(row_of(task.op).name) + "'");
  }
}

std::span<const int32_t> PassageExecutor::forced_choice(int layer, int64_t request) const {
  if (hooks_.routing.judged) return hooks_.routing.judged(step_, layer, request);
  return given_choice(work_, layer, request);
}

Stored PassageExecutor::stored(Id id, int layer) const {
  const Tensor& t = schedule_[id];
  int64_t count = 1;
  for (const Dim& dim : t.dims) count *= dim.mine.count;
  return {store().weight(id, layer), count, weight_format(id), generator_.scale(t.weight, layer)};
}

TensorView PassageExecutor::view_at(std::byte* data, Id tensor, int chunk,
                                    const StepState& state) const {
  const Id outputs = store().holder(tensor);
  if (!store().in_messages(outputs)) {
    const Array a = store().array(tensor, chunk, state);
    return {data, a.rows, a.width};
  }
  const PartialLayout part = store().message(outputs, chunk);
  const bool lses = outputs != tensor;
  return {lses ? data + part.outputs_bytes() : data, part.rows,
          lses ? part.heads : part.heads * part.value_size, store().parts(outputs), part.bytes()};
}

}  // namespace helix
