// What tests of sweeps share.
#pragma once

#include <string>

#include "bench/sweep.h"

namespace helix {

inline Sweep read(const Json& document, const std::string& folder = ".") {
  return read_sweep(parse_json("s.json", document.dump()), folder);
}

// A small sweep with some keys in place of its own.
inline Json with(const char* changes) {
  Json sweep = Json::parse(R"({"schema": "helix-bench/sweep/1", "name": "s",
    "model": "tiny-llama", "strategy": ["helix", "tp"], "ranks": 8, "batch": 8, "context": 4096})");
  const Json others = Json::parse(changes);
  for (const auto& [key, value] : others.items()) sweep[key] = value;
  return sweep;
}

}  // namespace helix
