// In verified steps the codes of a newest token are the judge's: two roundings of almost equal
// numbers may fall on neighbouring codes, and what follows would differ by more than rounding.
#pragma once

#include <algorithm>
#include <cmath>

#include "base/format.h"
#include "execute/executor.h"

namespace helix {

// How far the next code is from the one that stands at `index`.
template <class T>
float code_step(const Values<const T>& at, int64_t index) {
  if constexpr (std::is_same_v<T, nvfp4>) {
    const unsigned code = at.codes[index / 2] >> (index % 2 * 4) & 7U;
    const float size = code < 4 ? 0.5F : code < 6 ? 1.0F : 2.0F;
    return size * to_float(at.scales[index / nvfp4_block]) * at.scale;
  } else {
    const unsigned exponent = at.data[index].bits >> 3 & 15U;
    return std::ldexp(at.scale, static_cast<int>(std::max(exponent, 1U)) - 10);
  }
}

// Goes on with the judge's codes of one vector, and counts how the own ones, in `stored`, differ.
template <class T>
void force_codes(const Values<const T>& judged, int64_t count, const Values<T>& stored,
                 ForcedCodes& met) {
  const Values<const T> own = stored;
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(value_at(judged, i)));
  met.codes += count;
  for (int64_t i = 0; i < count; ++i) {
    const float difference = std::abs(value_at(own, i) - value_at(judged, i));
    if (difference == 0) continue;
    ++met.differing;
    const double beyond = difference - std::max(code_step(own, i), code_step(judged, i));
    if (!(beyond <= met.beyond * largest)) met.beyond = beyond / largest;
  }
  copy(judged, count, stored);
}

}  // namespace helix
