// A card as its driver's management library sees it: how fast it runs, what slows it down, what it
// takes. libnvidia-ml.so.1 is looked for when it is needed, so that nothing links it; what does not
// answer is unknown, and no error.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace helix {

// What is called of the library, null where it lacks a function; tests bring their own. 0 is
// success.
struct NvmlFunctions {
  using Device = void*;
  struct Memory {
    unsigned long long total, free, used;
  };
  struct Violation {
    unsigned long long reference_ns, violation_ns;
  };
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*device_by_bus_id)(const char* bus_id, Device* device) = nullptr;
  int (*energy)(Device, unsigned long long* millijoules) = nullptr;
  int (*throttle_reasons)(Device, unsigned long long* bits) = nullptr;
  int (*violation)(Device, int policy, Violation* time) = nullptr;
  int (*clock)(Device, int domain, unsigned* mhz) = nullptr;
  int (*memory)(Device, Memory* memory) = nullptr;
};
NvmlFunctions nvml_functions();  // of libnvidia-ml.so.1, which stays loaded

class CardMonitor {
 public:
  CardMonitor() = default;  // of no card: knows nothing
  explicit CardMonitor(const std::string& bus_id, const NvmlFunctions& nvml = nvml_functions());
  CardMonitor(CardMonitor&& other) noexcept;
  CardMonitor& operator=(CardMonitor&& other) noexcept;
  ~CardMonitor();

  explicit operator bool() const { return device_ != nullptr; }
  std::optional<double> energy_j() const;  // since the driver was loaded
  std::optional<double> free_bytes() const;
  std::optional<int> sm_clock_mhz() const;

  // What holds the clocks down now; one bit for each of throttle_names.
  uint32_t throttled() const;
  // The same of the time since the object was made, or since the last call: also what is over.
  uint32_t throttled_since();

 private:
  struct Held {  // nanoseconds so far
    uint64_t power = 0, thermal = 0;
  };
  Held held() const;

  NvmlFunctions nvml_;
  bool begun_ = false;
  NvmlFunctions::Device device_ = nullptr;
  Held held_;
};

// "power cap", "thermal slowdown"…, of the bits of throttled().
std::vector<std::string> throttle_names(uint32_t bits);

}  // namespace helix
