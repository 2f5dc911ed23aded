// What a build without CUDA says of GPUs.
#include "base/error.h"
#include "execute/factory.h"

namespace helix {

namespace {
constexpr const char* no_cuda =
    "--executor cuda: this program was built without CUDA: `make info` says what was found, `make "
    "CUDA=1` builds with nvcc of CUDA_HOME; --executor cpu needs no GPU";
}

Card open_card(int) { throw InputError(no_cuda); }
double free_card_bytes() { return 0; }
bool has_nccl() { return false; }

namespace cuda {
std::string missing() { return no_cuda; }
std::unique_ptr<Executor> make_executor(const ExecutorChoice&, MPI_Comm, const Assignment&) {
  throw InputError(no_cuda);
}
Peaks measure_peaks() { throw InputError(no_cuda); }
}  // namespace cuda

}  // namespace helix
