#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <cstdlib>

namespace helix::cpu {

void FreeMemory::operator()(std::byte* memory) const { std::free(memory); }

Memory take_memory(size_t bytes) {
  constexpr size_t huge = size_t{2} << 20;
  const size_t step = bytes >= 2 * huge ? huge : 64;
  const size_t rounded = (bytes + step - 1) / step * step;
  void* const memory = std::aligned_alloc(step, rounded == 0 ? step : rounded);
  // A wish: where it is not granted, small pages do.
  if (memory != nullptr && step == huge) static_cast<void>(madvise(memory, rounded, MADV_HUGEPAGE));
  return Memory(static_cast<std::byte*>(memory));
}

}  // namespace helix::cpu
