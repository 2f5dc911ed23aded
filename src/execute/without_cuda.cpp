// What a build without CUDA says of GPUs.
#include "base/error.h"
#include "execute/factory.h"

namespace helix {

CardFacts look_at_card(int) { return {}; }
std::string ipc_refusal(MPI_Comm) { return ""; }
bool windows_reach(MPI_Comm) { return false; }
Card open_card(int) { throw InputError(cuda::missing()); }
double free_card_bytes() { return 0; }
int64_t held_card_bytes() { return 0; }

namespace cuda {
std::string missing() { return "--executor cuda: " + helix::refusal(CardFacts{}); }
std::unique_ptr<Executor> make_executor(const ExecutorChoice&, MPI_Comm, const Assignment&) {
  throw InputError(missing());
}
Peaks measure_peaks() { throw InputError(missing()); }
}  // namespace cuda

}  // namespace helix
