#include "execute/weights.h"

#include <set>
#include <tuple>

namespace helix {

bool operator<(const WeightSlice& a, const WeightSlice& b) {
  const auto axes = [](const WeightSlice& s) {
    std::array<int64_t, 8> all = {};
    for (size_t axis = 0; axis < s.part.size(); ++axis) {
      all[2 * axis] = s.part[axis].first;
      all[2 * axis + 1] = s.part[axis].count;
    }
    return std::tuple(s.weight, s.layer, all);
  };
  return axes(a) < axes(b);
}

void HeldWeights::keep(const std::string& values, const std::vector<WeightSlice>& wanted) {
  values_ = values;
  if (bytes() <= spare_bytes_) return;
  std::erase_if(held_, [&](const auto& entry) { return entry.first != values; });
  const std::set<WeightSlice> all(wanted.begin(), wanted.end());
  std::erase_if(held_[values], [&](const auto& entry) { return !all.contains(entry.first); });
}

std::shared_ptr<HeldWeights::Held> HeldWeights::hold(const WeightSlice& slice, double bytes,
                                                     const Allocate& allocate) {
  std::shared_ptr<Held>& held = held_[values_][slice];
  if (!held)
    held = std::make_shared<Held>(Held{allocate(static_cast<size_t>(bytes)), bytes, false});
  return held;
}

double HeldWeights::bytes() const {
  double sum = 0;
  for (const auto& [values, slices] : held_)
    for (const auto& [slice, held] : slices) sum += held->bytes;
  return sum;
}

}  // namespace helix
