// In which order one thread hands the tasks of two lanes to a card.
#pragma once

#include <vector>

#include "schedule/schedule.h"

namespace helix {

// The segment's tasks, each after those whose results it reads, each lane in its own order, and the
// compute lane as far ahead as it can be: attention of the next chunk stands before the exchange of
// this one.
std::vector<int> issue_order(const Schedule& schedule, const Segment& segment);

}  // namespace helix
