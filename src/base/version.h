// What this program was built from. The Makefile hands the facts to version.cpp alone, so that a
// commit compiles one file.
#pragma once

#include <string>
#include <string_view>

namespace helix {

struct Version {
  std::string_view commit;  // "unknown" outside git
  bool dirty;               // sources differed from the commit
  std::string_view compiler;
  std::string_view flags;
  bool optimised;
  std::string_view sanitizers;  // "" for none
  // "not found" where the build found none.
  std::string_view cuda;
  std::string_view cublas;
  std::string_view nccl;
};

const Version& version();

// The first digits of the commit, "+" when the sources were changed since: "1a2b3c4d5e6f+".
std::string short_commit(std::string_view commit, bool dirty);

}  // namespace helix
