#include "execute/cuda/travellers.h"

#include "execute/routing.h"
#include "execute/types.h"

namespace helix::cuda {

namespace {

bool travels(const Task& task) { return task.op == Op::dispatch || task.op == Op::combine; }

// Of a message with room for so many rows; what returns are rows alone.
int64_t message_bytes(const Task& task, const Travel& travel, int64_t rows) {
  return task.op == Op::dispatch ? travel.message_bytes(rows) : rows * 4 * travel.row_words;
}

}  // namespace

void Travellers::prepare(const Task& task, int64_t* met) {
  if (!travels(task)) return;
  const Place& me = schedule_.place;
  met_.resize(static_cast<size_t>(me.l.pp));
  met_[static_cast<size_t>(store_.now_index())] = met;
  if (counts_.count() > 0) return;
  int64_t rows = 0;
  for (int i = 0; i < me.l.pp; ++i)
    rows = std::max(rows, store_.micro_batch(i).replicas[static_cast<size_t>(me.dp)].count);
  counts_ = Buffer<int32_t>(me.l.dp + 1);
  slots_ = Buffer<int32_t>(std::max<int64_t>(1, me.l.dp * rows));
}

// Where messages stand in the workspace: those that come, one after another, then those that go.
Travel Travellers::travel_of(const Task& task) const {
  const Place& me = schedule_.place;
  const bool leaving = task.op == Op::dispatch;
  Travel travel{
      .peers = task.group.size,
      .me = task.group.index,
      .chosen = static_cast<int>(work_.model->experts.chosen),
      .row_words = static_cast<int>(
          work_.model->hidden * static_cast<int64_t>(bytes_of(work_.precision.activations)) / 4),
      .slots = slots_.data(),
      .received = counts_.data(),
      .arrived = counts_.data() + task.group.size,
      .met = met_[static_cast<size_t>(store_.now_index())]};
  for (int i = 0; i < travel.peers; ++i) {
    travel.rows[i] = static_cast<int32_t>(store_.replicas()[static_cast<size_t>(i)].count);
    travel.experts[i] = experts_of(me, work_.model->experts.count, i);
  }
  std::byte* at = store_.workspace();
  for (int i = 0; i < travel.peers; ++i) {
    if (i == travel.me && !leaving) continue;  // what stayed is read where it stands
    travel.from[i] = at;
    at += message_bytes(task, travel, travel.rows[leaving ? i : travel.me]);
  }
  for (int i = 0; i < travel.peers; ++i) {
    if (i == travel.me) continue;
    travel.to[i] = at;
    at += message_bytes(task, travel, travel.rows[leaving ? travel.me : i]);
  }
  travel.to[travel.me] = travel.from[travel.me];
  return travel;
}

std::vector<Round> Travellers::rounds(const Task& task) const {
  if (!travels(task)) return rounds_of(schedule_, store_, task);
  const Travel travel = travel_of(task);
  const bool leaving = task.op == Op::dispatch;
  const int64_t mine = message_bytes(task, travel, travel.rows[travel.me]);
  Round round;
  for (int i = 0; i < travel.peers; ++i) {
    if (i == travel.me) continue;
    const int64_t theirs = message_bytes(task, travel, travel.rows[i]);
    round.messages.push_back({task.group.first + i * task.group.stride, travel.to[i],
                              leaving ? mine : theirs, travel.from[i], leaving ? theirs : mine});
  }
  return {round};
}

bool Travellers::pack(const Task& task, const Launch& how) const {
  if (!travels(task)) return false;
  const std::byte* const x = store_.activation(task.reads[0], all_chunks);
  if (task.op == Op::combine) {
    pack_returning(travel_of(task), x, how);
  } else {
    pack_travellers(travel_of(task), x,
                    reinterpret_cast<const Choice*>(store_.activation(task.reads[1], all_chunks)),
                    how);
  }
  return true;
}

bool Travellers::unpack(const Task& task, const Launch& how) const {
  if (!travels(task)) return false;
  std::byte* const out = store_.activation(task.writes[0], all_chunks);
  if (task.op == Op::dispatch) {
    unpack_travellers(travel_of(task), out,
                      reinterpret_cast<Choice*>(store_.activation(task.writes[1], all_chunks)),
                      how);
    return true;
  }
  with_type(work_.precision.activations, [&]<class A>(A*) {
    sum_returned(travel_of(task),
                 reinterpret_cast<const A*>(store_.activation(task.reads[0], all_chunks)),
                 reinterpret_cast<A*>(out), how);
  });
  return true;
}

}  // namespace helix::cuda
