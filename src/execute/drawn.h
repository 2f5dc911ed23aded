// Which values of which stream of the generator stand in a part of a weight or of a history: what a
// card needs to make the values that model/weights.cpp makes. Not for marked models.
#pragma once

#include <vector>

#include "execute/store.h"

namespace helix {

// `rows` of `width` values; row r begins at value
// first + (r / run * jump + r % run) * stride of the stream.
struct DrawnPart {
  int64_t begins = 0;  // in the part, values
  Generator::Draw draw = {};
  int64_t first = 0;
  int64_t rows = 1;
  int64_t width = 0;
  int64_t stride = 0;
  int64_t run = int64_t{1} << 62;
  int64_t jump = 0;
};

// One after another, they fill the part.
std::vector<DrawnPart> drawn_parts(const Generator& generator, W weight, int64_t layer,
                                   const Part& part);
DrawnPart drawn_keys(const Generator& generator, const HistoryPart& history);
DrawnPart drawn_values(const Generator& generator, const HistoryPart& history);

}  // namespace helix
