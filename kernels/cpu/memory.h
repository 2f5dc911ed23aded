// Memory for what is read again and again.
#pragma once

#include <cstddef>
#include <memory>

namespace helix::cpu {

using Memory = std::shared_ptr<std::byte>;

// `bytes` of anything, aligned to 64, in pages of 2 MiB where the system has any, because each page
// of 4 KiB costs a walk through its tables (in a virtual machine through two), and where it stands
// in the caches then changes from run to run. From 4 MiB on the pages are its own, and nothing has
// touched them. Null: there is not enough.
Memory take_memory(size_t bytes);

// Moves the program's code, its addresses as they were, from its file's pages to such memory. Where
// a file's pages happen to stand can slow a loop by a sixth, in every launch until the file is
// written anew (results/published/cpu-kernels.md). False where the system does not allow it, or
// HELIX_BENCH_KEEP_CODE is set: perf knows no names in memory without a file.
bool move_code();

}  // namespace helix::cpu
