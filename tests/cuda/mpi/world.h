// The ranks of a test between GPUs, and checks that all of them must pass.
#pragma once

#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "execute/cuda/peers.h"
#include "tests/cuda/testing.h"

namespace helix::cuda {

inline constexpr double patience_s = 20;

struct World {
  int rank = 0, size = 1;
  bool own_card = true;
  int blocks = 16;  // of an exchange
  OwnedStream stream;
  Launch how() const { return {stream.get(), blocks, true}; }
  bool leads() const { return rank == 0; }
};
inline World world;

// True only if it is on every rank.
inline void expect_everywhere(bool passed, const std::string& what) {
  int all = passed ? 1 : 0;
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD));
  ++checks;
  if (all == 0) ++failures;
  if (world.leads()) std::printf("%s  %s\n", all != 0 ? "ok  " : "FAIL", what.c_str());
}
inline double worst(double value) {
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD));
  return value;
}
inline void expect_below(double error, double tolerance, const std::string& what) {
  const double largest = worst(error == error ? error : infinity);
  char text[64];
  std::snprintf(text, sizeof text, ": error %.2g, tolerance %.2g", largest, tolerance);
  expect_everywhere(error <= tolerance, what + text);
}
// A channel of all ranks, alone in its memory.
class OwnChannel {
 public:
  explicit OwnChannel(Room room, double patience = patience_s)
      : memory_(make_peer_memory(MPI_COMM_WORLD, inbox_bytes(world.size, room), world.own_card)),
        peers_(MPI_COMM_WORLD, *memory_, room, world.own_card, patience) {}
  ~OwnChannel() {
    memory_->unmap();
    HELIX_MPI(MPI_Barrier(MPI_COMM_WORLD));
  }
  OwnChannel(const OwnChannel&) = delete;
  OwnChannel& operator=(const OwnChannel&) = delete;
  const PeerChannel& operator*() const { return peers_; }
  const PeerMemory& memory() const { return *memory_; }

 private:
  std::unique_ptr<PeerMemory> memory_;
  PeerChannel peers_;
};
inline void settle() { HELIX_CUDA(cudaStreamSynchronize(world.stream.get())); }

template <class T>
std::vector<T> gathered(const std::vector<T>& mine) {
  std::vector<T> all(mine.size() * static_cast<size_t>(world.size));
  const int bytes = count_of(static_cast<int64_t>(mine.size() * sizeof(T)));
  HELIX_MPI(
      MPI_Allgather(mine.data(), bytes, MPI_BYTE, all.data(), bytes, MPI_BYTE, MPI_COMM_WORLD));
  return all;
}

template <class T>
inline constexpr double tolerance_of = std::is_same_v<T, bf16> ? 1.0 / 128 : 2e-6;

}  // namespace helix::cuda
