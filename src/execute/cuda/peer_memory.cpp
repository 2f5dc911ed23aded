#include "execute/cuda/peer_memory.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/error.h"
#include "execute/card_facts.h"
#include "execute/cuda/cliques.h"
#include "execute/cuda/exchange.h"
#include "execute/cuda/window.h"
#include "execute/exchange/mpi.h"
#include "kernels/cuda/check.h"

#if __has_include(<nccl_device.h>)
#include <nccl_device/core.h>
#endif

namespace helix {

namespace cuda {

namespace {

// What is exported stands alone in its allocation: smaller ones may share 2 MiB with others.
constexpr int64_t grain = int64_t{2} << 20;

int most(MPI_Comm ranks, int value) {
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &value, 1, MPI_INT, MPI_MAX, ranks));
  return value;
}

void clear(std::byte* memory, int64_t bytes) {
  HELIX_CUDA(cudaMemset(memory, 0, static_cast<size_t>(bytes)));
  HELIX_CUDA(cudaDeviceSynchronize());  // zeros stand before a peer writes
}

class IpcMemory final : public PeerMemory {
 public:
  IpcMemory(MPI_Comm ranks, int64_t bytes)
      : PeerMemory(ranks, bytes), mine_(bytes), mappings_(bases_.size()) {
    clear(mine_.data(), bytes);
    const std::string wrong = map(ranks);
    if (most(ranks, wrong.empty() ? 0 : 1) != 0)
      throw RunError("fused exchange: CUDA IPC is refused" +
                     (wrong.empty() ? std::string(" on another rank") : ": " + wrong));
  }
  void unmap() override { mappings_.clear(); }
  std::string_view name() const override { return "CUDA IPC"; }

 private:
  struct Mapping {  // a peer's memory in this rank's address space
    void* base = nullptr;
    Mapping() = default;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping() {
      if (base != nullptr) HELIX_CUDA_NOTHROW(cudaIpcCloseMemHandle(base));
    }
  };

  std::string map(MPI_Comm ranks) {  // what went wrong; empty: nothing
    struct Given {
      int rank;
      cudaIpcMemHandle_t handle;
    };
    Given mine{rank(), {}};
    cudaError_t code = cudaIpcGetMemHandle(&mine.handle, mine_.data());
    const auto here = Communicator::of_host(ranks);
    std::vector<Given> all(static_cast<size_t>(here.size()));
    HELIX_MPI(
        MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, here.get()));
    for (const Given& given : all) {
      const auto at = static_cast<size_t>(given.rank);
      void*& base = mappings_[at].base;
      if (given.rank != rank() && code == cudaSuccess)
        code = cudaIpcOpenMemHandle(&base, given.handle, cudaIpcMemLazyEnablePeerAccess);
      bases_[at] = given.rank == rank() ? mine_.data() : static_cast<std::byte*>(base);
    }
    static_cast<void>(cudaGetLastError());
    return code == cudaSuccess ? "" : cudaGetErrorString(code);
  }

  Buffer<std::byte> mine_;
  std::vector<Mapping> mappings_;  // a rank; mine is empty
};

#if __has_include(<nccl_device.h>)
class WindowBuffer {  // memory that NCCL can register
 public:
  explicit WindowBuffer(int64_t bytes) : bytes_(bytes) {
    HELIX_NCCL(ncclMemAlloc(&data_, static_cast<size_t>(bytes)));
    held_bytes += bytes;
  }
  ~WindowBuffer() {
    if (ncclMemFree(data_) != ncclSuccess)
      std::fprintf(stderr, "NCCL: a window's memory could not be freed\n");
    held_bytes -= bytes_;
  }
  WindowBuffer(const WindowBuffer&) = delete;
  WindowBuffer& operator=(const WindowBuffer&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
  int64_t bytes_;
};

class WindowMemory final : public PeerMemory {
 public:
  // Throws where NCCL refuses; without the bases of ranks whose memory it cannot map.
  WindowMemory(MPI_Comm ranks, int64_t bytes)
      : PeerMemory(ranks, bytes), clique_(clique_of(ranks, Clique::windows)), mine_(bytes) {
    clear(mine_.data(), bytes);
    HELIX_NCCL(ncclCommWindowRegister(clique_, mine_.data(), static_cast<size_t>(bytes), &window_,
                                      NCCL_WIN_COLL_SYMMETRIC));
    if (window_ != nullptr) find_bases();
  }
  void unmap() override {
    if (window_ != nullptr)
      HELIX_NCCL(ncclCommWindowDeregister(clique_, std::exchange(window_, nullptr)));
  }
  std::string_view name() const override { return "NCCL window"; }
  bool maps_all() const { return std::ranges::find(bases_, nullptr) == bases_.end(); }

