// Between the host's memory and the card's, when both have ended what they do with it.
#pragma once

#include <span>

#include "kernels/cuda/check.h"

namespace helix::cuda {

template <class T>
void read(const T* from, std::span<T> to) {
  HELIX_CUDA(cudaMemcpy(to.data(), from, to.size_bytes(), cudaMemcpyDeviceToHost));
}
template <class T>
void write(std::span<const T> from, T* to) {
  upload(to, from.data(), from.size_bytes());
}

}  // namespace helix::cuda
