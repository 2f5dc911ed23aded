// Every corpus file of every fuzz target goes through the target's entry point, without libFuzzer.
// A target is a file of tests/fuzz/; it is included here under a name of its own.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#define LLVMFuzzerTestOneInput replay_json
#include "tests/fuzz/json_fuzz.cpp"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput replay_model
#include "tests/fuzz/model_fuzz.cpp"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput replay_safetensors
#include "tests/fuzz/safetensors_fuzz.cpp"
#undef LLVMFuzzerTestOneInput
#define LLVMFuzzerTestOneInput replay_sweep
#include "tests/fuzz/sweep_fuzz.cpp"
#undef LLVMFuzzerTestOneInput

namespace {

namespace fs = std::filesystem;

struct Target {
  const char* name;
  int (*entry)(const uint8_t*, size_t);
};

const std::vector<Target> targets = {{"json", replay_json},
                                     {"model", replay_model},
                                     {"safetensors", replay_safetensors},
                                     {"sweep", replay_sweep}};

fs::path corpus() {
#ifdef HELIX_SOURCE_DIR
  const fs::path root = HELIX_SOURCE_DIR;
#else
  const char* variable = std::getenv("HELIX_SOURCE_DIR");
  const fs::path root = variable != nullptr ? variable : ".";
#endif
  return root / "tests" / "fuzz" / "corpus";
}

class FuzzReplay : public testing::TestWithParam<Target> {};

TEST_P(FuzzReplay, CorpusHolds) {
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(corpus() / GetParam().name)) {
    SCOPED_TRACE(entry.path().string());
    std::ifstream file(entry.path(), std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    GetParam().entry(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    ++files;
  }
  EXPECT_GT(files, 0U);
}

// A corpus nobody replays, or a target without one, is forgotten here.
TEST(FuzzReplay, EveryFolderHasATarget) {
  size_t folders = 0;
  for (const auto& entry : fs::directory_iterator(corpus())) folders += entry.is_directory();
  EXPECT_EQ(folders, targets.size());
}

INSTANTIATE_TEST_SUITE_P(Targets, FuzzReplay, testing::ValuesIn(targets),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
