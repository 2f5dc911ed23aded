// Memory for what is read again and again.
#pragma once

#include <cstddef>
#include <memory>

namespace helix::cpu {

struct FreeMemory {
  void operator()(std::byte* memory) const;
};
using Memory = std::unique_ptr<std::byte, FreeMemory>;

// `bytes` that nothing has touched, aligned to 64; from 4 MiB on in pages of 2 MiB where the system
// has any, because each page of 4 KiB costs a walk through its tables (in a virtual machine through
// two), and where it stands in the caches then changes from run to run. Null: there is not enough.
Memory take_memory(size_t bytes);

}  // namespace helix::cpu
