// NCCL's communicators of a layout's ranks, where this program is built with NCCL.
#pragma once

namespace helix::cuda {

// Version codes; 0: this program is built without NCCL.
struct NcclVersions {
  int built = 0;
  int found = 0;
};
NcclVersions nccl_versions();

}  // namespace helix::cuda

#if __has_include(<nccl.h>)
#include <mpi.h>
#include <nccl.h>

#include <cstdint>

namespace helix::cuda {

// Throws RunError with the call's text, file, line and NCCL's last word.
void check_nccl(ncclResult_t result, const char* call, const char* file, int line);
#define HELIX_NCCL(call) ::helix::cuda::check_nccl((call), #call, __FILE__, __LINE__)

// A lane of messages each, and windows of memory.
enum class Clique : uint8_t { compute, exchange, windows };

// Made at the first call, collective over `ranks`. That takes up to a second, longer than a
// verified case: it stays with the MPI communicator, as its attribute, until that is freed.
ncclComm_t clique_of(MPI_Comm ranks, Clique which);

}  // namespace helix::cuda
#endif
