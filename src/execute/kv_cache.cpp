#include "execute/kv_cache.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/random.h"

namespace helix {

void KvCache::add(int64_t tokens_of_request) {
  before.push_back(tokens());
  capacity.push_back(tokens_of_request);
}

void KvCache::hand_out_pages(uint64_t seed) {
  std::vector<int32_t> free(static_cast<size_t>(tokens() / page_tokens));
  std::iota(free.begin(), free.end(), 0);
  for (size_t i = free.size(); i > 1; --i) std::swap(free[i - 1], free[combine(seed, i) % i]);
  for (const int64_t room : capacity) most_pages = std::max(most_pages, room / page_tokens);
  pages.assign(capacity.size() * static_cast<size_t>(most_pages), 0);
  for (size_t row = 0; row < capacity.size(); ++row)
    for (int64_t i = 0; i < capacity[row] / page_tokens; ++i) {
      pages[row * static_cast<size_t>(most_pages) + static_cast<size_t>(i)] = free.back();
      free.pop_back();
    }
}

std::vector<int32_t> KvCache::swapped_pages() const {
  std::vector<int32_t> swapped = pages;
  const auto has_pages = [](int64_t room) { return room > 0; };
  const auto last = std::ranges::find_if(capacity.rbegin(), capacity.rend(), has_pages);
  if (!paged() || last == capacity.rend()) return swapped;
  const auto first_row = std::ranges::find_if(capacity, has_pages) - capacity.begin();
  const auto last_row = capacity.rend() - last - 1;
  std::swap(swapped[static_cast<size_t>(first_row * most_pages)],
            swapped[static_cast<size_t>(last_row * most_pages + *last / page_tokens - 1)]);
  return swapped;
}

}  // namespace helix
