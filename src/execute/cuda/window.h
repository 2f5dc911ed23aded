// What NCCL tells only the device.
#pragma once

#include <cstddef>

namespace helix::cuda {

// `window`: an ncclWindow_t. Into bases, in device memory, where each of the first `count` ranks of
// this GPU's NVLink domain has it, in this rank's address space. On the default stream. Throws
// RunError where this program is built without NCCL 2.28.
void window_bases(void* window, int count, std::byte** bases);

}  // namespace helix::cuda
