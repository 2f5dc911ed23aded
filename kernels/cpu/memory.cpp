#include "kernels/cpu/memory.h"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <span>

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

// The program's executable segment, in whole pages of the system.
std::span<std::byte> code_of_program() {
  std::span<std::byte> code;
  const auto find = [](dl_phdr_info* program, size_t, void* found) {
    for (const auto& segment : std::span(program->dlpi_phdr, program->dlpi_phnum)) {
      if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0) continue;
      const auto small = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
      const uintptr_t begin = (program->dlpi_addr + segment.p_vaddr) / small * small;
      const uintptr_t end = program->dlpi_addr + segment.p_vaddr + segment.p_memsz;
      *static_cast<std::span<std::byte>*>(found) = {reinterpret_cast<std::byte*>(begin),
                                                    rounded(end - begin, small)};
    }
    return 1;  // the program comes first, libraries after it
  };
  dl_iterate_phdr(find, &code);
  return code;
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

bool move_code() {
  if (std::getenv("HELIX_BENCH_KEEP_CODE") != nullptr) return false;
  const std::span<std::byte> code = code_of_program();
  const size_t taken = rounded(code.size(), page) + page;
  void* const mapped =
      mmap(nullptr, taken, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return false;
  auto* const memory = static_cast<std::byte*>(mapped);
  std::byte* const to = memory + (page - reinterpret_cast<uintptr_t>(memory) % page);
  static_cast<void>(madvise(to, taken - page, MADV_HUGEPAGE));
  std::memcpy(to, code.data(), code.size());
  __builtin___clear_cache(reinterpret_cast<char*>(to), reinterpret_cast<char*>(to + code.size()));
  const bool moved = mprotect(to, code.size(), PROT_READ | PROT_EXEC) == 0 &&
                     mremap(to, code.size(), code.size(), MREMAP_MAYMOVE | MREMAP_FIXED,
                            code.data()) != MAP_FAILED;
  std::byte* const rest = moved ? to + code.size() : to;
  munmap(memory, static_cast<size_t>(to - memory));
  munmap(rest, static_cast<size_t>(memory + taken - rest));
  return moved;
}

}  // namespace helix::cpu
