// Memory of this rank's GPU that the GPUs of other ranks read and write by plain loads and stores.
#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace helix::cuda {

class PeerMemory {
 public:
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;
  virtual ~PeerMemory() = default;

  // What a rank gave, in this rank's address space. Null: its GPU cannot be reached from here.
  std::byte* of(int rank) const { return bases_[static_cast<size_t>(rank)]; }
  int rank() const { return rank_; }
  // Of mine, the next `bytes`, a multiple of `alignment`: where they begin in it.
  static constexpr int64_t alignment = 256;
  int64_t take(int64_t bytes);
  // When nothing uses it any more. All ranks do it before any of them destroys its own.
  virtual void unmap() = 0;
  virtual std::string_view name() const = 0;  // how it is mapped

 protected:
  PeerMemory(MPI_Comm ranks, int64_t bytes);
  int64_t bytes_;
  int rank_ = 0;
  std::vector<std::byte*> bases_;  // a rank

 private:
  int64_t taken_ = 0;
};

// Collective over `ranks`: each gives of its current device the most that any of them asks for,
// zeroed. A registered window of NCCL 2.28 where each rank has a GPU of its own (`own_card`, alike
// on all) and reaches all others, on whatever hosts; else CUDA IPC, which reaches the ranks of one.
// HELIX_BENCH_PEER_MEMORY=ipc takes that in any case. Null if nobody asks for any. Throws RunError,
// on all ranks alike, where a container forbids IPC.
std::unique_ptr<PeerMemory> make_peer_memory(MPI_Comm ranks, int64_t bytes, bool own_card);

}  // namespace helix::cuda
