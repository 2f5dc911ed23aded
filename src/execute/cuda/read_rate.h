// How fast the current card reads.
#pragma once

namespace helix::cuda {

// Bytes per second of a buffer that no cache holds: the fastest of a few times.
double read_rate(int multiprocessors);

}  // namespace helix::cuda
