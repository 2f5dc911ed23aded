#include "execute/exchange/stand_in.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/random.h"
#include "execute/routing.h"

namespace helix {

namespace {

template <class T>
void append(std::vector<std::byte>& to, const T& value) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof value);
}

struct Best {
  float value;
  int32_t word;
};

// Different experts of `count`, ascending.
std::vector<int32_t> choose(int64_t count, int64_t chosen, uint64_t stream) {
  std::vector<int32_t> experts(static_cast<size_t>(count));
  std::iota(experts.begin(), experts.end(), 0);
  for (size_t i = 0; i < static_cast<size_t>(chosen); ++i)
    std::swap(experts[i], experts[i + combine(stream, i) % (experts.size() - i)]);
  experts.resize(static_cast<size_t>(chosen));
  std::ranges::sort(experts);
  return experts;
}

bool any_of_them(const std::vector<int32_t>& chosen, const Slice& experts) {
  return std::ranges::any_of(chosen, [&](int32_t expert) {
    return expert >= experts.first && expert < experts.first + experts.count;
  });
}

}  // namespace

StandIn::Travellers StandIn::travellers() const {
  const Place& me = schedule_.place;
  const Experts& e = work_.model->experts;
  Travellers found;
  for (int replica = 0; replica < me.l.dp; ++replica) {
    const Slice rows = store_.replicas()[static_cast<size_t>(replica)];
    for (int64_t row = rows.first; row < rows.first + rows.count; ++row) {
      const auto given = given_choice(work_, static_cast<int>(work_.model->dense_layers), row);
      const std::vector<int32_t> chosen =
          given.empty() ? choose(e.count, e.chosen, combine(work_.seed, static_cast<uint64_t>(row)))
                        : std::vector<int32_t>(given.begin(), given.end());
      for (int peer = 0; peer < me.l.dp && replica == me.dp; ++peer)
        found.leaving +=
            peer != me.dp && any_of_them(chosen, experts_of(me, e.count, peer)) ? 1 : 0;
      if (!any_of_them(chosen, experts_of(me, e.count, me.dp))) continue;
      ++found.rows;
      found.returning += replica != me.dp ? 1 : 0;
      for (const int32_t expert : chosen)
        append(found.choices, cpu::Choice{expert, 1 / static_cast<float>(e.chosen)});
    }
  }
  return found;
}

void StandIn::observe(StepState& state) const {
  const Travellers met = travellers();
  state.leaving = static_cast<double>(met.leaving);
  state.arrived = static_cast<double>(met.rows);
  state.returning = static_cast<double>(met.returning);
}

bool StandIn::overwritten(Id id) const {
  if (schedule_.place.l.pp > 1) return true;  // by what another micro-batch receives
  return std::ranges::any_of(schedule_.tasks, [&](const Task& task) {
    return !communicates(task.op) &&
           std::find(task.writes.begin(), task.writes.end(), id) != task.writes.end();
  });
}

std::vector<std::byte> StandIn::draw(const Task& task, Id id) const {
  if (schedule_[id].bytes == 8 && task.op == Op::dispatch) return travellers().choices;
  const Tensor& t = schedule_[id];
  size_t bytes = store_.bytes(id, task.chunk).size();
  if (task.op == Op::shift)  // for the micro-batch that comes next
    for (int i = 0; i < schedule_.place.l.pp; ++i)
      bytes = std::max(bytes, static_cast<size_t>(bytes_of(t, store_.micro_batch(i).most)));
  const uint64_t stream =
      combine(combine(work_.seed, static_cast<uint64_t>(&task - schedule_.tasks.data())),
              static_cast<uint64_t>(id));
  // Of messages with their log-sum-exps behind them: the outputs of one.
  const size_t part =
      store_.in_messages(id) ? static_cast<size_t>(store_.message(id, task.chunk).bytes()) : bytes;
  const size_t outputs = store_.in_messages(id)
                             ? static_cast<size_t>(store_.message(id, task.chunk).outputs_bytes())
                             : bytes;
  const auto words = static_cast<uint64_t>(work_.model->vocabulary);
  std::vector<std::byte> drawn;
  drawn.reserve(bytes);
  for (uint64_t i = 0; drawn.size() < bytes; ++i) {
    const float value = uniform_at(stream, i);
    const auto word = static_cast<int32_t>(combine(stream, i) % words);
    if (t.bytes == 8) append(drawn, Best{value, word});
    else if (t.bytes == 2 && drawn.size() % part < outputs) append(drawn, to_bf16(value));
    else append(drawn, value);
  }
  return drawn;
}

std::optional<OwnPart> StandIn::own_part(const Task& task) const {
  const Id out = task.writes[0];
  if (task.op != Op::all_gather || schedule_[out].dims[0].fill != Fill::fixed) return std::nullopt;
  const std::span<std::byte> mine = store_.bytes(task.reads[0], task.chunk);
  return OwnPart{mine, store_.activation(out, task.chunk) + task.group.index * std::ssize(mine)};
}

std::vector<Received> StandIn::receive(const Task& task) const {
  std::vector<Received> received;
  for (const Id id : task.writes) {
    if (schedule_[id].kind == Kind::state) continue;  // the same tokens again
    if (store_.holder(id) != id) continue;            // stands in the messages of its outputs
    received.push_back({store_.activation(id, task.chunk), draw(task, id), overwritten(id)});
  }
  return received;
}

}  // namespace helix
