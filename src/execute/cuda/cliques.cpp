#include "execute/cuda/cliques.h"

#if __has_include(<nccl.h>)
#include <array>
#include <cstdio>
#include <memory>
#include <string>

#include "base/error.h"
#include "execute/exchange/mpi.h"

namespace helix::cuda {

namespace {

class NcclCommunicator {
 public:
  NcclCommunicator(MPI_Comm ranks, Clique which) {
    int rank = 0;
    int size = 0;
    HELIX_MPI(MPI_Comm_rank(ranks, &rank));
    HELIX_MPI(MPI_Comm_size(ranks, &size));
    ncclUniqueId id{};
    if (rank == 0) HELIX_NCCL(ncclGetUniqueId(&id));
    HELIX_MPI(MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, ranks));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    if (which == Clique::windows) config.maxCTAs = 1;  // carries no messages: little memory
    HELIX_NCCL(ncclCommInitRankConfig(&comm_, size, id, rank, &config));
  }
  ~NcclCommunicator() {
    if (comm_ != nullptr && ncclCommDestroy(comm_) != ncclSuccess)
      std::fprintf(stderr, "NCCL: a communicator could not be destroyed\n");
  }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;
  ncclComm_t get() const { return comm_; }

 private:
  ncclComm_t comm_ = nullptr;
};

using Cliques = std::array<std::unique_ptr<NcclCommunicator>, 3>;  // of each use

Cliques& cliques_of(MPI_Comm ranks) {
  static const int key = [] {
    int made = MPI_KEYVAL_INVALID;
    const auto forget = [](MPI_Comm, int, void* cliques, void*) {
      delete static_cast<Cliques*>(cliques);
      return MPI_SUCCESS;
    };
    HELIX_MPI(MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, forget, &made, nullptr));
    return made;
  }();
  Cliques* cliques = nullptr;
  int found = 0;
  HELIX_MPI(MPI_Comm_get_attr(ranks, key, static_cast<void*>(&cliques), &found));
  if (found == 0) HELIX_MPI(MPI_Comm_set_attr(ranks, key, cliques = new Cliques));
  return *cliques;
}

}  // namespace

void check_nccl(ncclResult_t result, const char* call, const char* file, int line) {
  if (result != ncclSuccess)
    throw RunError(std::string(file) + ":" + std::to_string(line) + ": " + call + ": " +
                   ncclGetErrorString(result) + ", " + ncclGetLastError(nullptr));
}

NcclVersions nccl_versions() {
  NcclVersions versions{.built = NCCL_VERSION_CODE};
  HELIX_NCCL(ncclGetVersion(&versions.found));
  return versions;
}

ncclComm_t clique_of(MPI_Comm ranks, Clique which) {
  std::unique_ptr<NcclCommunicator>& clique = cliques_of(ranks).at(static_cast<size_t>(which));
  if (!clique) clique = std::make_unique<NcclCommunicator>(ranks, which);
  return clique->get();
}

}  // namespace helix::cuda

#else

namespace helix::cuda {
NcclVersions nccl_versions() { return {}; }
}  // namespace helix::cuda

#endif
