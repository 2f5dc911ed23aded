// Channels between ranks whose GPUs reach each other's memory, by CUDA IPC: ranks of one host, each
// on a card of its own or several on one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "execute/exchange/mpi.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/exchange.h"

namespace helix::cuda {

class PeerChannel {
 public:
  // Collective over `group`: each rank gives an inbox on its current device, with `room` for each
  // member, the same on all. `own_card`: no other rank of the launch uses this device.
  // `patience_s`: how long a kernel waits for a message. Throws RunError, on all ranks alike, where
  // the ranks are on several hosts or a container forbids CUDA IPC.
  PeerChannel(MPI_Comm group, Room room, bool own_card, double patience_s);

  const Channel& channel() const { return channel_; }
  int64_t device_bytes() const { return inbox_.bytes() + state_.bytes(); }
  // Of what was synchronised with. Throws RunError, with the member and the exchange, if a message
  // did not come in time: what was computed since is void, and so is the channel.
  void check() const;
  // Of the peers' inboxes, when nothing uses the channel any more. All members do it before any of
  // them is destroyed.
  void unmap() { mappings_.reset(); }

 private:
  struct Mapping {  // a peer's inbox in this rank's address space
    void* base = nullptr;
    Mapping() = default;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() {
      if (base != nullptr) HELIX_CUDA_NOTHROW(cudaIpcCloseMemHandle(base));
    }
  };
  std::string map_inboxes(MPI_Comm group);  // what went wrong; empty: nothing

  Channel channel_;
  Buffer<std::byte> inbox_;
  Buffer<ChannelState> state_;
  std::unique_ptr<Missing, void (*)(Missing*)> missing_;  // pinned
  std::unique_ptr<Mapping[]> mappings_;                   // a member; mine is empty
};

}  // namespace helix::cuda
