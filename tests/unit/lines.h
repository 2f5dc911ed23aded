// Result lines for tests, with every field that readers look at.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "base/json.h"

namespace helix {

struct LineOf {
  std::string key = "k";
  std::string strategy = "helix";
  double x = 100;  // tokens/s/user
  double y = 10;   // tokens/s/rank
  int64_t repeat = 1;
  std::string executor = "cpu";
  Json error = 1e-6;  // null: not verified, NaN as a line has it when `verified` stands
  bool verified = true;
  std::string model = "tiny-llama";
  Json depths = nullptr;
};

inline Json layout_of(const std::string& strategy) {
  return {{"strategy", strategy},
          {"pp", 1},
          {"dp", 1},
          {"kvp", 4},
          {"tpa", 2},
          {"tpf", 8},
          {"ep", 1},
          {"query", "replicate"},
          {"merge", "a2a"},
          {"mla", nullptr},
          {"ffn", "all"},
          {"moe", nullptr}};
}

inline Json ok(const LineOf& of) {
  const double ttl = 1e6 / of.x;
  Json line = {{"schema", "helix-bench/1.0"},
               {"key", of.key},
               {"point",
                {{"model", of.model},
                 {"layout", layout_of(of.strategy)},
                 {"batch", 8},
                 {"context", 4096},
                 {"precision", {{"weights", "bf16"}, {"kv", "bf16"}, {"activations", "bf16"}}},
                 {"hop_b", false},
                 {"chunks", 1},
                 {"interval", 32},
                 {"depths", of.depths},
                 {"routing", nullptr}}},
               {"executor", of.executor},
               {"exchange", "mpi"},
               {"machine", nullptr},
               {"shard", nullptr},
               {"repeat", of.repeat},
               {"ranks", 8},
               {"gpus", nullptr},
               {"oversubscribed", false},
               {"status", "ok"},
               {"reason", nullptr},
               {"ttl_us", {{"median", ttl}}},
               {"samples_us", {ttl, ttl}},
               {"tokens_per_s_per_user", of.x},
               {"tokens_per_s_per_gpu", nullptr},
               {"tokens_per_s_per_rank", of.y},
               {"verified", nullptr},
               {"environment", "e"}};
  if (of.verified) line["verified"] = {{"max_rel_err", of.error}, {"tolerance", 1e-5}};
  return line;
}

inline Json not_ok(const std::string& key, const std::string& status, const std::string& reason) {
  Json line = ok({.key = key, .verified = false});
  line["status"] = status;
  line["reason"] = reason;
  for (const char* name :
       {"ttl_us", "samples_us", "tokens_per_s_per_user", "tokens_per_s_per_rank"})
    line[name] = nullptr;
  return line;
}

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return (std::ostringstream() << file.rdbuf()).str();
}
inline void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// What an InputError, or another error, says; "" when nothing is thrown.
template <class Error, class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// A folder for one test, removed after it.
class FolderTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "helix-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder); }
  std::string folder;
};

}  // namespace helix