 private:
  void find_bases() {
    const ncclTeam_t domain = ncclTeamLsa(clique_);
    const Buffer<std::byte*> on_card(domain.nRanks);
    window_bases(window_, domain.nRanks, on_card.data());
    const std::vector<std::byte*> found = on_card.read();
    const ncclTeam_t world = ncclTeamWorld(clique_);
    for (int r = 0; r < world.nRanks; ++r) {
      const int at = ncclTeamRankToLsa(clique_, world, r);
      if (at >= 0 && at < domain.nRanks)
        bases_[static_cast<size_t>(r)] = found[static_cast<size_t>(at)];
    }
  }

  ncclComm_t clique_;
  WindowBuffer mine_;
  ncclWindow_t window_ = nullptr;
};

bool wants_ipc() {
  const char* text = std::getenv("HELIX_BENCH_PEER_MEMORY");  // NOLINT(concurrency-mt-unsafe)
  return text != nullptr && std::string_view(text) == "ipc";
}

// Null on all ranks alike where one of them cannot reach all others. Device functions of NCCL's
// header know how its library lays out a window: both are of one release.
std::unique_ptr<PeerMemory> window_memory(MPI_Comm ranks, int64_t bytes) {
  const NcclVersions nccl = nccl_versions();
  if (most(ranks, wants_ipc() || nccl.built / 100 != nccl.found / 100 ? 1 : 0) != 0) return nullptr;
  std::unique_ptr<WindowMemory> memory;
  try {
    memory = std::make_unique<WindowMemory>(ranks, bytes);
  } catch (const std::exception&) {
    memory = nullptr;  // CUDA IPC says what is wrong, if that is refused too
  }
  if (most(ranks, memory && memory->maps_all() ? 0 : 1) == 0) return memory;
  if (memory) memory->unmap();
  return nullptr;
}
#else
std::unique_ptr<PeerMemory> window_memory(MPI_Comm, int64_t) { return nullptr; }
#endif

}  // namespace

PeerMemory::PeerMemory(MPI_Comm ranks, int64_t bytes) : bytes_(bytes) {
  int size = 0;
  HELIX_MPI(MPI_Comm_size(ranks, &size));
  HELIX_MPI(MPI_Comm_rank(ranks, &rank_));
  bases_.resize(static_cast<size_t>(size));
}

int64_t PeerMemory::take(int64_t bytes) {
  const int64_t at = std::exchange(taken_, taken_ + bytes);
  if (taken_ > bytes_ || bytes % alignment != 0)
    throw std::logic_error("peer memory: other bytes are taken than were asked for");
  return at;
}

std::unique_ptr<PeerMemory> make_peer_memory(MPI_Comm ranks, int64_t bytes, bool own_card) {
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, &bytes, 1, MPI_INT64_T, MPI_MAX, ranks));
  if (bytes == 0) return nullptr;
  bytes = (bytes + grain - 1) / grain * grain;
  if (own_card)
    if (auto memory = window_memory(ranks, bytes)) return memory;
  return std::make_unique<IpcMemory>(ranks, bytes);
}

}  // namespace cuda

bool windows_reach(MPI_Comm ranks) {
  const auto memory = cuda::window_memory(ranks, cuda::grain);
  if (memory) memory->unmap();
  HELIX_MPI(MPI_Barrier(ranks));  // nobody frees what another maps
  return memory != nullptr;
}

}  // namespace helix
