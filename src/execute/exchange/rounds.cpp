#include "execute/exchange/rounds.h"

#include "base/error.h"

namespace helix {

namespace {

class Planner {
 public:
  Planner(const Schedule& schedule, const Store& store, const Task& task)
      : schedule_(schedule),
        store_(store),
        task_(task),
        in_(task.reads[0]),
        out_(task.writes[0]),
        from_(store.bytes(in_, task.chunk).data()),
        to_(store.activation(out_, task.chunk)) {}

  std::vector<Round> all_to_all() const;
  std::vector<Round> all_gather() const;
  std::vector<Round> reduce_scatter() const;
  std::vector<Round> all_reduce() const;

 private:
  int size() const { return task_.group.size; }
  int peer(int i) const { return task_.group.first + i * task_.group.stride; }
  Fill rows(Id id) const { return schedule_[id].dims[0].fill; }
  int64_t values(Id id) const {
    return static_cast<int64_t>(volume(schedule_[id], store_.capacity(), task_.chunk));
  }
  int64_t bytes(Id id) const { return values(id) * element(id); }
  int64_t element(Id id) const { return static_cast<int64_t>(schedule_[id].bytes); }
  int64_t row_bytes(Id id) const {
    return static_cast<int64_t>(store_.array(id, task_.chunk, store_.capacity()).width) *
           element(id);
  }

  const Schedule& schedule_;
  const Store& store_;
  const Task& task_;
  Id in_;
  Id out_;
  const std::byte* from_;
  std::byte* to_;
};

std::vector<Round> Planner::all_to_all() const {
  const int64_t bytes = store_.message(out_, task_.chunk).bytes();
  Round round;
  for (int i = 0; i < size(); ++i)
    round.messages.push_back({peer(i), from_ + i * bytes, bytes, to_ + i * bytes, bytes});
  return {round};
}

// Rows of all replicas, heads of each row, or a leading axis of ranks.
std::vector<Round> Planner::all_gather() const {
  const int64_t mine = bytes(in_);
  const int64_t narrow = row_bytes(in_);
  Round round;
  for (int i = 0; i < size(); ++i) {
    if (rows(in_) == Fill::rows && rows(out_) == Fill::stage_rows) {
      const Slice theirs = store_.replicas()[static_cast<size_t>(i)];
      round.messages.push_back(
          {peer(i), from_, mine, to_ + theirs.first * narrow, theirs.count * narrow});
    } else if (rows(in_) == rows(out_)) {
      for (int64_t row = 0; row < mine / std::max<int64_t>(narrow, 1); ++row)
        round.messages.push_back({peer(i), from_ + row * narrow, narrow,
                                  to_ + row * row_bytes(out_) + i * narrow, narrow});
    } else {
      round.messages.push_back({peer(i), from_, mine, to_ + i * mine, mine});
    }
  }
  return {round};
}

std::vector<Round> Planner::reduce_scatter() const {
  const int64_t mine = bytes(out_);
  std::byte* const summands = store_.workspace();
  Round round;
  for (int i = 0; i < size(); ++i) {
    if (rows(in_) == Fill::stage_rows && rows(out_) == Fill::rows) {
      const Slice theirs = store_.replicas()[static_cast<size_t>(i)];
      const int64_t row = row_bytes(in_);
      round.messages.push_back(
          {peer(i), from_ + theirs.first * row, theirs.count * row, summands + i * mine, mine});
      continue;
    }
    const int64_t narrow = row_bytes(out_);
    for (int64_t row = 0; row < mine / std::max<int64_t>(narrow, 1); ++row)
      round.messages.push_back({peer(i), from_ + row * row_bytes(in_) + i * narrow, narrow,
                                summands + i * mine + row * narrow, narrow});
  }
  round.sum = {size(), values(out_), summands, to_};
  return {round};
}

// Each rank sums its share, and all gather the shares.
std::vector<Round> Planner::all_reduce() const {
  const int64_t all = values(in_);
  const int64_t each = element(in_);
  const Slice mine = share(all, size(), task_.group.index);
  std::byte* const summands = store_.workspace();
  Round scatter;
  Round gather;
  for (int i = 0; i < size(); ++i) {
    const Slice theirs = share(all, size(), i);
    scatter.messages.push_back({peer(i), from_ + theirs.first * each, theirs.count * each,
                                summands + i * mine.count * each, mine.count * each});
    if (i != task_.group.index)
      gather.messages.push_back({peer(i), to_ + mine.first * each, mine.count * each,
                                 to_ + theirs.first * each, theirs.count * each});
  }
  scatter.sum = {size(), mine.count, summands, to_ + mine.first * each};
  return {scatter, gather};
}

}  // namespace

std::vector<Round> rounds_of(const Schedule& schedule, const Store& store, const Task& task) {
  const Planner planner(schedule, store, task);
  switch (task.op) {
    case Op::all_to_all: return planner.all_to_all();
    case Op::all_gather: return planner.all_gather();
    case Op::reduce_scatter: return planner.reduce_scatter();
    case Op::all_reduce: return planner.all_reduce();
    default:
      throw RunError("no rounds of messages for '" + std::string(row_of(task.op).name) + "'");
  }
}

}  // namespace helix
