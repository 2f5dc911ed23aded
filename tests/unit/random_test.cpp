#include "base/random.h"

#include <gtest/gtest.h>

#include <set>

namespace helix {
namespace {

// Seeds, tensors and layers are small numbers: each triple must be a stream of its own.
TEST(Random, SmallKeysMakeDistinctStreams) {
  std::set<uint64_t> streams;
  for (uint64_t seed = 0; seed < 32; ++seed)
    for (uint64_t tensor = 0; tensor < 32; ++tensor)
      for (uint64_t layer = 0; layer < 64; ++layer)
        streams.insert(combine(combine(seed, tensor), layer));
  EXPECT_EQ(streams.size(), 32U * 32U * 64U);
}

}  // namespace
}  // namespace helix
