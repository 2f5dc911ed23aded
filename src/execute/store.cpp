#include "execute/store.h"

#include <algorithm>
#include <utility>

#include "base/random.h"
#include "layout/requests.h"
#include "model/checkpoint.h"

namespace helix {

namespace {

constexpr uint64_t pages_stream =
    1101;  // apart from those of model/weights.cpp and bench/point.cpp

// The end of the tokens that stand in one piece from `first` on: of all that are held, of a page;
// and of an interval that it begins within, as Positions count runs from a whole one on.
int64_t end_of_piece(const KvCache& cache, int64_t first, int64_t held, int64_t interval) {
  if (!cache.paged()) return held;
  const int64_t page_end = (first / page_tokens + 1) * page_tokens;
  const int64_t run_end = first % interval == 0 ? held : (first / interval + 1) * interval;
  return std::min({held, page_end, run_end});
}

// What weights depend on, beside their slices.
std::string values_of(const Assignment& work) {
  std::string text =
      work.model->name + "/" + std::to_string(work.model->layers) + "/" + std::to_string(work.seed);
  if (work.model->checkpoint) text += "/" + work.model->checkpoint->folder();
  const Precision& p = work.precision;
  for (const Format format : {p.weights, p.attention, p.experts, p.lm_head})
    text += "/" + std::string(name_of(format));
  return text;
}

}  // namespace

Store::Store(const Schedule& schedule, const Assignment& work, Allocate allocate, Holds holds)
    : schedule_(schedule),
      allocate_(std::move(allocate)),
      holds_(holds),
      lengths_(work.lengths),
      interval_(work.interval),
      held_(work.weights ? work.weights : std::make_shared<HeldWeights>()) {
  for (const Slice& requests : cut(work.lengths, schedule.place.l.pp))
    micro_batches_.push_back(make_micro_batch(work, requests));
  first_layer_ = schedule.segments.front().first_layer;
  find_messages();
  allocate_all(values_of(work));
}

Block Store::block(double bytes, double& counter) const {
  counter += bytes;
  return allocate_(static_cast<size_t>(bytes));
}

MicroBatch Store::make_micro_batch(const Assignment& work, const Slice& requests) const {
  const Place& me = schedule_.place;
  const auto lengths =
      std::span<const int64_t>(work.lengths)
          .subspan(static_cast<size_t>(requests.first), static_cast<size_t>(requests.count));
  MicroBatch m{
      .requests = requests,
      .most = capacity_of(
          schedule_, *work.model,
          {.lengths = lengths, .interval = work.interval, .kv_layout = work.kv_layout}, work.steps),
      .replicas = cut(lengths, me.l.dp),
      .first_rows = {},
      .cache = {}};
  const Attention& a = work.model->attention;
  m.cache.first_head = me.kv_heads(a.kv_heads).first;
  m.cache.heads = me.kv_heads(a.kv_heads).count;
  m.cache.key_values = a.head_size;
  m.cache.value_values = a.mla() ? 0 : a.value_size;
  m.cache.format = work.precision.kv;
  const Slice mine = m.replicas[static_cast<size_t>(me.dp)];
  for (int64_t i = mine.first; i < mine.first + mine.count; ++i) {
    const int64_t held =
        local_length(lengths[static_cast<size_t>(i)] + work.steps, work.interval, me.l.kvp, me.kvp);
    m.cache.add(room_for(held, work.interval, work.kv_layout));
  }
  if (work.kv_layout == KvLayout::paged) m.cache.hand_out_pages(combine(work.seed, pages_stream));
  int64_t row = 0;
  for (const Load& chunk : m.most.chunks) {
    m.first_rows.push_back(row);
    row += static_cast<int64_t>(chunk.rows);
  }
  return m;
}

// Outputs and their log-sum-exps are written by one task, or exchanged by one: they stand together.
void Store::find_messages() {
  const size_t count = schedule_.tensors.size();
  parts_.assign(count, 0);
  holder_.resize(count);
  for (size_t i = 0; i < count; ++i) holder_[i] = static_cast<Id>(i);
  const auto join = [&](Id outputs, Id lses, int parts) {
    parts_[static_cast<size_t>(outputs)] = parts_[static_cast<size_t>(lses)] = parts;
    holder_[static_cast<size_t>(lses)] = outputs;
  };
  for (const Task& task : schedule_.tasks)
    if (task.op == Op::attend || (task.op == Op::per_head && task.writes.size() == 2))
      join(task.writes[0], task.writes[1], 1);
  for (const Task& task : schedule_.tasks)
    if (task.op == Op::all_to_all) {
      join(task.reads[0], task.reads[1], task.group.size);
      join(task.writes[0], task.writes[1], task.group.size);
    }
}

void Store::allocate_all(const std::string& values) {
  weights_.resize(schedule_.tensors.size());
  weight_layer_.assign(schedule_.tensors.size(), 0);
  if (holds_ == Holds::everything) hold_weights(values);
  allocate_buffers();
  if (holds_ == Holds::exchanged) return;
  for (const Segment& g : schedule_.segments)
    for (int i = g.begin; i < g.end; ++i)
      allocate_history(g, schedule_.tasks[static_cast<size_t>(i)]);
}

std::vector<bool> Store::used() const {
  std::vector<bool> used(schedule_.tensors.size());
  for (const Task& task : schedule_.tasks) {
    if (holds_ == Holds::exchanged && !communicates(task.op)) continue;
    for (const Id id : task.reads) used[static_cast<size_t>(id)] = true;
    for (const Id id : task.writes) used[static_cast<size_t>(id)] = true;
  }
  for (size_t i = 0; i < used.size(); ++i)  // log-sum-exps stand behind their outputs
    if (used[i]) used[static_cast<size_t>(holder_[i])] = true;
  return used;
}

void Store::allocate_buffers() {
  const std::vector<bool> wanted = used();
  std::vector<double> bytes(wanted.size(), 0);
  std::vector<StepState> capacities;
  for (const MicroBatch& m : micro_batches_) capacities.push_back(m.most);
  const StepState most = maximum(capacities);
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Tensor& t = schedule_.tensors[i];
    double& mine = bytes[static_cast<size_t>(holder_[i])];
    if (wanted[i] && t.kind == Kind::activation) mine += bytes_of(t, most);
    if (wanted[i] && t.kind == Kind::state)
      for (const StepState& m : capacities) mine += bytes_of(t, m);
  }
  for (const double b : bytes) buffers_.push_back(b > 0 ? block(b, allocated_.buffers) : Block());
  workspace_ = block(workspace_bytes(schedule_, most), allocated_.buffers);
}

