// Which card a rank works on, what it can do, and which points it cannot carry out.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "execute/cuda/cliques.h"
#include "execute/cuda/executor.h"
#include "execute/cuda/read_rate.h"
#include "execute/factory.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/read.h"
#include "machine/nvml.h"

namespace helix {

namespace {

std::string in_hex(const cudaUUID_t& id) {
  std::string text;
  for (const char byte : id.bytes) text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  HELIX_CUDA(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

}  // namespace

CardFacts look_at_card(int local_rank) {
  // Before CUDA starts: a kernel that is loaded when it is first launched may wait for all others
  // on the card, also for one that waits for this rank's.
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);  // NOLINT(concurrency-mt-unsafe)
  const cuda::NcclVersions nccl = cuda::nccl_versions();
  CardFacts card{.toolkit = CUDART_VERSION, .nccl_built = nccl.built, .nccl_found = nccl.found};
  const auto fine = [&](cudaError_t error) {
    if (error != cudaSuccess && card.error.empty()) card.error = cudaGetErrorString(error);
    static_cast<void>(cudaGetLastError());
    return error == cudaSuccess;
  };
  fine(cudaDriverGetVersion(&card.driver));
  if (!fine(cudaGetDeviceCount(&card.visible)) || card.visible == 0) return card;
  const int device = card_of_rank(local_rank, card.visible);
  std::array<char, 32> bus_id{};
  cudaDeviceProp properties{};
  int mode = 0;
  if (!fine(cudaDeviceGetPCIBusId(bus_id.data(), bus_id.size(), device)) ||
      !fine(cudaDeviceGetAttribute(&mode, cudaDevAttrComputeMode, device)))
    return card;
  card.bus_id = bus_id.data();
  card.exclusive = mode == cudaComputeModeExclusiveProcess;
  card.free_before_bytes = CardMonitor(card.bus_id).free_bytes().value_or(0);
  if (!fine(cudaSetDevice(device)) || !fine(cudaGetDeviceProperties(&properties, device)))
    return card;
  card.name = properties.name;
  card.id = in_hex(properties.uuid);
  card.capability = 10 * properties.major + properties.minor;
  card.has_kernels = cuda::kernels_fit() == cudaSuccess;
  int mps = 0;  // drivers that do not know the question answer 0
  static_cast<void>(cudaDeviceGetAttribute(&mps, cudaDevAttrMpsEnabled, device));
  card.mps = mps != 0;
  for (int other = 0; other < card.visible; ++other) {
    int reached = 0;
    if (other != device && fine(cudaDeviceCanAccessPeer(&reached, device, other)))
      card.reachable += reached;
  }
  size_t free = 0;
  size_t total = 0;
  if (!fine(cudaMemGetInfo(&free, &total))) return card;
  card.free_bytes = static_cast<double>(free);
  card.total_bytes = static_cast<double>(total);
  return card;
}

Card open_card(int local_rank) {
  Card card{look_at_card(local_rank)};
  if (const std::string reason = refusal(card); !reason.empty())
    throw InputError("--executor cuda: " + reason);
  int device = 0;
  HELIX_CUDA(cudaGetDevice(&device));
  card.multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  card.read_bytes_per_s = cuda::read_rate(card.multiprocessors);
  // Dense bf16 on Hopper's tensor cores: 4096 a clock and SM; half of it on Ampere.
  card.flops_per_s = (card.capability >= 90 ? 4096.0 : 2048.0) * card.multiprocessors * 1e3 *
                     attribute(cudaDevAttrClockRate, device);
  return card;
}

double free_card_bytes() {
  size_t free = 0;
  size_t total = 0;
  HELIX_CUDA(cudaMemGetInfo(&free, &total));
  return static_cast<double>(free);
}

int64_t held_card_bytes() { return cuda::held_bytes; }

std::string ipc_refusal(MPI_Comm host) {
  int rank = 0;
  int size = 1;
  HELIX_MPI(MPI_Comm_rank(host, &rank));
  HELIX_MPI(MPI_Comm_size(host, &size));
  if (size == 1) return "";
  void* memory = nullptr;
  cudaIpcMemHandle_t mine{};
  cudaError_t code = cudaMalloc(&memory, size_t{2} << 20);
  const cuda::Owned<void*, cudaFree> owned(memory);
  if (code == cudaSuccess) code = cudaIpcGetMemHandle(&mine, memory);
  std::vector<cudaIpcMemHandle_t> handles(static_cast<size_t>(size));
  HELIX_MPI(
      MPI_Allgather(&mine, sizeof mine, MPI_BYTE, handles.data(), sizeof mine, MPI_BYTE, host));
  void* mapped = nullptr;
  const cudaIpcMemHandle_t& next = handles[static_cast<size_t>((rank + 1) % size)];
  if (code == cudaSuccess)
    code = cudaIpcOpenMemHandle(&mapped, next, cudaIpcMemLazyEnablePeerAccess);
  static_cast<void>(cudaGetLastError());
  if (mapped != nullptr) HELIX_CUDA_NOTHROW(cudaIpcCloseMemHandle(mapped));
  HELIX_MPI(MPI_Barrier(host));  // nobody frees what another maps
  return code == cudaSuccess ? "" : cudaGetErrorString(code);
}

namespace cuda {

double read_rate(int multiprocessors) {
  constexpr int64_t bytes = int64_t{1} << 30;
  const Buffer<std::byte> data(bytes);
  const Buffer<float> sink(1);
  HELIX_CUDA(cudaMemset(data.data(), 0, bytes));
  const OwnedStream stream = make_stream();
  HELIX_CUDA(cudaDeviceSynchronize());
  float best_ms = 1e9F;
  for (int i = 0; i < 5; ++i) {
    const OwnedEvent begin = make_event();
    const OwnedEvent end = make_event();
    HELIX_CUDA(cudaEventRecord(begin.get(), stream.get()));
    read_all(bytes, data.data(), sink.data(), {stream.get(), multiprocessors, false});
    HELIX_CUDA(cudaEventRecord(end.get(), stream.get()));
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    float ms = 0;
    HELIX_CUDA(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    best_ms = std::min(best_ms, ms);
  }
  return static_cast<double>(bytes) / (1e-3 * static_cast<double>(best_ms));
}

std::string missing() { return ""; }

std::unique_ptr<Executor> make_executor(const ExecutorChoice& choice, MPI_Comm ranks,
                                        const Assignment& work) {
  return std::make_unique<CudaExecutor>(ranks, work, choice);
}

}  // namespace cuda

}  // namespace helix
