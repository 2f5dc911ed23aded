// How kernels are timed on a GPU: CUDA graphs of launches, in steady state.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/random.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/generate.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

inline OwnedStream stream;
inline int sms = 0;
inline std::string only;
inline double ceiling = 0;  // bytes a microsecond
inline bool h200 = false;
// Microseconds that a peer was measured to take on an H200 and on an H100; 0: not measured.
struct Quoted {
  double on_h200 = 0, on_h100 = 0;
  double here() const { return h200 ? on_h200 : on_h100; }
};
inline constexpr double matrix_rate = 780e6;  // bf16 FLOPs a microsecond (measured, 8192^3)

inline Launch how() { return {stream.get(), sms, true}; }

inline bool wanted(const std::string& name) { return name.find(only) != std::string::npos; }

// Median microseconds of a graph of `nodes` launches; node(i) launches the i-th.
template <class Node>
double graph_us(int nodes, Node&& node) {
  const OwnedGraphExec graph = capture(stream.get(), [&] {
    for (int i = 0; i < nodes; ++i) node(i);
  });
  const OwnedEvent begin = make_event(), end = make_event();
  std::vector<float> times;
  for (int i = 0; i < 23; ++i) {
    HELIX_CUDA(cudaEventRecord(begin.get(), stream.get()));
    HELIX_CUDA(cudaGraphLaunch(graph.get(), stream.get()));
    HELIX_CUDA(cudaEventRecord(end.get(), stream.get()));
    HELIX_CUDA(cudaEventSynchronize(end.get()));
    float ms = 0;
    HELIX_CUDA(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    if (i >= 3) times.push_back(ms * 1000);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Microseconds of a launch in steady state: what 2 n more of them add to a graph of n.
template <class Node>
double node_us(int nodes, Node&& node) {
  return (graph_us(3 * nodes, node) - graph_us(nodes, node)) / (2 * nodes);
}

inline int nodes_for(double bytes) { return std::clamp(static_cast<int>(3e9 / bytes), 8, 100); }

template <class T>
Buffer<T> drawn(int64_t count, float scale) {
  static uint64_t stream_key = 1;
  Buffer<T> buffer(count);
  generate({.stream = combine(stream_key++, 0), .scale = scale}, {.width = count}, buffer.data(),
           {stream.get(), sms, false});
  return buffer;
}

inline void print(const std::string& name, double bytes, double flops, double us,
                  const Quoted& quoted, const char* peer) {
  const double floor = std::max(bytes / ceiling, flops / matrix_rate);
  std::printf(
      "{\"case\": \"%s\", \"bytes\": %.0f, \"us\": %.2f, \"floor_us\": %.2f, \"over_floor\": %.3f, "
      "\"gb_per_s\": %.0f",
      name.c_str(), bytes, us, floor, us / floor, bytes / us / 1e3);
  if (const double peer_us = quoted.here(); peer_us > 0) {
    std::printf(", \"peer\": \"%s\", \"peer_us\": %.1f, \"peer_over_ours\": %.2f", peer, peer_us,
                peer_us / us);
  }
  std::printf("}\n");
  std::fflush(stdout);
}

}  // namespace helix::cuda
