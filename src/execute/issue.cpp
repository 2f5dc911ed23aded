#include "execute/issue.h"

namespace helix {

std::vector<int> issue_order(const Schedule& schedule, const Segment& segment) {
  std::vector<int> order;
  std::array<int, 2> next = {segment.begin, segment.begin};  // of each lane
  const auto lane_of = [&](int i) {
    return static_cast<size_t>(schedule.tasks[static_cast<size_t>(i)].lane);
  };
  const auto skip_others = [&](size_t lane) {
    while (next.at(lane) < segment.end && lane_of(next.at(lane)) != lane) ++next.at(lane);
  };
  skip_others(0);
  skip_others(1);
  const auto ready = [&](size_t lane) {
    return next.at(lane) < segment.end &&
           schedule.tasks[static_cast<size_t>(next.at(lane))].after.at(1 - lane) <
               next.at(1 - lane);
  };
  while (next[0] < segment.end || next[1] < segment.end) {
    const size_t lane = ready(0) ? 0 : 1;
    order.push_back(next.at(lane)++);
    skip_others(lane);
  }
  return order;
}

}  // namespace helix
