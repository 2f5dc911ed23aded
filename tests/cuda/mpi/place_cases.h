// Beside exchanges that wait, blocks with much shared memory find room: the rank that is waited for
// may have such to run, on the same card.
#pragma once

#include <chrono>
#include <thread>

#include "tests/cuda/mpi/exchange_cases.h"

namespace helix::cuda {

__global__ void need_room() {
  extern __shared__ int memory[];
  memory[threadIdx.x] = static_cast<int>(threadIdx.x);
}
// As an exchange that waits, for two seconds, and leaves the split of its SM to the driver.
__global__ void hold() {
  __shared__ uint64_t began;
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  if (threadIdx.x == 0) began = now;
  __syncthreads();
  while (now - began < 2'000'000'000) asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
}

// Does a block with 200 KB of shared memory begin and end within a second of now?
inline bool room_is_found() {
  using namespace std::chrono;
  std::this_thread::sleep_for(milliseconds(50));  // what waits has begun on every SM
  const OwnedStream beside = make_stream();
  constexpr int bytes = 200 * 1024;
  HELIX_CUDA(cudaFuncSetAttribute(need_room, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  need_room<<<1, 32, bytes, beside.get()>>>();
  HELIX_CUDA(cudaGetLastError());
  const auto until = steady_clock::now() + seconds(1);
  cudaError_t state = cudaErrorNotReady;
  while (state == cudaErrorNotReady && steady_clock::now() < until)
    state = cudaStreamQuery(beside.get());
  if (state != cudaErrorNotReady) HELIX_CUDA(state);
  return state == cudaSuccess;
}

inline int count_sms() {
  int device = 0, count = 0;
  HELIX_CUDA(cudaGetDevice(&device));
  HELIX_CUDA(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// Rank 0 waits with a block on every SM for the others, who come when room was looked for.
inline void place_case(const PeerChannel& peers) {
  const PartialLayout part = part_of<bf16>(64, 32, 64);  // worth more blocks than there are SMs
  const auto messages = messages_of<bf16>(part);
  const Buffer<std::byte> device{std::span<const std::byte>(messages)};
  const Buffer<bf16> out(part.rows * part.heads * part.value_size);
  const auto exchange = [&](int blocks) {
    exchange_merge(peers.channel(), Way::words, part, device.data(), out.data(),
                   {world.stream.get(), blocks, true});
  };
  const auto meet = [] { HELIX_MPI(MPI_Barrier(MPI_COMM_WORLD)); };
  bool found = true;
  bool by_default = false;
  meet();
  if (world.leads()) {
    hold<<<static_cast<unsigned>(count_sms()), 256, 0, world.stream.get()>>>();
    HELIX_CUDA(cudaGetLastError());
    by_default = room_is_found();
    settle();
    exchange(count_sms() / 2);  // of which an SM may have two: one on each
    found = room_is_found();
  }
  meet();
  if (!world.leads()) exchange(world.blocks);
  settle();
  peers.check();
  expect_everywhere(found, "a large block finds room beside an exchange that waits on every SM");
  expect_everywhere(!by_default, "control: not where the driver has split the SMs' memory");
}

}  // namespace helix::cuda
