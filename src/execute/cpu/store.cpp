#include "execute/cpu/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/heartbeat.h"
#include "layout/requests.h"

namespace helix::cpu {

Allocation::Allocation(double bytes, double& counter) {
  const auto count = static_cast<size_t>(bytes);
  const size_t rounded = (std::max<size_t>(count, 1) + 63) / 64 * 64;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(64, rounded)));
  if (!data_) throw RunError(fmt::format("out of memory: {} bytes wanted", rounded));
  std::memset(data_.get(), 0, rounded);
  counter += bytes;
}

Store::Store(const Schedule& schedule, const Assignment& work, const StepState& most)
    : schedule_(schedule), most_(most), replicas_(cut(work.lengths, schedule.place.l.dp)) {
  const Place& me = schedule.place;
  const Slice requests = replicas_[static_cast<size_t>(me.dp)];
  const Attention& a = work.model->attention;
  cache_.heads = me.kv_heads(a.kv_heads).count;
  cache_.key_values = a.head_size;
  cache_.value_values = a.mla() ? 0 : a.value_size;
  cache_.element = static_cast<int64_t>(bytes_of(work.precision.kv));
  int64_t tokens = 0;
  for (int64_t i = 0; i < requests.count; ++i) {
    const int64_t length = work.lengths[static_cast<size_t>(requests.first + i)] + work.steps;
    const int64_t held = local_length(length, work.interval, me.l.kvp, me.kvp);
    cache_.before.push_back(tokens);
    cache_.capacity.push_back((held + work.interval - 1) / work.interval * work.interval);
    tokens += cache_.capacity.back();
  }
  int64_t row = 0;
  for (const Load& chunk : most.chunks) {
    first_rows_.push_back(row);
    row += static_cast<int64_t>(chunk.rows);
  }
  first_layer_ = schedule.segments.front().first_layer;
  find_messages();
  allocate(most);
  generate_weights(work);
  generate_history(work, requests);
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

void Store::allocate(const StepState& most) {
  const size_t count = schedule_.tensors.size();
  weights_.resize(count);
  weight_layer_.assign(count, 0);
  buffers_.resize(count);
  std::vector<double> wanted(count, 0);
  for (size_t i = 0; i < count; ++i) {
    const Tensor& t = schedule_.tensors[i];
    if (t.kind == Kind::activation || t.kind == Kind::state)
      wanted[static_cast<size_t>(holder_[i])] += bytes_of(t, most);
  }
  for (size_t i = 0; i < count; ++i)
    if (holder_[i] == static_cast<Id>(i) && wanted[i] > 0) buffers_[i] = Allocation(wanted[i], allocated_.buffers);
  workspace_ = Allocation(workspace_bytes(schedule_, most), allocated_.buffers);
  for (const Segment& g : schedule_.segments)
    for (int i = g.begin; i < g.end; ++i)
      for (const Id id : schedule_.tasks[static_cast<size_t>(i)].reads) {
        const Tensor& t = schedule_[id];
        auto& layers = weights_[static_cast<size_t>(id)];
        if (t.kind == Kind::weight && layers.empty()) {
          weight_layer_[static_cast<size_t>(id)] = g.first_layer;
          for (int layer = 0; layer < g.layers; ++layer)
            layers.emplace_back(bytes_of(t, most), allocated_.weights);
        }
        if (t.kind == Kind::history && schedule_.tasks[static_cast<size_t>(i)].chunk <= 0)
          for (int layer = 0; layer < g.layers; ++layer) history_.emplace_back(bytes_of(t, most), allocated_.kv);
      }
}

void Store::generate_weights(const Assignment& work) {
  const Generator generator(*work.model, work.precision, work.seed);
  for (size_t i = 0; i < weights_.size(); ++i) {
    const Tensor& t = schedule_.tensors[i];
    Part part;
    for (size_t axis = 0; axis < part.size(); ++axis)
      part[axis] = t.dims[axis].fill == Fill::absent ? Slice{0, 1} : t.dims[axis].mine;
    for (size_t layer = 0; layer < weights_[i].size(); ++layer) {
      std::byte* to = weights_[i][layer].data();
      const int64_t model_layer = weight_layer_[i] + static_cast<int64_t>(layer) + t.layer_offset;
      if (format_of(work.precision, t.weight) == Format::bf16)
        generator.weights(t.weight, model_layer, part, reinterpret_cast<bf16*>(to));
      else
        generator.weights(t.weight, model_layer, part, reinterpret_cast<float*>(to));
      beat();
    }
  }
}

void Store::generate_history(const Assignment& work, const Slice& requests) {
  const Generator generator(*work.model, work.precision, work.seed);
  const Place& me = schedule_.place;
  const Slice heads = me.kv_heads(work.model->attention.kv_heads);
  const int64_t block = std::max(work.interval, 4096 / work.interval * work.interval);
  const auto fill = [&]<class T>(T*, int64_t layer, int64_t row, int64_t head) {
    const int64_t request = requests.first + row;
    const int64_t length = work.lengths[static_cast<size_t>(request)];
    const int64_t held = local_length(length, work.interval, me.l.kvp, me.kvp);
    std::byte* base = history(static_cast<int>(layer));
    T* keys = reinterpret_cast<T*>(base + cache_.key_offset(row, head));
    T* values = cache_.value_values == 0 ? nullptr : reinterpret_cast<T*>(base + cache_.value_offset(row, head));
    for (int64_t i = 0; i < held; i += block) {
      const Generator::Positions positions{global_position(i, work.interval, me.l.kvp, me.kvp),
                                           std::min(block, held - i), work.interval, me.l.kvp * work.interval};
      generator.history(layer, request, length, heads.first + head, positions, keys + i * cache_.key_values,
                        values == nullptr ? nullptr : values + i * cache_.value_values);
      beat();
    }
  };
  for (int64_t layer = first_layer_; layer < first_layer_ + static_cast<int64_t>(history_.size()); ++layer)
    for (int64_t row = 0; row < requests.count; ++row)
      for (int64_t head = 0; head < cache_.heads; ++head)
        work.precision.kv == Format::bf16 ? fill(static_cast<bf16*>(nullptr), layer, row, head)
                                          : fill(static_cast<float*>(nullptr), layer, row, head);
}

std::byte* Store::weight(Id id, int layer) const {
  const auto i = static_cast<size_t>(id);
  const auto& layers = weights_[i];  // a tied LM head is the embedding, read in another segment
  return layers[layers.size() == 1 ? 0 : static_cast<size_t>(layer - weight_layer_[i])].data();
}

int64_t Store::rows(int chunk) const {
  const Load& load = chunk == all_chunks ? most_.all : most_.chunks[static_cast<size_t>(chunk)];
  return static_cast<int64_t>(load.rows);
}

PartialLayout Store::message(Id id, int chunk) const {
  const Tensor& t = schedule_[id];
  const bool received = t.dims[2].fill != Fill::absent && t.dims[3].fill != Fill::absent;  // [rows][parts][heads][Dv]
  PartialLayout layout;
  layout.rows = rows(chunk);
  layout.heads = received ? t.dims[2].mine.count : t.dims[1].mine.count / parts(id);
  layout.value_size = received ? t.dims[3].mine.count : t.dims[2].mine.count;
  layout.element_bytes = static_cast<int64_t>(t.bytes);
  return layout;
}

std::byte* Store::activation(Id id, int chunk) const {
  const Id outputs = holder_[static_cast<size_t>(id)];
  std::byte* base = buffers_[static_cast<size_t>(outputs)].data();
  const Tensor& t = schedule_[outputs];
  if (chunk <= 0 || t.dims[0].fill != Fill::rows) return base;
  if (in_messages(outputs)) {
    PartialLayout before = message(outputs, chunk);
    before.rows = first_row(chunk);
    return base + before.bytes() * parts(outputs);
  }
  double row = t.bytes;
  for (size_t axis = 1; axis < t.dims.size(); ++axis) row *= extent(t.dims[axis], most_, chunk);
  return base + static_cast<int64_t>(row) * first_row(chunk);
}

}  // namespace helix::cpu
