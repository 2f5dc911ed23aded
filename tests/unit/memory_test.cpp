// Blocks that share pages are apart, and stay when their neighbours go.
#include "kernels/cpu/memory.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <thread>
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

// What /proc/self/maps says of the memory that an address is in: "r-xp ... /path".
std::string mapping_of(uintptr_t address) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    char* at = nullptr;
    const uintptr_t begin = std::strtoull(line.c_str(), &at, 16);
    const uintptr_t end = std::strtoull(at + 1, &at, 16);
    if (begin <= address && address < end) return at + 1;
  }
  return "";
}

[[gnu::noinline]] int thrown_in_moved_code(int value) {
  try {
    throw value;
  } catch (int caught) {
    return caught;
  }
}

TEST(Memory, CodeMovesFromItsFileAndRunsOn) {
  const auto code = reinterpret_cast<uintptr_t>(&thrown_in_moved_code);
  std::array<char, 64> before, after;
  std::memcpy(before.data(), reinterpret_cast<const char*>(code), before.size());
  ASSERT_NE(mapping_of(code).find('/'), std::string::npos) << mapping_of(code);
  setenv("HELIX_BENCH_KEEP_CODE", "1", 1);
  EXPECT_FALSE(move_code());
  EXPECT_NE(mapping_of(code).find('/'), std::string::npos);
  unsetenv("HELIX_BENCH_KEEP_CODE");
  std::atomic<bool> over = false;
  std::thread other([&] {  // a thread runs on while its code is moved
    while (!over) EXPECT_EQ(thrown_in_moved_code(7), 7);
  });
  EXPECT_TRUE(move_code());
  EXPECT_TRUE(move_code());  // from there as from the file
  over = true;
  other.join();
  EXPECT_EQ(mapping_of(code).substr(0, 4), "r-xp");
  EXPECT_EQ(mapping_of(code).find('/'), std::string::npos) << mapping_of(code);
  std::memcpy(after.data(), reinterpret_cast<const char*>(code), after.size());
  EXPECT_EQ(before, after);
  EXPECT_EQ(thrown_in_moved_code(3), 3);
}

TEST(Memory, TooMuchIsNull) { EXPECT_FALSE(take_memory(size_t{1} << 60)); }

}  // namespace
}  // namespace helix::cpu
