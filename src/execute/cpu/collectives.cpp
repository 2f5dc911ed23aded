#include "execute/cpu/collectives.h"

#include <cstring>

#include "base/error.h"
#include "kernels/cpu/elementwise.h"

namespace helix::cpu {

Collectives::Collectives(MPI_Comm ranks, const Schedule& schedule, const Store& store,
                         const Assignment& work)
    : schedule_(schedule),
      store_(store),
      activations_(work.precision.activations),
      experts_(work.model->experts.count),
      ranks_(Communicator::duplicate(ranks)),
      groups_(ranks_.get(), schedule.place) {}

void Collectives::barrier() const { HELIX_MPI(MPI_Barrier(ranks_.get())); }

bool Collectives::stage_agrees(bool mine) const {
  const Group g = schedule_.place.stage();
  int all = mine ? 1 : 0;
  if (g.size > 1) HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, groups_.of(g)));
  return all == 1;
}

MPI_Comm Collectives::group(const Task& task) const { return groups_.of(task.group); }

int64_t Collectives::values(Id id, int chunk) const {
  return static_cast<int64_t>(volume(schedule_[id], store_.capacity(), chunk));
}
int64_t Collectives::element(Id id) const { return static_cast<int64_t>(schedule_[id].bytes); }

bool Collectives::progress(const Task& task, bool wait) {
  auto& flight = in_flight_[&task];
  if (!flight) {
    flight = std::make_unique<InFlight>();
    if (!next_round(task, flight->pending)) return flight.reset(), true;
  }
  while (flight->pending.done(wait)) {
    ++flight->pending.phase;
    if (!next_round(task, flight->pending)) return flight.reset(), true;
  }
  return false;
}

bool Collectives::next_round(const Task& task, Pending& pending) {
  switch (task.op) {
    case Op::all_to_all: return all_to_all(task, pending);
    case Op::all_reduce: return all_reduce(task, pending);
    case Op::all_gather: return all_gather(task, pending);
    case Op::reduce_scatter: return reduce_scatter(task, pending);
    case Op::dispatch: return dispatch(task, pending);
    case Op::combine: return combine(task, pending);
    case Op::shift: return shift(task, pending);
    default:
      throw RunError("the CPU executor has no exchange '" + std::string(row_of(task.op).name) +
                     "' yet");
  }
}

namespace {

Counts equal_counts(int ranks, int64_t count, int64_t stride) {
  Counts c;
  for (int i = 0; i < ranks; ++i) {
    c.send.push_back(count_of(count));
    c.send_at.push_back(count_of(stride * i));
  }
  c.receive = c.send;
  c.receive_at = c.send_at;
  return c;
}

}  // namespace

// One message to each peer: its heads of my partial outputs, and their log-sum-exps.
bool Collectives::all_to_all(const Task& task, Pending& pending) {
  if (pending.phase > 0) return false;
  const int64_t bytes = store_.message(task.writes[0], task.chunk).bytes();
  Counts& c = in_flight_[&task]->counts = equal_counts(task.group.size, bytes, bytes);
  HELIX_MPI(MPI_Ialltoallv(store_.activation(task.reads[0], task.chunk), c.send.data(),
                           c.send_at.data(), MPI_BYTE,
                           store_.activation(task.writes[0], task.chunk), c.receive.data(),
                           c.receive_at.data(), MPI_BYTE, group(task), pending.request()));
  return true;
}

Collectives::Shares Collectives::shares(const Task& task) const {
  Shares result;
  const int64_t all = values(task.reads[0], task.chunk);
  for (int i = 0; i < task.group.size; ++i) {
    const Slice part = share(all, task.group.size, i);
    result.count.push_back(part.count);
    result.first.push_back(part.first);
  }
  return result;
}

void Collectives::sum(const Task& task, int64_t count, std::byte* out) {
  const auto add = [&]<class T>(T*) {
    std::vector<const T*> from;
    from.reserve(static_cast<size_t>(task.group.size));
    for (int i = 0; i < task.group.size; ++i)
      from.push_back(reinterpret_cast<T*>(store_.workspace()) + i * count);
    sum_in_order(task.group.size, count, from.data(), reinterpret_cast<T*>(out));
  };
  activations_ == Format::bf16 ? add(static_cast<bf16*>(nullptr))
                               : add(static_cast<float*>(nullptr));
}

bool Collectives::all_reduce(const Task& task, Pending& pending) {
  if (pending.phase > 1) return false;
  const int64_t bytes = element(task.reads[0]);
  const Shares s = shares(task);
  const auto mine = static_cast<size_t>(task.group.index);
  std::byte* out = store_.activation(task.writes[0], task.chunk);
  Counts& c = in_flight_[&task]->counts = {};
  for (size_t i = 0; i < s.count.size(); ++i) {
    c.send.push_back(count_of(s.count[i] * bytes));
    c.send_at.push_back(count_of(s.first[i] * bytes));
    c.receive.push_back(count_of(s.count[mine] * bytes));
    c.receive_at.push_back(count_of(s.count[mine] * bytes * static_cast<int64_t>(i)));
  }
  if (pending.phase == 0) {
    HELIX_MPI(MPI_Ialltoallv(store_.activation(task.reads[0], task.chunk), c.send.data(),
                             c.send_at.data(), MPI_BYTE, store_.workspace(), c.receive.data(),
                             c.receive_at.data(), MPI_BYTE, group(task), pending.request()));
    return true;
  }
  sum(task, s.count[mine], out + s.first[mine] * bytes);
  HELIX_MPI(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_BYTE, out, c.send.data(), c.send_at.data(),
                            MPI_BYTE, group(task), pending.request()));
  return true;
}