WeightSlice Store::slice_of(Id id, int64_t layer) const {
  const Tensor& t = schedule_[id];
  Part part;
  for (size_t axis = 0; axis < part.size(); ++axis)
    part[axis] = t.dims[axis].fill == Fill::absent ? Slice{0, 1} : t.dims[axis].mine;
  return {t.weight, weight_layer_[static_cast<size_t>(id)] + layer + t.layer_offset, part};
}

// What an earlier executor has left and this one does not need is freed first.
void Store::hold_weights(const std::string& values) {
  std::vector<std::pair<Id, WeightSlice>> wanted;
  std::vector<bool> seen(schedule_.tensors.size());
  for (const Segment& g : schedule_.segments)
    for (int i = g.begin; i < g.end; ++i)
      for (const Id id : schedule_.tasks[static_cast<size_t>(i)].reads) {
        if (schedule_[id].kind != Kind::weight || seen[static_cast<size_t>(id)]) continue;
        seen[static_cast<size_t>(id)] = true;
        weight_layer_[static_cast<size_t>(id)] = g.first_layer;
        for (int layer = 0; layer < g.layers; ++layer) wanted.emplace_back(id, slice_of(id, layer));
      }
  std::vector<WeightSlice> slices;
  for (const auto& [id, slice] : wanted) slices.push_back(slice);
  held_->keep(values, slices);
  for (const auto& [id, slice] : wanted) {
    const double bytes = bytes_of(schedule_[id], now().most);
    weights_[static_cast<size_t>(id)].push_back(held_->hold(slice, bytes, allocate_));
    allocated_.weights += bytes;
  }
}

void Store::allocate_history(const Segment& segment, const Task& task) {
  for (const Id id : task.reads) {
    if (schedule_[id].kind != Kind::history || task.chunk > 0) continue;
    for (int layer = 0; layer < segment.layers; ++layer)
      for (const MicroBatch& m : micro_batches_)
        history_.push_back(block(bytes_of(schedule_[id], m.most), allocated_.kv));
  }
}

void Store::for_each_weight(const std::function<void(const WeightPart&)>& f) const {
  for (size_t i = 0; i < weights_.size(); ++i)
    for (size_t layer = 0; layer < weights_[i].size(); ++layer) {
      HeldWeights::Held& held = *weights_[i][layer];
      if (held.filled) continue;
      const WeightSlice slice = slice_of(static_cast<Id>(i), static_cast<int64_t>(layer));
      f({slice.weight, slice.layer, slice.part, held.data.get()});
      held.filled = true;
    }
}

