// How fast a card reads: the yardstick of a run's roofline.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch.h"

namespace helix::cuda {

// Reads `bytes` (a multiple of 16) of device memory once; `sink` keeps the loads alive.
void read_all(int64_t bytes, const std::byte* from, float* sink, const Launch& launch);
// Whether kernels of this program run on the current card.
cudaError_t kernels_fit();

}  // namespace helix::cuda
