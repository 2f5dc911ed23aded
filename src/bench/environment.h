// Where a measurement was made: enough to repeat it, or to see why it differs.
#pragma once

#include <string>

#include "base/json.h"

namespace helix {

struct Environment {
  std::string hash;  // 16 hexadecimal digits over `facts`
  Json facts;   // the same for every launch of this program on this machine with these settings
  Json launch;  // this launch alone: start, command line, what the launcher set
};

// Of rank 0's host. Variables are taken by an allow-list of prefixes, never credentials.
// `simulated`: of what is priced, not measured, the machine it is priced on.
Environment environment(int argc, const char* const* argv, const Json& simulated = {});

// What keeps `facts` of two launches from being mixed unasked: "another commit (a, now b)",
// "another CPU (...)"; empty when they belong together.
std::string differs(const Json& before, const Json& now);

// The time as "2025-01-31T23:59:59Z".
std::string utc_now();

}  // namespace helix
