// Names for profilers: what is launched while a Range lives stands under its name in Nsight
// Systems. Nothing is linked, and without a profiler it costs nanoseconds.
#pragma once

#include <nvtx3/nvToolsExt.h>

#include <string>
#include <string_view>

namespace helix::cuda {

class Range {
 public:
  explicit Range(std::string_view name) { nvtxRangePushA(std::string(name).c_str()); }
  ~Range() { nvtxRangePop(); }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
};

}  // namespace helix::cuda
