#include "base/version.h"

// Not given where a tool looks at this file alone.
#ifndef HELIX_GIT_COMMIT
#define HELIX_GIT_COMMIT "unknown"
#define HELIX_GIT_DIRTY 0
#define HELIX_BUILD_FLAGS ""
#define HELIX_CUDA_VERSION "not found"
#define HELIX_CUBLAS_VERSION "not found"
#define HELIX_NCCL_VERSION "not found"
#endif

namespace helix {

namespace {

#ifdef __clang__
constexpr std::string_view compiler = __VERSION__;
#else
constexpr std::string_view compiler = "gcc " __VERSION__;
#endif

#ifdef __OPTIMIZE__
constexpr bool optimised = true;
#else
constexpr bool optimised = false;
#endif

std::string_view sanitizers_in(std::string_view flags) {
  const std::string_view option = "-fsanitize=";
  const size_t at = flags.find(option);
  if (at == std::string_view::npos) return "";
  flags.remove_prefix(at + option.size());
  return flags.substr(0, flags.find(' '));
}

}  // namespace

const Version& version() {
  static const Version built{.commit = HELIX_GIT_COMMIT,
                             .dirty = HELIX_GIT_DIRTY != 0,
                             .compiler = compiler,
                             .flags = HELIX_BUILD_FLAGS,
                             .optimised = optimised,
                             .sanitizers = sanitizers_in(HELIX_BUILD_FLAGS),
                             .cuda = HELIX_CUDA_VERSION,
                             .cublas = HELIX_CUBLAS_VERSION,
                             .nccl = HELIX_NCCL_VERSION};
  return built;
}

std::string short_commit(std::string_view commit, bool dirty) {
  constexpr size_t digits = 12;
  return std::string(commit == "unknown" ? commit : commit.substr(0, digits)) + (dirty ? "+" : "");
}

}  // namespace helix
