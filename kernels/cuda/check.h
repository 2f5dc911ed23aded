// CUDA calls that cannot be ignored, and owners of what CUDA hands out.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace helix::cuda {

inline std::string text_of(cudaError_t error, const char* call, const char* file, int line) {
  return std::string(file) + ":" + std::to_string(line) + ": " + call + ": " +
         cudaGetErrorName(error) + ", " + cudaGetErrorString(error);
}
inline void throw_unless_success(cudaError_t error, const char* call, const char* file, int line) {
  if (error != cudaSuccess) throw std::runtime_error(text_of(error, call, file, line));
}
// For destructors: said, not thrown.
inline void report_unless_success(cudaError_t error, const char* call, const char* file,
                                  int line) noexcept {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s:%d: %s: %s\n", file, line, call, cudaGetErrorString(error));
}
#define HELIX_CUDA(call) ::helix::cuda::throw_unless_success((call), #call, __FILE__, __LINE__)
#define HELIX_CUDA_NOTHROW(call) \
  ::helix::cuda::report_unless_success((call), #call, __FILE__, __LINE__)

// Owns a handle that Destroy gives back.
template <class Handle, cudaError_t (*Destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) HELIX_CUDA_NOTHROW(Destroy(handle_));
  }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};
using OwnedStream = Owned<cudaStream_t, cudaStreamDestroy>;
using OwnedEvent = Owned<cudaEvent_t, cudaEventDestroy>;
using OwnedGraph = Owned<cudaGraph_t, cudaGraphDestroy>;
using OwnedGraphExec = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

enum class Urgency : uint8_t { usual, first };  // first: its blocks go before those that wait
inline OwnedStream make_stream(Urgency urgency = Urgency::usual) {
  cudaStream_t stream = nullptr;
  int least = 0;
  int most = 0;
  HELIX_CUDA(cudaDeviceGetStreamPriorityRange(&least, &most));
  HELIX_CUDA(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                          urgency == Urgency::first ? most : least));
  return OwnedStream(stream);
}
inline OwnedEvent make_event() {
  cudaEvent_t event = nullptr;
  HELIX_CUDA(cudaEventCreate(&event));
  return OwnedEvent(event);
}
// What `body` launches into `stream`, as a graph.
template <class Body>
OwnedGraphExec capture(cudaStream_t stream, Body&& body) {
  HELIX_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    body();
  } catch (...) {
    HELIX_CUDA_NOTHROW(cudaStreamEndCapture(stream, &graph));
    if (graph != nullptr) HELIX_CUDA_NOTHROW(cudaGraphDestroy(graph));
    throw;
  }
  HELIX_CUDA(cudaStreamEndCapture(stream, &graph));
  const OwnedGraph owned(graph);
  cudaGraphExec_t exec = nullptr;
  HELIX_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  return OwnedGraphExec(exec);
}

// To the card, and there when it returns. cudaMemcpy alone may leave pageable memory's last part
// under way, and streams of ours do not wait for the default one.
inline void upload(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  HELIX_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
  HELIX_CUDA(cudaStreamSynchronize(nullptr));
}

// Device memory of this process: all of it is allocated here, and counted.
inline std::atomic<int64_t> held_bytes = 0;
inline void* allocate_bytes(int64_t bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    static_cast<void>(cudaGetLastError());
    size_t free = 0;
    size_t total = 0;
    HELIX_CUDA(cudaMemGetInfo(&free, &total));
    throw OutOfMemory("out of GPU memory: " + std::to_string(bytes) + " bytes wanted, " +
                      std::to_string(free) + " free");
  }
  throw_unless_success(error, "cudaMalloc", __FILE__, __LINE__);
  held_bytes += bytes;
  return data;
}
inline void free_bytes(void* data, int64_t bytes) noexcept {
  HELIX_CUDA_NOTHROW(cudaFree(data));
  held_bytes -= bytes;
}

// `count` values in device memory, not initialised.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) : count_(count) {
    if (count > 0) data_ = static_cast<T*>(allocate_bytes(bytes()));
  }
  explicit Buffer(std::span<const T> values) : Buffer(static_cast<int64_t>(values.size())) {
    upload(data_, values.data(), values.size_bytes());
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) free_bytes(data_, bytes());
  }
  T* data() const { return data_; }
  int64_t count() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }
  // On the device's default stream, after everything that was launched before.
  std::vector<T> read() const {
    std::vector<T> values(static_cast<size_t>(count_));
    HELIX_CUDA(cudaDeviceSynchronize());
    if (count_ > 0)
      HELIX_CUDA(
          cudaMemcpy(values.data(), data_, static_cast<size_t>(bytes()), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace helix::cuda
