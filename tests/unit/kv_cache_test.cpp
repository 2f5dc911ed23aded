// A paged cache has a place for every token, no place twice, and an order that no other table has.
#include "execute/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "base/random.h"

namespace helix {
namespace {

KvCache cache_of(const std::vector<int64_t>& held, KvLayout layout, bool latent, uint64_t seed) {
  KvCache cache;
  cache.heads = latent ? 1 : 3;
  cache.key_values = latent ? 576 : 16;
  cache.value_values = latent ? 0 : 16;
  for (const int64_t tokens : held) cache.add(room_for(tokens, 16, layout));
  if (layout == KvLayout::paged) cache.hand_out_pages(seed);
  return cache;
}

std::vector<int64_t> some_lengths(uint64_t seed) {
  std::vector<int64_t> lengths;
  for (uint64_t i = 0; i < 1 + combine(seed, 0) % 6; ++i)
    lengths.push_back(static_cast<int64_t>(combine(seed, 1 + i) % 400));
  if (seed % 3 == 0) lengths.front() = lengths.back() = 0;
  return lengths;
}

TEST(KvCache, EveryTokenHasAPlaceOfItsOwn) {
  for (uint64_t seed = 0; seed < 60; ++seed)
    for (const KvLayout layout : {KvLayout::dense, KvLayout::paged}) {
      const std::vector<int64_t> held = some_lengths(seed);
      const KvCache cache = cache_of(held, layout, seed % 2 == 0, seed);
      std::set<int64_t> taken;
      int64_t vectors = 0;
      for (size_t i = 0; i < held.size(); ++i)
        for (int64_t head = 0; head < cache.heads; ++head)
          for (int64_t t = 0; t < held[i]; ++t) {
            const auto row = static_cast<int64_t>(i);
            const int64_t place = cache.place(row, t);
            EXPECT_TRUE(t % page_tokens == 0 || place == cache.place(row, t - 1) + 1);
            taken.insert(cache.first_key(row, head) + place * cache.key_values);
            ++vectors;
            if (cache.value_values == 0) continue;
            taken.insert(cache.first_value(row, head) + place * cache.value_values);
            ++vectors;
          }
      EXPECT_EQ(std::ssize(taken), vectors);
      if (taken.empty()) continue;
      EXPECT_GE(*taken.begin(), 0);
      EXPECT_LE(*taken.rbegin() + cache.key_values, cache.count());
    }
}

TEST(KvCache, PagesAreWholeAndShuffled) {
  const KvCache cache = cache_of({700, 0, 64, 65}, KvLayout::paged, false, 1);
  EXPECT_EQ(cache.capacity, (std::vector<int64_t>{704, 0, 64, 128}));
  EXPECT_EQ(cache.most_pages, 11);
  EXPECT_FALSE(std::ranges::is_sorted(cache.pages.begin(), cache.pages.begin() + 11));
  EXPECT_NE(cache.pages, cache_of({700, 0, 64, 65}, KvLayout::paged, false, 2).pages);
  EXPECT_EQ(cache.pages, cache_of({700, 0, 64, 65}, KvLayout::paged, false, 1).pages);
}

TEST(KvCache, TheWrongTableHasTwoPagesInEachOthersPlace) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const std::vector<int64_t> held = some_lengths(seed);
    const KvCache cache = cache_of(held, KvLayout::paged, false, seed);
    const std::vector<int32_t> wrong = cache.swapped_pages();
    EXPECT_TRUE(std::ranges::is_permutation(wrong, cache.pages));
    int64_t differing = 0;
    for (size_t i = 0; i < wrong.size(); ++i) differing += wrong[i] != cache.pages[i] ? 1 : 0;
    EXPECT_EQ(differing, cache.tokens() / page_tokens > 1 ? 2 : 0);
    EXPECT_TRUE(cache_of(held, KvLayout::dense, false, seed).swapped_pages().empty());
  }
}

}  // namespace
}  // namespace helix
