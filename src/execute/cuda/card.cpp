// Which card a rank works on, what it can do, and which points it cannot carry out.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "execute/cuda/executor.h"
#include "execute/cuda/read_rate.h"
#include "execute/factory.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/read.h"

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

Card open_card(int local_rank) {
  // Before CUDA starts: a kernel that is loaded when it is first launched may wait for all others
  // on the card, also for one that waits for this rank's.
  setenv("CUDA_MODULE_LOADING", "EAGER", 0);  // NOLINT(concurrency-mt-unsafe)
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess || count == 0) {
    int driver = 0;
    static_cast<void>(cudaDriverGetVersion(&driver));
    throw InputError(fmt::format(
        "--executor cuda: no GPU can be used here: {} (driver for CUDA {}.{}, this program needs "
        "{}.{})",
        count == 0 && error == cudaSuccess ? "none is visible" : cudaGetErrorString(error),
        driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10));
  }
  const int device = local_rank % count;
  HELIX_CUDA(cudaSetDevice(device));
  cudaDeviceProp properties{};
  HELIX_CUDA(cudaGetDeviceProperties(&properties, device));
  if (const cudaError_t error = cuda::kernels_fit(); error != cudaSuccess)
    throw InputError(fmt::format(
        "--executor cuda: this program has no kernels for {} (compute capability {}.{}): {}; build "
        "with NVCC_GENCODE for it",
        properties.name, properties.major, properties.minor, cudaGetErrorString(error)));
  Card card{.name = properties.name, .id = in_hex(properties.uuid)};
  size_t free = 0;
  size_t total = 0;
  HELIX_CUDA(cudaMemGetInfo(&free, &total));
  card.free_bytes = static_cast<double>(free);
  card.total_bytes = static_cast<double>(total);
  const int multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
  card.multiprocessors = multiprocessors;
  card.read_bytes_per_s = cuda::read_rate(multiprocessors);
  // Dense bf16 on Hopper's tensor cores: 4096 a clock and SM; half of it on Ampere.
  card.flops_per_s = (properties.major >= 9 ? 4096.0 : 2048.0) * multiprocessors * 1e3 *
                     attribute(cudaDevAttrClockRate, device);
  return card;
}

double free_card_bytes() {
  size_t free = 0;
  size_t total = 0;
  HELIX_CUDA(cudaMemGetInfo(&free, &total));
  return static_cast<double>(free);
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
