#include "schedule/cost.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "layout/requests.h"

namespace helix {

double extent(const Dim& dim, const StepState& state, int chunk) {
  const Load& load = chunk == all_chunks ? state.all : state.chunks[static_cast<size_t>(chunk)];
  switch (dim.fill) {
    case Fill::absent: return 1;
    case Fill::fixed: return static_cast<double>(dim.mine.count);
    case Fill::rows: return load.rows;
    case Fill::stage_rows: return state.stage_rows;
    case Fill::history: return load.history;
    case Fill::newest: return load.newest;
    case Fill::touched: return state.touched;
    case Fill::routed: return state.routed;
    case Fill::arrived: return state.arrived;
  }
  return 0;
}

double volume(const Tensor& tensor, const StepState& state, int chunk) {
  double product = 1;
  for (const Dim& dim : tensor.dims) product *= extent(dim, state, chunk);
  return product;
}
double bytes_of(const Tensor& tensor, const StepState& state, int chunk) {
  return tensor.bytes * volume(tensor, state, chunk);
}

Cost& Cost::operator+=(const Cost& other) {
  early += other.early;
  late += other.late;
  flops += other.flops;
  sent += other.sent;
  messages += other.messages;
  return *this;
}

namespace {

bool is_early(const Tensor& t) { return t.kind == Kind::weight || t.kind == Kind::history; }

double bytes_read(const Tensor& t, const Task& task, const StepState& state) {
  if (task.op == Op::embed && t.kind == Kind::weight)
    return t.bytes * state.looked_up * static_cast<double>(t.dims[1].mine.count);
  return bytes_of(t, state, task.chunk);
}

double held(const Tensor& weight) {  // values of all extents that this rank holds, experts apart
  double product = 1;
  for (const Dim& dim : weight.dims)
    if (dim.fill != Fill::touched) product *= static_cast<double>(dim.mine.count);
  return product;
}

double flops_of(const Schedule& s, const Task& task, const StepState& state) {
  switch (row_of(task.op).work) {
    case Work::none: return 0;
    case Work::attend: {  // q k over D and p v over Dv, for every query head
      const Load& load =
          task.chunk == all_chunks ? state.all : state.chunks[static_cast<size_t>(task.chunk)];
      const Tensor& query = s[task.reads[0]];
      const Tensor& out = s[task.writes[0]];
      const auto heads = static_cast<double>(out.dims[1].mine.count);
      return 2 * (load.history + load.newest) * heads *
             static_cast<double>(query.dims[2].mine.count + out.dims[2].mine.count);
    }
    case Work::experts:
    case Work::product: {
      double weights = 0;
      for (const Id id : task.reads)
        if (s[id].kind == Kind::weight && s[id].weight != W::router_bias) weights += held(s[id]);
      const double rows = row_of(task.op).work == Work::experts
                              ? state.routed
                              : extent(s[task.reads[0]].dims[0], state, task.chunk);
      return 2 * rows * weights;
    }
  }
  return 0;
}

// Bytes to other ranks. Payloads are those that the executors pass; an all-reduce is a
// reduce-scatter and an all-gather of shares that differ by one value where the group does not
// divide them.
double sent_by(const Schedule& s, const Task& task, const StepState& state) {
  const int peers = task.group.size - 1;
  double in = 0;
  for (const Id id : task.reads) in += bytes_of(s[id], state, task.chunk);
  const Tensor& first = s[task.reads[0]];
  switch (task.op) {
    case Op::all_reduce: {
      const auto values = static_cast<int64_t>(volume(first, state, task.chunk));
      const auto mine = static_cast<double>(share(values, task.group.size, task.group.index).count);
      return (static_cast<double>(values) - mine + peers * mine) * first.bytes;
    }
    case Op::all_gather: return in * peers;
    case Op::reduce_scatter: return in - bytes_of(s[task.writes[0]], state, task.chunk);
    case Op::all_to_all: return in / task.group.size * peers;
    case Op::dispatch:  // a row, its choice, and a count for each peer
      return state.leaving * (first.bytes * static_cast<double>(first.dims[1].mine.count) +
                              8 * static_cast<double>(s[task.reads[1]].dims[1].mine.count)) +
             8.0 * peers;
    case Op::combine:
      return state.returning * first.bytes * static_cast<double>(first.dims[1].mine.count);
    case Op::shift: return in;
    default: return 0;
  }
}

}  // namespace

Cost cost(const Schedule& s, const Task& task, const StepState& state) {
  Cost c;
  for (const Id id : task.reads)
    (is_early(s[id]) ? c.early : c.late) += bytes_read(s[id], task, state);
  for (const Id id : task.writes) c.late += bytes_of(s[id], state, task.chunk);
  c.flops = flops_of(s, task, state);
  if (communicates(task.op)) {
    c.messages = row_of(task.op).rounds * (task.group.size - 1);
    c.sent = sent_by(s, task, state);
  }
  return c;
}

Cost step_cost(const Schedule& s, const StepState& state) {
  Cost total;
  for (const Segment& g : s.segments) {
    Cost layer;
    for (int i = g.begin; i < g.end; ++i) layer += cost(s, s.tasks[static_cast<size_t>(i)], state);
    total += {layer.early * g.layers, layer.late * g.layers, layer.flops * g.layers,
              layer.sent * g.layers, layer.messages * g.layers};
  }
  return total;
}

namespace {

double row_bytes(const Tensor& t, const StepState& most) {
  double bytes = t.bytes;
  for (size_t axis = 1; axis < t.dims.size(); ++axis)
    bytes *= extent(t.dims[axis], most, all_chunks);
  return bytes;
}

}  // namespace

double workspace_bytes(const Schedule& s, const StepState& most) {
  double largest = 0;
  for (const Task& task : s.tasks) {
    const Tensor& in = s[task.reads[0]];
    const Tensor& out = s[task.writes[0]];
    const auto values = static_cast<int64_t>(volume(in, most, task.chunk));
    if (task.op == Op::all_reduce)
      largest = std::max(
          largest, static_cast<double>(share(values, task.group.size, task.group.index).count) *
                       task.group.size * in.bytes);
    if (task.op == Op::reduce_scatter)
      largest = std::max(largest, bytes_of(out, most, task.chunk) * task.group.size);
    if (task.op == Op::dispatch) {  // a message from each peer and to each replica, mine included
      const double row = row_bytes(in, most) + row_bytes(s[task.reads[1]], most);
      const double rows = most.stage_rows + most.all.rows * (task.group.size - 1);
      largest = std::max(largest, rows * row + 8.0 * (2 * task.group.size - 1));
    }
    if (task.op == Op::shift && task.reads[0] == task.writes[0])  // one comes while one leaves
      largest = std::max(largest, bytes_of(out, most));
    if (task.op == Op::combine)
      largest = std::max(largest, bytes_of(out, most) * (task.group.size - 1));
  }
  return largest;
}

namespace {

void raise(Load& to, const Load& from) {
  to = {std::max(to.rows, from.rows), std::max(to.history, from.history),
        std::max(to.newest, from.newest)};
}

}  // namespace

StepState maximum(std::span<const StepState> states) {
  StepState most = states.front();
  for (const StepState& s : states.subspan(1)) {
    raise(most.all, s.all);
    for (size_t c = 0; c < most.chunks.size(); ++c) raise(most.chunks[c], s.chunks[c]);
    for (double StepState::*field :
         {&StepState::stage_rows, &StepState::looked_up, &StepState::touched, &StepState::routed,
          &StepState::leaving, &StepState::arrived, &StepState::returning})
      most.*field = std::max(most.*field, s.*field);
  }
  return most;
}

Memory memory(const Schedule& s, const StepState& most) { return memory(s, std::span(&most, 1)); }

Memory memory(const Schedule& s, std::span<const StepState> micro_batches) {
  const StepState most = maximum(micro_batches);
  Memory m;
  m.buffers = workspace_bytes(s, most);
  std::vector<bool> seen(s.tensors.size());
  const auto add = [&](Id id, int layers) {
    if (seen[static_cast<size_t>(id)]) return;
    seen[static_cast<size_t>(id)] = true;
    const Tensor& t = s[id];
    if (t.kind == Kind::weight) m.weights += bytes_of(t, most) * layers;
    if (t.kind == Kind::activation) m.buffers += bytes_of(t, most);
    if (t.kind != Kind::history && t.kind != Kind::state) return;  // one for each micro-batch
    double bytes = 0;
    for (const StepState& micro_batch : micro_batches) bytes += bytes_of(t, micro_batch);
    if (t.kind == Kind::history) m.kv += bytes * layers;
    else m.buffers += bytes;
  };
  for (const Segment& g : s.segments)
    for (int i = g.begin; i < g.end; ++i) {
      const Task& task = s.tasks[static_cast<size_t>(i)];
      for (const Id id : task.reads) add(id, g.layers);
      for (const Id id : task.writes) add(id, g.layers);
    }
  return m;
}

namespace {

// Equal requests need no sums to be cut.
Slice part(std::span<const int64_t> lengths, int64_t parts, int64_t index, bool equal) {
  if (equal) return share(static_cast<int64_t>(lengths.size()), parts, index);
  return cut(lengths, parts)[static_cast<size_t>(index)];
}

// Rows of this rank's replica, their chunks, and what tokens choose on average.
template <class AddRow>
StepState rows_state(const Schedule& s, const Requests& requests, AddRow add_row) {
  StepState state;
  const auto all = requests.lengths;
  const bool equal = std::adjacent_find(all.begin(), all.end(), std::not_equal_to<>()) == all.end();
  const Slice mine = part(all, s.place.l.dp, s.place.dp, equal);
  const auto lengths =
      all.subspan(static_cast<size_t>(mine.first), static_cast<size_t>(mine.count));
  for (int c = 0; c < s.chunks; ++c) {
    const Slice chunk = part(lengths, s.chunks, c, equal);
    Load load;
    if (equal &&
        chunk.count > 0) {  // one for all: the sweeps of `plan` and of the simulator live on it
      add_row(load, lengths.front() + requests.decoded);
      const auto count = static_cast<double>(chunk.count);
      load = {load.rows * count, load.history * count, load.newest * count};
    } else {
      for (const int64_t length :
           lengths.subspan(static_cast<size_t>(chunk.first), static_cast<size_t>(chunk.count)))
        add_row(load, length + requests.decoded);
    }
    state.all.rows += load.rows;
    state.all.history += load.history;
    state.all.newest += load.newest;
    state.chunks.push_back(load);
  }
  state.stage_rows = static_cast<double>(requests.lengths.size());
  return state;
}

double experts_held(const Schedule& s, const Model& m) {
  return static_cast<double>(
      share(m.experts.count, s.place.l.ep, s.place.expert_rank() / s.place.l.tpf).count);
}

}  // namespace

StepState state_of(const Schedule& s, const Model& m, const Requests& requests) {
  const Place& me = s.place;
  StepState state = rows_state(s, requests, [&](Load& load, int64_t length) {
    load.rows += 1;
    load.history += static_cast<double>(local_length(length, requests.interval, me.l.kvp, me.kvp));
    load.newest += owner(length, requests.interval, me.l.kvp) == me.kvp ? 1 : 0;
  });
  const auto words =
      static_cast<double>(rows_of(m.vocabulary, me.l.stage_ranks(), me.in_stage()).count);
  state.looked_up = state.stage_rows * words / static_cast<double>(m.vocabulary);
  if (m.experts.count == 0) return state;
  const double held = experts_held(s, m);
  const double chance =
      static_cast<double>(m.experts.chosen) / static_cast<double>(m.experts.count);
  const double tokens =
      me.l.ffn == Ffn::replica || me.l.dp == 1 ? state.all.rows : state.stage_rows;
  state.routed = tokens * chance * held;
  state.touched = held * (1 - std::pow(1 - chance, tokens));
  if (me.l.moe == Moe::dispatch) {
    double none = 1;  // that a token chooses no expert of a rank
    for (int64_t i = 0; i < m.experts.chosen; ++i)
      none *= std::max(0.0, 1 - held / static_cast<double>(m.experts.count - i));
    state.leaving = state.all.rows * (me.l.dp - 1) * (1 - none);
    state.arrived = state.stage_rows * (1 - none);
    state.returning = (state.stage_rows - state.all.rows) * (1 - none);
  }
  return state;
}

StepState capacity_of(const Schedule& s, const Model& m, const Requests& requests, int64_t steps) {
  const Place& me = s.place;
  StepState state = rows_state(s, requests, [&](Load& load, int64_t length) {
    const int64_t held = local_length(length + steps, requests.interval, me.l.kvp, me.kvp);
    load.rows += 1;
    load.history += static_cast<double>(room_for(held, requests.interval, requests.kv_layout));
    load.newest += 1;
  });
  state.looked_up =
      static_cast<double>(rows_of(m.vocabulary, me.l.stage_ranks(), me.in_stage()).count);
  if (m.experts.count == 0) return state;
  state.touched = experts_held(s, m);
  const bool replica_only = me.l.ffn == Ffn::replica || me.l.dp == 1;
  state.arrived = state.stage_rows;
  state.leaving = state.all.rows * (me.l.dp - 1);
  state.returning = state.stage_rows - state.all.rows;
  state.routed = (replica_only ? state.all.rows : state.stage_rows) *
                 std::min(state.touched, static_cast<double>(m.experts.chosen));
  return state;
}

std::vector<StepState> capacities_of(const Schedule& s, const Model& m, const Requests& batch,
                                     int64_t steps) {
  std::vector<StepState> capacities;
  for (const Slice& part : cut(batch.lengths, s.place.l.pp)) {
    const auto lengths =
        batch.lengths.subspan(static_cast<size_t>(part.first), static_cast<size_t>(part.count));
    Requests micro_batch = batch;
    micro_batch.lengths = lengths;
    capacities.push_back(capacity_of(s, m, micro_batch, steps));
  }
  return capacities;
}

}  // namespace helix
