// Tokens to the DP peers that hold their experts, and back.
//
// A message: how many rows (8 bytes), their hidden values, their choices. How many come is not
// known before: receives are posted for all rows that a peer has.
#include <algorithm>
#include <cstring>

#include "execute/cpu/collectives.h"
#include "execute/routing.h"
#include "execute/types.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/moe.h"

namespace helix::cpu {

void Collectives::find_travellers(const Task& task) {
  const auto* choices =
      reinterpret_cast<const Choice*>(store_.activation(task.reads[1], all_chunks));
  const int64_t chosen = schedule_[task.reads[1]].dims[1].mine.count;
  travel_.sent.assign(static_cast<size_t>(task.group.size), {});
  travel_.received.assign(static_cast<size_t>(task.group.size), 0);
  for (int dp = 0; dp < task.group.size; ++dp) {
    const Slice held = experts_of(schedule_.place, experts_, dp);
    const auto wanted = [&](const Choice& c) {
      return c.expert >= held.first && c.expert < held.first + held.count;
    };
    for (int64_t row = 0; row < store_.rows(all_chunks); ++row)
      if (std::any_of(choices + row * chosen, choices + (row + 1) * chosen, wanted))
        travel_.sent[static_cast<size_t>(dp)].push_back(static_cast<int32_t>(row));
  }
}

// The rows for one peer, in the message's layout; gives back where it ends.
std::byte* Collectives::pack(const Task& task, int dp, std::byte* to) const {
  const std::vector<int32_t>& rows = travel_.sent[static_cast<size_t>(dp)];
  const auto count = static_cast<int64_t>(rows.size());
  std::memcpy(to, &count, sizeof count);
  to += sizeof count;
  for (const Id id : task.reads) {
    const auto bytes = static_cast<size_t>(row_bytes(id));
    for (const int32_t row : rows) {
      std::memcpy(to, store_.activation(id, all_chunks) + bytes * static_cast<size_t>(row), bytes);
      to += bytes;
    }
  }
  return to;
}

// A message's rows behind those that arrived before.
void Collectives::unpack(const Task& task, int dp, int64_t behind, const std::byte* from) {
  int64_t& count = travel_.received[static_cast<size_t>(dp)];
  std::memcpy(&count, from, sizeof count);
  from += sizeof count;
  for (const Id id : task.writes) {
    const int64_t bytes = row_bytes(id);
    std::memcpy(store_.activation(id, all_chunks) + behind * bytes, from,
                static_cast<size_t>(count * bytes));
    from += count * bytes;
  }
}

bool Collectives::dispatch(const Task& task, Pending& pending) {
  const auto peers = static_cast<size_t>(task.group.size);
  const auto me = static_cast<size_t>(task.group.index);
  const int64_t row = row_bytes(task.reads[0]) + row_bytes(task.reads[1]);
  if (pending.phase == 0) {
    find_travellers(task);
    std::byte* at = store_.workspace();
    messages_.assign(peers, nullptr);
    for (size_t dp = 0; dp < peers; ++dp) {
      if (dp == me) continue;
      const int64_t most = 8 + row * store_.replicas()[dp].count;
      messages_[dp] = at;
      HELIX_MPI(MPI_Irecv(at, count_of(most), MPI_BYTE, static_cast<int>(dp), 0, group(task),
                          pending.request()));
      at += most;
    }
    for (size_t dp = 0; dp < peers; ++dp) {
      if (dp == me) continue;
      std::byte* end = pack(task, static_cast<int>(dp), at);
      HELIX_MPI(MPI_Isend(at, count_of(end - at), MPI_BYTE, static_cast<int>(dp), 0, group(task),
                          pending.request()));
      at = end;
    }
    messages_[me] = at;  // mine, the same way
    pack(task, task.group.index, at);
    return true;
  }
  int64_t arrived = 0;
  for (size_t dp = 0; dp < peers; ++dp) {
    unpack(task, static_cast<int>(dp), arrived, messages_[dp]);
    arrived += travel_.received[dp];
  }
  return false;
}

// Each row goes back where it came from, and what comes is summed in rank order. Both sides know
// how many.
bool Collectives::combine(const Task& task, Pending& pending) {
  if (pending.phase == 0) {
    const int64_t bytes = row_bytes(task.reads[0]);
    std::byte* back = store_.activation(task.reads[0], all_chunks);
    std::byte* here = store_.workspace();
    messages_.assign(travel_.sent.size(), nullptr);
    for (size_t dp = 0; dp < travel_.sent.size(); ++dp) {
      const int64_t sent = travel_.received[dp] * bytes;
      const int64_t received = std::ssize(travel_.sent[dp]) * bytes;
      const auto peer = static_cast<int>(dp);
      messages_[dp] = peer == task.group.index ? back : here;
      if (peer != task.group.index) {
        HELIX_MPI(
            MPI_Irecv(here, count_of(received), MPI_BYTE, peer, 0, group(task), pending.request()));
        HELIX_MPI(
            MPI_Isend(back, count_of(sent), MPI_BYTE, peer, 0, group(task), pending.request()));
        here += received;
      }
      back += sent;
    }
    return true;
  }
  with_type(activations_, [&]<class T>(T*) { sum_travellers<T>(task); });
  return false;
}

template <class T>
void Collectives::sum_travellers(const Task& task) {
  const int64_t width = row_bytes(task.reads[0]) / static_cast<int64_t>(sizeof(T));
  auto* out = reinterpret_cast<T*>(store_.activation(task.writes[0], all_chunks));
  std::vector<size_t> summed(travel_.sent.size(), 0);  // rows of each peer's message
  for (int64_t row = 0; row < store_.rows(all_chunks); ++row) {
    std::vector<const T*> from;
    for (size_t dp = 0; dp < summed.size(); ++dp) {
      const std::vector<int32_t>& rows = travel_.sent[dp];
      if (summed[dp] == rows.size() || rows[summed[dp]] != row) continue;
      from.push_back(reinterpret_cast<const T*>(messages_[dp]) +
                     static_cast<int64_t>(summed[dp]++) * width);
    }
    if (from.empty()) std::fill_n(out + row * width, width, T{});
    else sum_in_order(static_cast<int>(from.size()), width, from.data(), out + row * width);
  }
}

void Collectives::observe(StepState& state) const {
  state.leaving = state.arrived = state.returning = 0;
  for (size_t dp = 0; dp < travel_.sent.size(); ++dp) {
    const bool mine = static_cast<int>(dp) == schedule_.place.dp;
    state.arrived += static_cast<double>(travel_.received[dp]);
    if (mine) continue;
    state.leaving += static_cast<double>(travel_.sent[dp].size());
    state.returning += static_cast<double>(travel_.received[dp]);
  }
}

}  // namespace helix::cpu
