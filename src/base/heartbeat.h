// Signs of life: whoever finishes a task, a block of generated values or a row of the judge says
// so; the watchdog (bench/watchdog.h) ends a run that has gone silent.
#pragma once

#include <atomic>
#include <cstdint>

namespace helix {

inline std::atomic<uint64_t> heartbeats{0};
inline void beat() { heartbeats.fetch_add(1, std::memory_order_relaxed); }

}  // namespace helix
