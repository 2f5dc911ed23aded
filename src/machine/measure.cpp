#include "machine/measure.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>

namespace helix {

namespace {

// The number behind `name` in a file of lines "NAME 123"; `none` where there is no such thing.
double number_in(const char* path, std::string_view name, double none) {
  std::ifstream file(path);
  std::string word;
  double value = 0;
  while (file >> word)
    if (word == name && file >> value) return value;
  return none;
}

double only_number_in(const char* path, double none) {
  std::ifstream file(path);
  double value = 0;
  return file >> value ? value : none;  // "max" is no number
}

}  // namespace

double available_memory() {
  constexpr double unlimited = std::numeric_limits<double>::infinity();
  const double host = 1024 * number_in("/proc/meminfo", "MemAvailable:", unlimited);
  const double limit = only_number_in("/sys/fs/cgroup/memory.max", unlimited);
  const double taken = only_number_in("/sys/fs/cgroup/memory.current", 0);
  const double cache = number_in("/sys/fs/cgroup/memory.stat", "inactive_file", 0);
  return std::min(host, limit - taken + cache);
}

int64_t peak_resident_bytes() {
  return static_cast<int64_t>(1024 * number_in("/proc/self/status", "VmHWM:", 0));
}

void reset_peak_resident() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace helix