void Store::for_each_history(const std::function<void(const HistoryPart&)>& f) const {
  const Place& me = schedule_.place;
  for (size_t i = 0; i < history_.size(); ++i) {  // a layer: a micro-batch
    const MicroBatch& m = micro_batches_[i % micro_batches_.size()];
    const Slice replica = m.replicas[static_cast<size_t>(me.dp)];
    for (int64_t row = 0; row < replica.count; ++row)
      for (int64_t head = 0; head < m.cache.heads; ++head) {
        HistoryPart part{
            .layer = first_layer_ + static_cast<int64_t>(i / micro_batches_.size()),
            .request = m.requests.first + replica.first + row,
            .kv_head = m.cache.first_head + head,
            .cache = history_[i].get(),
            .cached = m.cache.count(),
        };
        part.length = lengths_[static_cast<size_t>(part.request)];
        const int64_t held = local_length(part.length, interval_, me.l.kvp, me.kvp);
        for (int64_t first = 0, end = 0; first < held; first = end) {
          end = end_of_piece(m.cache, first, held, interval_);
          part.positions = {global_position(first, interval_, me.l.kvp, me.kvp), end - first,
                            interval_, me.l.kvp * interval_};
          const int64_t place = m.cache.place(row, first);
          part.first_key = m.cache.first_key(row, head) + place * m.cache.key_values;
          part.first_value = m.cache.first_value(row, head) + place * m.cache.value_values;
          f(part);
        }
      }
  }
}

std::byte* Store::weight(Id id, int layer) const {
  const auto i = static_cast<size_t>(id);
  const auto& layers = weights_[i];  // a tied LM head is the embedding, read in another segment
  return layers[layers.size() == 1 ? 0 : static_cast<size_t>(layer - weight_layer_[i])]->data.get();
}

int64_t Store::rows(int chunk) const {
  const Load& load =
      chunk == all_chunks ? capacity().all : capacity().chunks[static_cast<size_t>(chunk)];
  return static_cast<int64_t>(load.rows);
}

PartialLayout Store::message(Id id, int chunk) const {
  const Tensor& t = schedule_[id];
  const bool received =
      t.dims[2].fill != Fill::absent && t.dims[3].fill != Fill::absent;  // [rows][parts][heads][Dv]
  PartialLayout layout;
  layout.rows = rows(chunk);
  layout.heads = received ? t.dims[2].mine.count : t.dims[1].mine.count / parts(id);
  layout.value_size = received ? t.dims[3].mine.count : t.dims[2].mine.count;
  layout.element_bytes = static_cast<int64_t>(t.bytes);
  return layout;
}

std::byte* Store::activation_of(int micro_batch, Id id) const {
  std::byte* base = buffers_[static_cast<size_t>(id)].get();
  const Tensor& t = schedule_[id];  // states are one array over the batch
  return t.kind == Kind::state && base != nullptr
             ? base + static_cast<int64_t>(t.bytes) *
                          micro_batches_[static_cast<size_t>(micro_batch)].requests.first
             : base;
}

std::byte* Store::activation(Id id, int chunk) const {
  const Id outputs = holder_[static_cast<size_t>(id)];
  std::byte* base = buffers_[static_cast<size_t>(outputs)].get();
  const Tensor& t = schedule_[outputs];
  if (t.kind == Kind::state) return activation_of(now_, outputs);
  if (chunk <= 0 || t.dims[0].fill != Fill::rows) return base;
  if (in_messages(outputs)) {
    PartialLayout before = message(outputs, chunk);
    before.rows = first_row(chunk);
    return base + before.bytes() * parts(outputs);
  }
  double row = t.bytes;
  for (size_t axis = 1; axis < t.dims.size(); ++axis)
    row *= extent(t.dims[axis], capacity(), chunk);
  return base + static_cast<int64_t>(row) * first_row(chunk);
}

Array Store::array(Id id, int chunk, const StepState& state) const {
  Array a{activation(id, chunk), 0, 1, {}};
  for (size_t axis = 0; axis < 4; ++axis)
    a.extents[axis] = static_cast<int64_t>(extent(schedule_[id].dims[axis], state, chunk));
  a.rows = a.extents[0];
  a.width = a.extents[1] * a.extents[2] * a.extents[3];
  return a;
}

std::span<std::byte> Store::bytes(Id id, int chunk) const {
  std::byte* data = activation(id, chunk);
  const Id outputs = holder(id);
  if (!in_messages(outputs))
    return {data, static_cast<size_t>(bytes_of(schedule_[id], capacity(), chunk))};
  const PartialLayout part = message(outputs, chunk);
  const auto all = static_cast<size_t>(parts(outputs) * part.bytes());
  return std::span(data, all).subspan(
      id != outputs && parts(outputs) == 1 ? static_cast<size_t>(part.outputs_bytes()) : 0);
}

}  // namespace helix
