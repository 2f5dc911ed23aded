// The GPUs of a launch: which ranks share one, and how the ranks can exchange.
#pragma once

#include <optional>
#include <string>

#include "bench/world.h"
#include "execute/factory.h"
#include "machine/nvml.h"

namespace helix {

// This rank's number on its host: as the launcher counts, else as MPI does.
int local_rank(const World& world);

// Those of the ranks that share this one's card. Collective.
Communicator ranks_of_card(MPI_Comm ranks, const std::string& id);

class Cards {
 public:
  // Opens this rank's card. Collective; throws InputError on all ranks alike.
  explicit Cards(World& world);

  const Card& mine() const { return card_; }
  // Of a point on the first `ranks` ranks: cards, and the most ranks on one of them. Collective.
  struct Use {
    int64_t gpus = 0;
    int64_t ranks_per_gpu = 0;
  };
  Use use(int ranks) const;
  // Adds up over the ranks that share this rank's card. Collective.
  double sum_on_card(double value) const;
  int64_t most_ranks_on_a_card() const { return use(world_.size()).ranks_per_gpu; }
  // Why ranks of this launch, all on one host, cannot map each other's memory; "" they can.
  // Collective.
  std::string ipc_refusal() const;
  // Do NCCL's windows reach all ranks of this launch, a card each? Collective.
  bool windows_reach() const;

  CardMonitor& monitor() { return monitor_; }
  // Taken on this rank's card by the contexts of this launch's ranks, with the kernels that they
  // load; none where the driver does not say what was free before.
  std::optional<double> context_bytes() const { return context_bytes_; }
  double free_at_start() const { return free_at_start_; }  // once all ranks had opened it

 private:
  World& world_;
  Card card_;
  Communicator sharing_;
  CardMonitor monitor_;
  std::optional<double> context_bytes_;
  double free_at_start_ = 0;
};

// What decides how GPU ranks can exchange: plain data, so that a test makes any launch.
struct Neighbours {
  int ranks = 1;
  int ranks_per_card = 1;  // at most
  bool one_host = true;
  bool mps = false;   // under which ranks that share a card run at the same time
  bool nccl = false;  // in this program
  int multiprocessors = 0;
  std::string ipc = {};  // why CUDA IPC is refused; "" it is not
  bool windows = false;  // NCCL's reach all ranks: looked at where CUDA IPC does not
};

// `how` for these ranks, with the exchange that a launch asks for ("auto": the best that they can
// use). Throws InputError where it cannot be had, or leaves too few SMs to ranks that share a card.
ExecutorChoice choose_exchange(ExecutorChoice how, const Neighbours& there,
                               const std::string& wanted);
// The same for the ranks of this launch. Collective; throws on all ranks alike.
ExecutorChoice choose_exchange(const ExecutorChoice& how, const Cards& cards, const World& world,
                               const std::string& wanted);

}  // namespace helix
