// Kernels of our own on peer-mapped memory: partial outputs are merged as they arrive, a sum gets
// its residual and norm by the kernel that received it, and any other collective is one kernel.
// Shifts between stages are staged through the host.
#include <algorithm>
#include <exception>
#include <map>
#include <utility>

#include "base/error.h"
#include "execute/cuda/peers.h"
#include "execute/cuda/travellers.h"
#include "execute/exchange/groups.h"
#include "execute/types.h"
#include "kernels/cuda/elementwise.h"

namespace helix::cuda {

namespace {

constexpr int64_t widest_sum = 32768;  // values of a row that all_reduce_norm takes
// Of a message that one warp carries: as many words as it has under way at once.
constexpr int64_t parcel_bytes = 1024;

class FusedExchange final : public Exchange {
 public:
  FusedExchange(MPI_Comm ranks, const Schedule& schedule, const Store& store,
                const Assignment& work, const FusedPlace& place);
  ~FusedExchange() override;

  bool captures(const Task& task) const override { return task.op != Op::shift; }
  void prepare(const Task& task, int64_t* met) override;
  bool run(const Task& task, const Launch& how) override;
  bool fuses(const Task& task, const Task& next) const override;
  void run_both(const Task& task, const Task& next, int layer, const Launch& how) override;
  void plan(const Shift& shift) override { staged_->plan(shift); }
  const int32_t* arrived() const override { return travellers_.arrived(); }
  void check() const override {
    for (const auto& [key, channel] : channels_) channel.check();
  }
  void stage_barrier() const override { staged_->stage_barrier(); }
  void barrier() const override { staged_->barrier(); }
  std::string_view peer_memory() const override { return memory_ ? memory_->name() : ""; }

 private:
  struct Ready {  // a round's parcels on the card
    Buffer<Parcel> parcels;
    std::optional<RankSum> sum;
  };
  using Key = std::tuple<int, int, int, Lane>;  // a group's size, first and stride
  static Key key_of(const Task& task) {
    return {task.group.size, task.group.first, task.group.stride, task.lane};
  }
  Room room_of(const Task& task, const StepState& most) const;
  bool sums_rows(const Task& task) const;
  Way way_of(const Task& task, const Array& y) const {
    return best_way(blocks_of(task), task.group.size, y.rows, y.width,
                    static_cast<int64_t>(bytes_of(work_.precision.activations)));
  }
  const Channel& channel(const Task& task) const { return channels_.at(key_of(task)).channel(); }
  int blocks_of(const Task& task) const {
    return runs_beside(schedule_, task) ? blocks_beside_ : blocks_;
  }
  Launch with_blocks(Launch how, const Task& task) const {
    how.blocks = blocks_of(task);
    return how;
  }

