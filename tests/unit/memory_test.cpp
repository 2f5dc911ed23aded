// Blocks that share pages are apart, and stay when their neighbours go.
#include "kernels/cpu/memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

namespace helix::cpu {
namespace {

struct Filled {
  Memory memory;
  size_t bytes;
  std::byte value;

  bool intact() const {
    for (size_t i = 0; i < bytes; ++i)
      if (memory.get()[i] != value) return false;
    return true;
  }
};

TEST(Memory, BlocksAreApartWhateverIsTakenAndFreed) {
  std::mt19937 engine(1);
  const std::vector<size_t> sizes = {0,      1, 63, 64, 65, 4096, 100'000, 1 << 20, (4 << 20) - 1,
                                     4 << 20};
  std::vector<Filled> blocks;
  for (int i = 0; i < 300; ++i) {
    const size_t bytes = sizes[engine() % sizes.size()];
    Filled block{take_memory(bytes), bytes, static_cast<std::byte>(i % 251)};
    ASSERT_TRUE(block.memory);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(block.memory.get()) % 64, 0);
    std::memset(block.memory.get(), static_cast<int>(block.value), bytes);
    blocks.push_back(std::move(block));
    if (blocks.size() < 12) continue;
    const auto gone = blocks.begin() + static_cast<ptrdiff_t>(engine() % blocks.size());
    ASSERT_TRUE(gone->intact()) << gone->bytes;
    blocks.erase(gone);
  }
  for (const Filled& block : blocks) ASSERT_TRUE(block.intact()) << block.bytes;
}

TEST(Memory, LargeBlocksBeginAPageOfTheirOwn) {
  for (const size_t bytes : {size_t{4} << 20, size_t{5'000'000}})
    EXPECT_EQ(reinterpret_cast<uintptr_t>(take_memory(bytes).get()) % (2 << 20), 0);
}

TEST(Memory, TooMuchIsNull) { EXPECT_FALSE(take_memory(size_t{1} << 60)); }

}  // namespace
}  // namespace helix::cpu
