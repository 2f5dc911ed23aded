// Words of the command line that several commands take.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "bench/results.h"

namespace helix {

// "I/N" with 1 <= I <= N; throws InputError for anything else.
std::pair<int64_t, int64_t> part_of(const std::string& option, const std::string& text);

Resume resume_of(const std::string& text);  // "", "yes" or "mixed"

}  // namespace helix