  const Schedule& schedule_;
  const Store& store_;
  const Assignment& work_;
  int blocks_, blocks_beside_;
  Groups groups_;
  Travellers travellers_;
  std::unique_ptr<Exchange> staged_;
  std::unique_ptr<PeerMemory> memory_;  // all channels' inboxes
  std::map<Key, PeerChannel> channels_;
  std::map<std::pair<const Task*, int>, std::vector<Ready>> ready_;  // a micro-batch
};

FusedExchange::FusedExchange(MPI_Comm ranks, const Schedule& schedule, const Store& store,
                             const Assignment& work, const FusedPlace& place)
    : schedule_(schedule),
      store_(store),
      work_(work),
      blocks_(place.blocks),
      blocks_beside_(place.blocks_beside),
      groups_(ranks, schedule.place),
      travellers_(schedule, store, work),
      staged_(make_mpi_exchange(ranks, schedule, store, work)) {
  const Requests batch{work.lengths, work.interval};
  const StepState most = maximum(capacities_of(schedule, *work.model, batch, work.steps));
  std::map<Key, std::pair<Group, Room>> rooms;  // in the same order on every rank of a group
  for (const Task& task : schedule.tasks) {
    if (!communicates(task.op) || !captures(task)) continue;
    auto& [group, room] = rooms[key_of(task)];
    group = task.group;
    room = larger(room, room_of(task, most));
  }
  int64_t inboxes = 0;
  for (auto& [key, needed] : rooms) {
    auto& [group, room] = needed;
    std::array<int64_t, 2> most_bytes = {room.words, room.pieces};
    HELIX_MPI(
        MPI_Allreduce(MPI_IN_PLACE, most_bytes.data(), 2, MPI_INT64_T, MPI_MAX, groups_.of(group)));
    room = helix::cuda::room_of(most_bytes[0], most_bytes[1]);
    inboxes += inbox_bytes(group.size, room);
  }
  memory_ = make_peer_memory(ranks, inboxes, place.own_card);
  for (const auto& [key, needed] : rooms)
    channels_.try_emplace(key, groups_.of(needed.first), *memory_, needed.second, place.own_card,
                          place.patience_s);
}

// Memory is given back when no peer maps it any more; after an error nobody waits for that.
FusedExchange::~FusedExchange() {
  if (std::uncaught_exceptions() > 0) return;
  if (memory_) memory_->unmap();
  staged_->barrier();
}

// For what goes from one member to another, at most: parcels may be rounded up, one a row. What is
// long travels in pieces, but in parcels where somebody looks at what stands between two tasks.
Room FusedExchange::room_of(const Task& task, const StepState& most) const {
  const auto bytes = [&](Id id) {
    return static_cast<int64_t>(bytes_of(schedule_[id], most, task.chunk));
  };
  const int64_t rounding = 8 * (2 + static_cast<int64_t>(std::max(most.stage_rows, most.all.rows)));
  switch (task.op) {
    case Op::all_to_all: {
      int64_t all = 0;
      for (const Id id : task.writes) all += bytes(id);
      all /= task.group.size;
      return {all + rounding, all};
    }
    case Op::reduce_scatter:
    case Op::combine: return {bytes(task.writes[0]) + rounding};
    case Op::dispatch: return {bytes(task.reads[0]) + bytes(task.reads[1]) + rounding};
    // Of a row's owner: a share and its sum for each member.
    case Op::all_reduce:
      return {2 * bytes(task.reads[0]) + 32 * rounding, 2 * bytes(task.reads[0])};
    default: return {bytes(task.reads[0]) + rounding};
  }
}

bool FusedExchange::sums_rows(const Task& task) const {
  if (task.op != Op::all_reduce) return false;
  const int64_t width = store_.array(task.reads[0], task.chunk, store_.capacity()).width;
  return width % 4 == 0 && width <= widest_sum;
}

void FusedExchange::prepare(const Task& task, int64_t* met) {
  const auto [at, made] = ready_.try_emplace({&task, store_.now_index()});
  if (!made || sums_rows(task)) return;
  travellers_.prepare(task, met);
  for (const Round& round : travellers_.rounds(task)) {
    std::vector<Parcel> parcels;
    std::vector<int32_t> put_at(static_cast<size_t>(task.group.size), 1);
    std::vector<int32_t> take_at = put_at;
    for (const Message& m : round.messages) {
      const int member = (m.peer - task.group.first) / task.group.stride;
      const auto i = static_cast<size_t>(member);
      for (int64_t at = 0; at < std::max(m.from_bytes, m.to_bytes); at += parcel_bytes) {
        const int64_t from = std::clamp<int64_t>(m.from_bytes - at, 0, parcel_bytes);
        const int64_t to = std::clamp<int64_t>(m.to_bytes - at, 0, parcel_bytes);
        parcels.push_back({m.from + at, m.to + at, static_cast<int32_t>(from),
                           static_cast<int32_t>(to), member, put_at[i], take_at[i]});
        put_at[i] += parcel_words(from);
        take_at[i] += parcel_words(to);
      }
    }
    at->second.push_back({Buffer<Parcel>(std::span<const Parcel>(parcels)), round.sum});
  }
}

bool FusedExchange::run(const Task& task, const Launch& how) {
  if (!captures(task)) return staged_->run(task, how);
  const Launch mine = with_blocks(how, task);
  const Array y = store_.array(task.reads[0], task.chunk, store_.capacity());
  if (sums_rows(task)) {
    if (y.rows == 0) return false;
    with_type(work_.precision.activations, [&]<class A>(A*) {
      all_reduce_norm<A>(channel(task), way_of(task, y), static_cast<int>(y.rows),
                         static_cast<int>(y.width), y.as<const A>(), nullptr, {}, 0,
                         reinterpret_cast<A*>(store_.activation(task.writes[0], task.chunk)), mine);
    });
    return true;
  }
  travellers_.pack(task, how);
  for (const Ready& round : ready_.at({&task, store_.now_index()})) {
    exchange_parcels(channel(task), static_cast<int>(round.parcels.count()), round.parcels.data(),
                     mine);
    if (!round.sum) continue;
    with_type(work_.precision.activations, [&]<class A>(A*) {
      const RankSum& sum = *round.sum;
      sum_in_order(sum.parts, sum.count, sum.count, reinterpret_cast<const A*>(sum.from),
                   reinterpret_cast<A*>(sum.out), {how.stream, 0, true});
    });
  }
  travellers_.unpack(task, {how.stream, how.blocks, true});
  return true;
}

bool FusedExchange::fuses(const Task& task, const Task& next) const {
  if (task.lane != next.lane || task.chunk != next.chunk) return false;
  if (task.op == Op::all_to_all && next.op == Op::merge)
    return schedule_[task.writes[0]].dims[2].mine.count % 4 == 0;
  return task.op == Op::all_reduce && next.op == Op::add_norm && next.reads[1] == task.writes[0] &&
         sums_rows(task);
}

void FusedExchange::run_both(const Task& task, const Task& next, int layer, const Launch& how) {
  const Launch mine = with_blocks(how, task);
  const Array in = store_.array(task.reads[0], task.chunk, store_.capacity());
  const Array out = store_.array(next.writes[0], next.chunk, store_.capacity());
  if (in.rows == 0) return;
  if (task.op == Op::all_to_all)
    return with_type(work_.precision.activations, [&]<class A>(A*) {
      const PartialLayout part = store_.message(task.writes[0], task.chunk);
      exchange_merge(channel(task), best_way(mine.blocks, part), part, in.data, out.as<A>(), mine);
    });
  const Id w = next.reads[2];
  const Stored gains{store_.weight(w, layer), out.width,
                     format_of(work_.precision, schedule_[w].weight)};
  with_type(work_.precision.activations, [&]<class A>(A*) {
    all_reduce_norm(channel(task), way_of(task, in), static_cast<int>(in.rows),
                    static_cast<int>(in.width), in.as<const A>(),
                    reinterpret_cast<A*>(store_.activation(next.reads[0], next.chunk)), gains,
                    static_cast<float>(work_.model->norm_eps), out.as<A>(), mine);
  });
}

}  // namespace

std::unique_ptr<Exchange> make_fused_exchange(MPI_Comm ranks, const Schedule& schedule,
                                              const Store& store, const Assignment& work,
                                              const FusedPlace& place) {
  return std::make_unique<FusedExchange>(ranks, schedule, store, work, place);
}

}  // namespace helix::cuda
