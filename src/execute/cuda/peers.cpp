#include "execute/cuda/peers.h"

#include <array>
#include <string>
#include <vector>

#include "base/error.h"

namespace helix::cuda {
namespace {

Missing* pinned_missing() {
  void* memory = nullptr;
  HELIX_CUDA(cudaHostAlloc(&memory, sizeof(Missing), cudaHostAllocMapped));
  return new (memory) Missing{};
}

}  // namespace

int64_t inbox_bytes(int members, Room room) {
  Channel channel;
  channel.size = members;
  channel.slot_bytes = room.slot_bytes();
  constexpr int64_t to = PeerMemory::alignment;
  return (channel.inbox_bytes() + to - 1) / to * to;
}

PeerChannel::PeerChannel(MPI_Comm group, PeerMemory& memory, Room room, bool own_card,
                         double patience_s)
    : state_(1),
      missing_(pinned_missing(), [](Missing* p) { HELIX_CUDA_NOTHROW(cudaFreeHost(p)); }) {
  HELIX_MPI(MPI_Comm_size(group, &channel_.size));
  HELIX_MPI(MPI_Comm_rank(group, &channel_.index));
  if (channel_.size > max_members)
    throw RunError("fused exchange: " + std::to_string(channel_.size) + " ranks in a group, " +
                   std::to_string(max_members) + " at most");
  channel_.room = room;
  channel_.slot_bytes = room.slot_bytes();
  channel_.own_card = own_card;
  channel_.patience_ns = static_cast<uint64_t>(patience_s * 1e9);
  HELIX_CUDA(cudaMemset(state_.data(), 0, sizeof(ChannelState)));
  HELIX_CUDA(cudaDeviceSynchronize());
  channel_.state = state_.data();
  HELIX_CUDA(
      cudaHostGetDevicePointer(reinterpret_cast<void**>(&channel_.missing), missing_.get(), 0));
  // Where each member's inbox stands; none is written to before all have come to here.
  const std::array<int64_t, 2> mine = {memory.rank(),
                                       memory.take(inbox_bytes(channel_.size, room))};
  std::vector<std::array<int64_t, 2>> inboxes(static_cast<size_t>(channel_.size));
  HELIX_MPI(MPI_Allgather(mine.data(), 2, MPI_INT64_T, inboxes.data(), 2, MPI_INT64_T, group));
  int unreached = 0;
  for (size_t i = 0; i < inboxes.size(); ++i) {
    const auto [rank, at] = inboxes[i];
    std::byte* base = memory.of(static_cast<int>(rank));
    if (base == nullptr) unreached = 1;
    else channel_.inboxes[i] = base + at;
  }
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &unreached, 1, MPI_INT, MPI_MAX, group));
  if (unreached != 0)
    throw RunError("fused exchange: ranks of a group stand where " + std::string(memory.name()) +
                   " does not reach, on several hosts; use --exchange nccl or mpi");
}

void PeerChannel::check() const {
  const volatile Missing* missing = missing_.get();
  const uint32_t epoch = missing->epoch;
  if (epoch == 0) return;
  throw RunError("rank " + std::to_string(channel_.index) + " of " + std::to_string(channel_.size) +
                 ": exchange " + std::to_string(epoch) + ": nothing came from rank " +
                 std::to_string(missing->member) + " of the group in " +
                 std::to_string(channel_.patience_ns / 1000000) + " ms");
}

}  // namespace helix::cuda
