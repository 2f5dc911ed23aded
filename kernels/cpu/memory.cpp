#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>

namespace helix::cpu {

namespace {

constexpr size_t line = 64;
constexpr size_t page = size_t{2} << 20;
constexpr size_t shared_bytes = 4 * page;  // taken at once for blocks that share pages
#ifdef __SANITIZE_ADDRESS__
constexpr size_t most_shared = 0;  // what lies beyond a block is to be found
#else
constexpr size_t most_shared = 2 * page;  // a larger block has its own
#endif

size_t rounded(size_t bytes, size_t to) { return (std::max<size_t>(bytes, 1) + to - 1) / to * to; }

Memory own_pages(size_t bytes) {
  const size_t step = bytes < page ? line : page;
  const size_t size = rounded(bytes, step);
  auto* const memory = static_cast<std::byte*>(std::aligned_alloc(step, size));
  if (memory == nullptr) return nullptr;
  // A wish: where it is not granted, small pages do.
  if (step == page) static_cast<void>(madvise(memory, size, MADV_HUGEPAGE));
  return {memory, [](std::byte* m) { std::free(m); }};
}

}  // namespace

// Blocks are cut one after another; the pages are freed with the last block in them.
Memory take_memory(size_t bytes) {
  if (bytes >= most_shared) return own_pages(bytes);
  static std::mutex mutex;
  static Memory shared;
  static size_t taken = 0;
  const std::scoped_lock lock(mutex);
  if (shared.use_count() == 1) taken = 0;  // nobody else has a part of it any more
  const size_t wanted = rounded(bytes, line);
  if (!shared || taken + wanted > shared_bytes) {
    shared = own_pages(shared_bytes);
    taken = 0;
    if (!shared) return nullptr;
  }
  Memory block(shared, shared.get() + taken);
  taken += wanted;
  return block;
}

}  // namespace helix::cpu
