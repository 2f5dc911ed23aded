#include "bench/environment.h"

#include <fmt/format.h>
#include <mpi.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "base/text.h"
#include "base/version.h"
#include "bench/world.h"

namespace helix {

namespace {

namespace fs = std::filesystem;

// The value of the first line "NAME : value" of a file of /proc; "" when there is none.
std::string value_in(const char* path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(name)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t first = line.find_first_not_of(" \t", colon + 1);
    return first == std::string::npos ? "" : line.substr(first);
  }
  return "";
}

std::string cpu_model() {
  for (const char* name : {"model name", "Model", "cpu model"})
    if (std::string model = value_in("/proc/cpuinfo", name); !model.empty()) return model;
  return "unknown";
}

std::string mpi_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  if (MPI_Get_library_version(text.data(), &length) != MPI_SUCCESS) return "unknown";
  const std::string_view whole(text.data(), static_cast<size_t>(length));
  return std::string(whole.substr(0, whole.find(',')));
}

Json gpus() {
  Json names = Json::array();
  std::error_code none;
  for (const auto& gpu : fs::directory_iterator("/proc/driver/nvidia/gpus", none))
    names.push_back(value_in((gpu.path() / "information").c_str(), "Model"));
  std::sort(names.begin(), names.end());
  return names;
}

bool has_prefix(std::string_view name, std::initializer_list<std::string_view> prefixes) {
  return std::ranges::any_of(prefixes, [&](std::string_view p) { return name.starts_with(p); });
}

bool allowed(std::string_view name) {
  const auto holds = [&](std::string_view word) { return name.find(word) != name.npos; };
  // Slurm's login token, and the key by which Open MPI's ranks know each other.
  if (holds("JWT") || holds("TOKEN") || holds("SECRET") || holds("PASSW") || holds("CREDENTIAL") ||
      holds("precondition_transports"))
    return false;
  return has_prefix(name,
                    {"NCCL_", "CUDA_", "OMPI_", "UCX_", "PMIX_", "SLURM_", "HELIX_BENCH_", "OMP_"});
}

// What a launcher sets anew for each launch.
bool of_launch(std::string_view name) {
  if (has_prefix(name, {"PMIX_MCA_"})) return false;
  return has_prefix(name, {"SLURM_", "PMIX_", "OMPI_COMM_WORLD_", "OMPI_UNIVERSE_", "OMPI_APP_",
                           "OMPI_FILE_", "OMPI_FIRST_", "OMPI_ARGV", "OMPI_COMMAND", "OMPI_NUM_APP",
                           "OMPI_MCA_ess_", "OMPI_MCA_orte_", "OMPI_MCA_pmix_"});
}

Json variables(bool launch) {
  std::map<std::string, std::string> found;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    const std::string_view name = text.substr(0, equals);
    if (allowed(name) && of_launch(name) == launch) found.emplace(name, text.substr(equals + 1));
  }
  return found;
}

Json build_facts() {
  const Version& built = version();
  return {{"commit", built.commit},       {"dirty", built.dirty},
          {"compiler", built.compiler},   {"flags", built.flags},
          {"optimised", built.optimised}, {"sanitizers", built.sanitizers},
          {"cuda", built.cuda},           {"cublas", built.cublas},
          {"nccl", built.nccl},           {"mpi", mpi_version()}};
}

Json machine_facts() {
  utsname system{};
  uname(&system);
  return {{"host", system.nodename},
          {"kernel", fmt::format("{} {}", system.sysname, system.release)},
          {"architecture", system.machine},
          {"cpu", cpu_model()},
          {"cores", sysconf(_SC_NPROCESSORS_ONLN)},
          {"cores_allowed", allowed_cores()},
          {"memory_bytes", int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE)},
          {"gpus", gpus()},
          {"driver", value_in("/proc/driver/nvidia/version", "NVRM version")}};
}

std::string hash_of(std::string_view text) {
  uint64_t hash = 0;
  for (const char c : text) hash = combine(hash, static_cast<uint8_t>(c));
  return fmt::format("{:016x}", hash);
}

std::string dumped(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Files of other versions may lack a field.
Json field(const Json& facts, const char* part, const char* name) {
  return facts.contains(part) && facts[part].is_object() ? facts[part].value(name, Json()) : Json();
}

}  // namespace

Environment environment(int argc, const char* const* argv, const Json& simulated) {
  Environment found;
  found.facts = {
      {"machine", machine_facts()}, {"build", build_facts()}, {"variables", variables(false)}};
  if (!simulated.is_null()) found.facts["simulated"] = simulated;
  // As it will be read back: a variable may hold what is not UTF-8.
  found.facts = Json::parse(dumped(found.facts));
  found.hash = hash_of(dumped(found.facts));
  found.launch = {{"started", utc_now()},
                  {"command", std::vector<std::string>(argv, argv + argc)},
                  {"variables", variables(true)}};
  return found;
}

std::string differs(const Json& before, const Json& now) {
  const auto commit = [](const Json& facts) {
    const Json hash = field(facts, "build", "commit");
    return short_commit(hash.is_string() ? hash.get<std::string>() : "unknown",
                        field(facts, "build", "dirty") == true);
  };
  if (commit(before) != commit(now))
    return fmt::format("another commit ({}, now {})", commit(before), commit(now));
  if (before.value("simulated", Json()) != now.value("simulated", Json()))
    return "another machine file";
  for (const char* name : {"cpu", "cores", "gpus"}) {
    const Json was = field(before, "machine", name);
    const Json is = field(now, "machine", name);
    if (was != is)
      return fmt::format("other hardware ({} {}, now {})", name, one_line(dumped(was), 80),
                         one_line(dumped(is), 80));
  }
  return "";
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", utc.tm_year + 1900, utc.tm_mon + 1,
                     utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

}  // namespace helix
