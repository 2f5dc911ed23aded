#include "machine/nvml.h"

#include <dlfcn.h>

#include <array>
#include <string_view>

namespace helix {

namespace {

// Of nvml.h, and what they are called here. A card that idles, or keeps to clocks that somebody has
// set, is not throttled.
struct Reason {
  unsigned long long bit;
  std::string_view name;
};
constexpr std::array<Reason, 6> reasons = {{{0x04, "power cap"},
                                            {0x08, "hardware slowdown"},
                                            {0x10, "sync boost"},
                                            {0x20, "thermal slowdown"},
                                            {0x40, "hardware thermal slowdown"},
                                            {0x80, "power brake"}}};
constexpr uint32_t power_cap = 1U << 0;
constexpr uint32_t thermal_slowdown = 1U << 3;
constexpr int power_policy = 0;
constexpr int thermal_policy = 1;
constexpr int sm_domain = 1;

template <class Function>
void find(void* library, Function& function, const char* name) {
  function = reinterpret_cast<Function>(dlsym(library, name));
}

}  // namespace

NvmlFunctions nvml_functions() {
  static const NvmlFunctions found = [] {
    NvmlFunctions f;
    void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return f;
    find(library, f.init, "nvmlInit_v2");
    find(library, f.shutdown, "nvmlShutdown");
    find(library, f.device_by_bus_id, "nvmlDeviceGetHandleByPciBusId_v2");
    find(library, f.energy, "nvmlDeviceGetTotalEnergyConsumption");
    find(library, f.throttle_reasons, "nvmlDeviceGetCurrentClocksEventReasons");
    if (f.throttle_reasons == nullptr)  // its name until driver 535
      find(library, f.throttle_reasons, "nvmlDeviceGetCurrentClocksThrottleReasons");
    find(library, f.violation, "nvmlDeviceGetViolationStatus");
    find(library, f.clock, "nvmlDeviceGetClockInfo");
    find(library, f.memory, "nvmlDeviceGetMemoryInfo");
    return f;
  }();
  return found;
}

CardMonitor::CardMonitor(const std::string& bus_id, const NvmlFunctions& nvml) : nvml_(nvml) {
  if (nvml_.init == nullptr || nvml_.shutdown == nullptr || nvml_.device_by_bus_id == nullptr)
    return;
  begun_ = nvml_.init() == 0;
  if (!begun_ || nvml_.device_by_bus_id(bus_id.c_str(), &device_) != 0) device_ = nullptr;
  held_ = held();
}

CardMonitor::CardMonitor(CardMonitor&& other) noexcept
    : nvml_(other.nvml_),
      begun_(std::exchange(other.begun_, false)),
      device_(std::exchange(other.device_, nullptr)),
      held_(other.held_) {}

CardMonitor& CardMonitor::operator=(CardMonitor&& other) noexcept {
  std::swap(nvml_, other.nvml_);
  std::swap(begun_, other.begun_);
  std::swap(device_, other.device_);
  std::swap(held_, other.held_);
  return *this;
}

CardMonitor::~CardMonitor() {
  if (begun_) nvml_.shutdown();
}

std::optional<double> CardMonitor::energy_j() const {
  unsigned long long millijoules = 0;
  if (device_ == nullptr || nvml_.energy == nullptr || nvml_.energy(device_, &millijoules) != 0)
    return std::nullopt;
  return 1e-3 * static_cast<double>(millijoules);
}

std::optional<double> CardMonitor::free_bytes() const {
  NvmlFunctions::Memory memory{};
  if (device_ == nullptr || nvml_.memory == nullptr || nvml_.memory(device_, &memory) != 0)
    return std::nullopt;
  return static_cast<double>(memory.free);
}

std::optional<int> CardMonitor::sm_clock_mhz() const {
  unsigned mhz = 0;
  if (device_ == nullptr || nvml_.clock == nullptr || nvml_.clock(device_, sm_domain, &mhz) != 0)
    return std::nullopt;
  return static_cast<int>(mhz);
}

uint32_t CardMonitor::throttled() const {
  unsigned long long found = 0;
  if (device_ == nullptr || nvml_.throttle_reasons == nullptr ||
      nvml_.throttle_reasons(device_, &found) != 0)
    return 0;
  uint32_t bits = 0;
  for (size_t i = 0; i < reasons.size(); ++i)
    if ((found & reasons[i].bit) != 0) bits |= 1U << i;
  return bits;
}

CardMonitor::Held CardMonitor::held() const {
  const auto time = [&](int policy) -> uint64_t {
    NvmlFunctions::Violation violation{};
    if (device_ == nullptr || nvml_.violation == nullptr ||
        nvml_.violation(device_, policy, &violation) != 0)
      return 0;
    return violation.violation_ns;
  };
  return {time(power_policy), time(thermal_policy)};
}

uint32_t CardMonitor::throttled_since() {
  const Held now = held();
  const Held before = std::exchange(held_, now);
  return throttled() | (now.power > before.power ? power_cap : 0) |
         (now.thermal > before.thermal ? thermal_slowdown : 0);
}

std::vector<std::string> throttle_names(uint32_t bits) {
  std::vector<std::string> names;
  for (size_t i = 0; i < reasons.size(); ++i)
    if ((bits & 1U << i) != 0) names.emplace_back(reasons[i].name);
  return names;
}

}  // namespace helix
