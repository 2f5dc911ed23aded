// The ranks of this launch: which work on a point, how the others wait, and how all agree on an
// error.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "execute/exchange/mpi.h"

namespace helix {

// A failure that every rank knows of: rank 0 says why, and all end in order. Any other exception
// but InputError, which only `World::lead` throws on all ranks, has to end all ranks at once.
class AgreedError : public RunError {
 public:
  using RunError::RunError;
};

class World {
 public:
  World();  // MPI_COMM_WORLD, which outlives it; returns codes instead of aborting

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool leads() const { return rank_ == 0; }  // the one that reads, writes and speaks
  int ranks_on_this_host() const { return local_size_; }
  int rank_on_this_host() const { return host_.rank(); }
  bool leads_on_this_host() const { return host_.rank() == 0; }
  int cores_on_this_host() const { return cores_; }  // that some rank on it may use
  MPI_Comm comm() const { return comm_.get(); }
  MPI_Comm host() const { return host_.get(); }  // the ranks on this host
  // The first `ranks` ranks, made once; empty on the others. Collective over the world.
  const Communicator& first(int ranks);

  // Waits for all ranks without spinning, so that those without work leave the cores to the others.
  void meet() const;
  // Runs `f` on this rank; when it threw on any rank, gives the lowest such rank's reason to all.
  // Collective. `f` must not fail between messages: this is for loading and generating, not for
  // steps.
  std::optional<std::string> agree(const std::function<void()>& f) const;
  // Runs `f` on rank 0 alone. What it throws is thrown on all ranks: an InputError as itself, any
  // other exception as an AgreedError. Collective.
  void lead(const std::function<void()>& f) const;

  std::string broadcast(const std::string& text, int root = 0) const;
  template <class T>
  void broadcast(std::vector<T>& values, int root) const {  // of equal size everywhere
    broadcast_bytes(values.data(), values.size() * sizeof(T), root);
  }
  std::vector<double> maximum(std::vector<double> values) const;
  double maximum(double value) const { return maximum(std::vector<double>{value}).front(); }
  double sum_on_this_host(double value) const;

 private:
  void broadcast_bytes(void* data, size_t bytes, int root) const;

  Communicator comm_;
  Communicator host_;
  std::map<int, Communicator> first_;
  int rank_ = 0;
  int size_ = 1;
  int local_size_ = 1;
  int cores_ = 1;
};

// More ranks than one were started, each as a world of its own (an mpirun of another MPI): what the
// launcher's variables say, or 0. (users.md: N worlds of one rank)
int ranks_launched();
// This process's rank as the launcher's variables have it; 0 without a launcher. Good before
// MPI_Init.
int rank_launched();

// Threads a rank: cores of this host over ranks on it, at least 1, at most the cores this rank may
// use; HELIX_BENCH_THREADS or `asked` (> 0) override.
int set_threads(const World& world, int asked);
int allowed_cores();

}  // namespace helix
