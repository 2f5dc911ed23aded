// What a rank finds of its card before it works there, and what stands in the way. The facts are
// plain data: a test makes any card.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <string>

namespace helix {

struct CardFacts {
  int toolkit = 0;  // CUDA of this program, 1000 times the major version and 10 the minor; 0: none
  int driver = 0;   // CUDA that the driver knows; 0: no driver
  int visible = 0;  // cards
  std::string error = {};  // of CUDA, when it counted cards or opened one; "" none
  std::string name = {};
  std::string id = {};           // the same for all ranks that share it, wherever they run
  std::string bus_id = {};       // as NVML knows it
  int capability = 0;            // 10 times the major number and the minor: 90 is Hopper
  bool has_kernels = false;      // this program, for this card
  bool exclusive = false;        // one process at a time
  bool mps = false;              // this process is a client of the Multi-Process Service
  int reachable = 0;             // of the other visible cards, by peer access
  double free_before_bytes = 0;  // before this process was there; 0: unknown
  double free_bytes = 0;
  double total_bytes = 0;
  int nccl_built = 0;  // NCCL's version code; 0: this program is built without
  int nccl_found = 0;  // of the library that is loaded
};

// Which of the cards visible to it a rank takes, by its number on its host: its own where all ranks
// see all cards, card 0 where each is shown one. Ranks that outnumber cards go round and share.
int card_of_rank(int local_rank, int visible);

// Makes card_of_rank this rank's, and looks at it. What goes wrong is a fact.
CardFacts look_at_card(int local_rank);

// Why no rank can work there, and what to do: one line; "" where it can. The first of what the
// driver, the visible cards and the card's kind say.
std::string refusal(const CardFacts& card);
std::string driver_refusal(const CardFacts& card);
std::string visibility_refusal(const CardFacts& card);
std::string kernel_refusal(const CardFacts& card);

// Ranks of one host try to map each other's device memory: what CUDA said against it; "" they can.
// Collective; each rank has opened its card.
std::string ipc_refusal(MPI_Comm host);
// Do NCCL's registered windows map the memory of all these ranks, on whatever hosts? Collective;
// each rank has opened a card of its own.
bool windows_reach(MPI_Comm ranks);

std::string cuda_version_text(int version);  // "13.0"
std::string nccl_version_text(int code);     // "2.27.7"

}  // namespace helix
