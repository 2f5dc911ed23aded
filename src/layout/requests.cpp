#include "layout/requests.h"

namespace helix {

std::string_view name_of(KvLayout layout) { return layout == KvLayout::paged ? "paged" : "dense"; }

std::vector<Slice> cut(std::span<const int64_t> lengths, int64_t parts) {
  const auto count = static_cast<int64_t>(lengths.size());
  const auto weight = [&](int64_t i) {
    return lengths[static_cast<size_t>(i)] + 1;
  };  // a step costs something too
  int64_t left = 0;
  for (int64_t i = 0; i < count; ++i) left += weight(i);
  std::vector<Slice> cuts;
  int64_t next = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t parts_left = parts - part;
    const int64_t first = next;
    int64_t taken = 0;
    // Up to an equal share of what is left, leaving one request for each later part.
    while (next < count && taken * parts_left < left &&
           (next == first || count - next >= parts_left))
      taken += weight(next++);
    left -= taken;
    cuts.push_back({first, next - first});
  }
  return cuts;
}

}  // namespace helix
