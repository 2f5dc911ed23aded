// Channels between ranks whose GPUs reach each other's memory: each on a card of its own, or
// several on one.
#pragma once

#include <memory>

#include "execute/cuda/peer_memory.h"
#include "execute/exchange/mpi.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/exchange.h"

namespace helix::cuda {

// What a channel of `members` takes of a PeerMemory.
int64_t inbox_bytes(int members, Room room);

class PeerChannel {
 public:
  // Collective over `group`, whose ranks share `memory`: each takes an inbox there, with `room` for
  // each member, the same on all. `own_card`: no other rank of the launch uses this device.
  // `patience_s`: how long a kernel waits for a message. Throws RunError, on all ranks alike, where
  // one cannot reach another.
  PeerChannel(MPI_Comm group, PeerMemory& memory, Room room, bool own_card, double patience_s);

  const Channel& channel() const { return channel_; }
  // Of what was synchronised with. Throws RunError, with the member and the exchange, if a message
  // did not come in time: what was computed since is void, and so is the channel.
  void check() const;

 private:
  Channel channel_;
  Buffer<ChannelState> state_;
  std::unique_ptr<Missing, void (*)(Missing*)> missing_;  // pinned
};

}  // namespace helix::cuda