// [rows][wide][D] in one rank's heads: `narrow` of them in each row.
const BlockType& Collectives::heads_type(const Task& task, Id wide, Id narrow) {
  auto [at, made] = types_.try_emplace({&task, store_.now_index()});
  if (made) {
    const int64_t rows = store_.rows(task.chunk);
    at->second = BlockType(rows, values(narrow, task.chunk) / rows * element(narrow),
                           values(wide, task.chunk) / rows * element(wide));
  }
  return at->second;
}

// Rows of all replicas, one after another: as many as each has.
void Collectives::replica_counts(int64_t row_bytes, std::vector<int>& counts,
                                 std::vector<int>& at) const {
  counts.clear();
  at.clear();
  for (const Slice& part : store_.replicas()) {
    counts.push_back(count_of(part.count * row_bytes));
    at.push_back(count_of(part.first * row_bytes));
  }
}

int64_t Collectives::row_bytes(Id id) const {
  int64_t values = 1;
  for (size_t axis = 1; axis < 4; ++axis)
    values *= static_cast<int64_t>(extent(schedule_[id].dims[axis], store_.capacity(), all_chunks));
  return values * element(id);
}

bool Collectives::all_gather(const Task& task, Pending& pending) {
  if (pending.phase > 0) return false;
  const Id in = task.reads[0];
  const Id out = task.writes[0];
  const Fill in_rows = schedule_[in].dims[0].fill;
  const Fill out_rows = schedule_[out].dims[0].fill;
  const std::byte* from = store_.activation(in, task.chunk);
  // Log-sum-exps stand behind the outputs that they belong to.
  if (store_.holder(in) != in)
    from += store_.message(store_.holder(in), task.chunk).outputs_bytes();
  const int64_t bytes = values(in, task.chunk) * element(in);
  Counts& c = in_flight_[&task]->counts = equal_counts(task.group.size, bytes, bytes);
  MPI_Datatype type = MPI_BYTE;
  if (in_rows == Fill::rows && out_rows == Fill::stage_rows) {
    replica_counts(row_bytes(in), c.receive, c.receive_at);
  } else if (in_rows == out_rows && store_.rows(task.chunk) > 0) {  // heads
    c = equal_counts(task.group.size, 1, 1);
    type = heads_type(task, out, in).get();
  }
  HELIX_MPI(MPI_Iallgatherv(from, count_of(bytes), MPI_BYTE, store_.activation(out, task.chunk),
                            c.receive.data(), c.receive_at.data(), type, group(task),
                            pending.request()));
  return true;
}

bool Collectives::reduce_scatter(const Task& task, Pending& pending) {
  const Id in = task.reads[0];
  const Id out = task.writes[0];
  const int64_t mine = values(out, task.chunk);
  if (pending.phase == 1) sum(task, mine, store_.activation(out, task.chunk));
  if (pending.phase > 0) return false;
  Counts& c = in_flight_[&task]->counts =
      equal_counts(task.group.size, mine * element(in), mine * element(in));
  MPI_Datatype type = MPI_BYTE;
  if (schedule_[in].dims[0].fill == Fill::stage_rows) {
    replica_counts(row_bytes(in), c.send, c.send_at);
  } else if (store_.rows(task.chunk) > 0) {  // heads
    type = heads_type(task, in, out).get();
    c.send.assign(c.send.size(), 1);
    for (size_t i = 0; i < c.send_at.size(); ++i) c.send_at[i] = static_cast<int>(i);
  }
  HELIX_MPI(MPI_Ialltoallv(store_.activation(in, task.chunk), c.send.data(), c.send_at.data(), type,
                           store_.workspace(), c.receive.data(), c.receive_at.data(), MPI_BYTE,
                           group(task), pending.request()));
  return true;
}

// Hidden states go to the next stage, tokens from the last to the first; at the same time the next
// micro-batch comes from the stage before. Where both are one buffer, it comes by way of the
// workspace.
bool Collectives::shift(const Task& task, Pending& pending) {
  const Place& me = schedule_.place;
  const Id out = task.writes[0];
  const bool in_place = task.reads[0] == out;
  const StepState& next = store_.micro_batch(shift_.receives).most;
  const auto bytes = static_cast<int64_t>(bytes_of(schedule_[out], next));
  std::byte* to = store_.activation_of(shift_.receives, out);
  if (pending.phase > 0) {
    if (shift_.receive && in_place) std::memcpy(to, store_.workspace(), static_cast<size_t>(bytes));
    return false;
  }
  if (shift_.receive) {
    const int from = (me.rank() - me.l.stage_ranks() + me.l.ranks()) % me.l.ranks();
    HELIX_MPI(MPI_Irecv(in_place ? store_.workspace() : to, count_of(bytes), MPI_BYTE, from, 0,
                        ranks_.get(), pending.request()));
  }
  if (shift_.send)
    HELIX_MPI(MPI_Isend(store_.activation(task.reads[0], all_chunks),
                        count_of(values(task.reads[0], all_chunks) * element(task.reads[0])),
                        MPI_BYTE, task.group.first, 0, ranks_.get(), pending.request()));
  return true;
}

}  // namespace helix::cpu
