#include "execute/cuda/peers.h"

#include <cassert>

#include "base/error.h"

namespace helix::cuda {
namespace {

// What is exported stands alone in its allocation: smaller ones may share 2 MiB with others.
constexpr int64_t grain = int64_t{2} << 20;

Missing* pinned_missing() {
  void* memory = nullptr;
  HELIX_CUDA(cudaHostAlloc(&memory, sizeof(Missing), cudaHostAllocMapped));
  return new (memory) Missing{};
}

bool on_one_host(MPI_Comm group, int size) {
  MPI_Comm host = MPI_COMM_NULL;
  HELIX_MPI(MPI_Comm_split_type(group, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host));
  int here = 0;
  HELIX_MPI(MPI_Comm_size(host, &here));
  HELIX_MPI(MPI_Comm_free(&host));
  return here == size;
}

}  // namespace

PeerChannel::PeerChannel(MPI_Comm group, Room room, bool own_card, double patience_s)
    : missing_(pinned_missing(), [](Missing* p) { HELIX_CUDA_NOTHROW(cudaFreeHost(p)); }) {
  HELIX_MPI(MPI_Comm_size(group, &channel_.size));
  HELIX_MPI(MPI_Comm_rank(group, &channel_.index));
  if (channel_.size > max_members)
    throw RunError("fused exchange: " + std::to_string(channel_.size) + " ranks in a group, " +
                   std::to_string(max_members) + " at most");
  channel_.room = room;
  channel_.slot_bytes = room.slot_bytes();
  channel_.own_card = own_card;
  channel_.patience_ns = static_cast<uint64_t>(patience_s * 1e9);
  inbox_ = Buffer<std::byte>((channel_.inbox_bytes() + grain - 1) / grain * grain);
  state_ = Buffer<ChannelState>(1);
  HELIX_CUDA(cudaMemset(inbox_.data(), 0, static_cast<size_t>(inbox_.bytes())));
  HELIX_CUDA(cudaMemset(state_.data(), 0, sizeof(ChannelState)));
  HELIX_CUDA(cudaDeviceSynchronize());  // zeros stand before a peer writes
  channel_.state = state_.data();
  HELIX_CUDA(
      cudaHostGetDevicePointer(reinterpret_cast<void**>(&channel_.missing), missing_.get(), 0));
  if (!on_one_host(group, channel_.size))
    throw RunError("fused exchange: the ranks of a group are on several hosts; CUDA IPC needs one");
  const std::string wrong = map_inboxes(group);
  int failed = wrong.empty() ? 0 : 1;
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, group));
  if (failed != 0)
    throw RunError("fused exchange: CUDA IPC is refused" +
                   (wrong.empty() ? std::string(" on another rank") : ": " + wrong));
}

std::string PeerChannel::map_inboxes(MPI_Comm group) {
  const auto size = static_cast<size_t>(channel_.size);
  cudaIpcMemHandle_t mine = {};
  cudaError_t code = cudaIpcGetMemHandle(&mine, inbox_.data());
  std::vector<cudaIpcMemHandle_t> handles(size);
  HELIX_MPI(
      MPI_Allgather(&mine, sizeof mine, MPI_BYTE, handles.data(), sizeof mine, MPI_BYTE, group));
  mappings_ = std::make_unique<Mapping[]>(size);
  for (size_t i = 0; i < size; ++i) {
    if (static_cast<int>(i) == channel_.index) {
      channel_.inboxes[i] = inbox_.data();
      continue;
    }
    if (code == cudaSuccess)
      code = cudaIpcOpenMemHandle(&mappings_[i].base, handles[i], cudaIpcMemLazyEnablePeerAccess);
    channel_.inboxes[i] = static_cast<std::byte*>(mappings_[i].base);
  }
  return code == cudaSuccess ? "" : cudaGetErrorString(code);
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
