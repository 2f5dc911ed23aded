// What is written down about a place, and above all what is not.
#include "bench/environment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace helix {
namespace {

Environment here(std::vector<const char*> words = {"helix-bench", "run"}) {
  return environment(static_cast<int>(words.size()), words.data());
}

TEST(Environment, NamesTheMachineAndTheBuild) {
  const Environment now = here();
  for (const char* name : {"host", "kernel", "cpu", "cores", "cores_allowed", "memory_bytes"})
    EXPECT_TRUE(now.facts["machine"].contains(name)) << name;
  for (const char* name : {"commit", "dirty", "compiler", "mpi"})
    EXPECT_TRUE(now.facts["build"].contains(name)) << name;
  EXPECT_GE(now.facts["machine"]["cores_allowed"], 1);
  EXPECT_EQ(now.launch["command"], (Json{"helix-bench", "run"}));
  EXPECT_EQ(now.hash.size(), 16U);
}

TEST(Environment, TakesOnlyListedVariablesAndNoCredentials) {
  setenv("NCCL_DEBUG", "WARN", 1);
  setenv("AWS_SECRET_ACCESS_KEY", "hidden-value", 1);
  setenv("SLURM_JWT", "hidden-value", 1);
  setenv("HELIX_BENCH_TOKEN", "hidden-value", 1);
  setenv("MY_NCCL_DEBUG", "hidden-value", 1);
  const Environment now = here();
  EXPECT_EQ(now.facts["variables"]["NCCL_DEBUG"], "WARN");
  EXPECT_EQ((now.facts.dump() + now.launch.dump()).find("hidden-value"), std::string::npos);
  unsetenv("NCCL_DEBUG");
}

TEST(Environment, TheHashIsThatOfThePlaceAndNotOfTheLaunch) {
  const std::string hash = here().hash;
  setenv("SLURM_JOB_ID", "12", 1);
  EXPECT_EQ(here({"helix-bench", "verify"}).hash, hash);
  EXPECT_EQ(here().launch["variables"]["SLURM_JOB_ID"], "12");
  unsetenv("SLURM_JOB_ID");
  setenv("UCX_TLS", "tcp", 1);
  EXPECT_NE(here().hash, hash);
  unsetenv("UCX_TLS");
}

TEST(Environment, AVariableMayHoldAnyBytes) {
  setenv("OMPI_ODD", "\xff\n\x01", 1);
  const Environment now = here();
  EXPECT_EQ(Json::parse(now.facts.dump()), now.facts);
  unsetenv("OMPI_ODD");
}

TEST(Environment, DiffersNamesCommitAndHardware) {
  const Json now = here().facts;
  EXPECT_EQ(differs(now, now), "");
  Json other = now;
  other["machine"]["host"] = "another";
  EXPECT_EQ(differs(other, now), "");
  other["machine"]["cpu"] = "Z80";
  EXPECT_THAT(differs(other, now), testing::HasSubstr("other hardware (cpu \"Z80\""));
  other["build"]["commit"] = "1";
  EXPECT_THAT(differs(other, now), testing::HasSubstr("another commit (1"));
  for (const Json& odd : {Json(), Json::array(), Json{{"build", 1}, {"machine", "x"}}})
    EXPECT_NE(differs(odd, now), "");
}

}  // namespace
}  // namespace helix
