// What `doctor` looks at, and how it says what it found.
#include "bench/doctor.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench/cards.h"
#include "machine/measure.h"
#include "machine/nvml.h"

namespace helix {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CardFacts, toolkit, driver, visible, error, name, id, bus_id,
                                   capability, has_kernels, exclusive, mps, reachable,
                                   free_before_bytes, free_bytes, total_bytes, nccl_built,
                                   nccl_found)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RankFacts, host, cores, host_cores, memory_bytes,
                                   address_space_bytes, locked_bytes, shared_memory_bytes,
                                   huge_pages, exchange_us, exchanged, card, nvml, throttled, ipc)

namespace {

namespace fs = std::filesystem;

double limit_of(decltype(RLIMIT_AS) resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return no_limit;
  return static_cast<double>(limit.rlim_cur);
}

double free_bytes_of(const char* folder) {
  struct statvfs found {};
  if (statvfs(folder, &found) != 0) return no_limit;
  return static_cast<double>(found.f_bavail) * static_cast<double>(found.f_frsize);
}

// "always madvise [never]"
std::string huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  for (std::string word; file >> word;)
    if (word.starts_with("[") && word.ends_with("]")) return word.substr(1, word.size() - 2);
  return "";
}

// "Open MPI v4.1.4, package: …"
std::string open_mpi_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  HELIX_MPI(MPI_Get_library_version(text.data(), &length));
  const std::string all(text.data(), static_cast<size_t>(length));
  constexpr std::string_view begin = "Open MPI v";
  return all.starts_with(begin) ? all.substr(begin.size(), all.find(',') - begin.size()) : "";
}

// The fastest of some all-to-alls, and whether each brought what was sent.
void exchange(const World& world, RankFacts& facts) {
  constexpr int bytes = 4096;
  constexpr int rounds = 20;
  const auto size = static_cast<size_t>(world.size());
  std::vector<char> sent(size * bytes);
  std::vector<char> came(size * bytes);
  const auto token = [&](int from, size_t to, int round) {
    return static_cast<char>(17 * from + 5 * static_cast<int>(to) + round);
  };
  facts.exchange_us = no_limit;
  for (int round = 0; round < rounds; ++round) {
    for (size_t to = 0; to < size; ++to)
      std::fill_n(sent.begin() + static_cast<int64_t>(to * bytes), bytes,
                  token(world.rank(), to, round));
    const auto began = std::chrono::steady_clock::now();
    HELIX_MPI(
        MPI_Alltoall(sent.data(), bytes, MPI_CHAR, came.data(), bytes, MPI_CHAR, world.comm()));
    facts.exchange_us =
        std::min(facts.exchange_us,
                 std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - began)
                     .count());
    for (size_t i = 0; i < came.size(); ++i)
      facts.exchanged &=
          came[i] == token(static_cast<int>(i / bytes), static_cast<size_t>(world.rank()), round);
  }
}

// Results are written by rank 0; what is missing of the path is made then.
void look_at_folder(Facts& facts) {
  std::error_code none;
  fs::path folder = fs::absolute(facts.folder, none);
  while (!fs::exists(folder, none) && folder.has_relative_path()) folder = folder.parent_path();
  if (!fs::is_directory(folder, none)) facts.folder_error = folder.string() + " is no folder";
  else if (access(folder.c_str(), W_OK | X_OK) != 0)
    facts.folder_error = folder.string() + " cannot be written";
  facts.folder_bytes = free_bytes_of(folder.c_str());
}

RankFacts examine_rank(const World& world) {
  RankFacts facts;
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  facts.host = name.data();
  facts.cores = allowed_cores();
  facts.host_cores = world.cores_on_this_host();
  facts.memory_bytes = std::min(available_memory(), no_limit);
  facts.address_space_bytes = limit_of(RLIMIT_AS);
  facts.locked_bytes = limit_of(RLIMIT_MEMLOCK);
  facts.shared_memory_bytes = free_bytes_of("/dev/shm");
  facts.huge_pages = huge_pages();
  exchange(world, facts);
  return facts;
}

void examine_card(const World& world, RankFacts& facts) {
  facts.card = look_at_card(local_rank(world));
  const CardMonitor monitor(facts.card.bus_id);
  facts.nvml = static_cast<bool>(monitor);
  facts.throttled = monitor.throttled();
  if (world.maximum(refusal(facts.card).empty() ? 0 : 1) == 0)
    facts.ipc = ipc_refusal(world.host());
}

}  // namespace

Facts examine(World& world, const DoctorOptions& options) {
  Facts facts{.ranks_launched = ranks_launched(),
              .mpi_found = open_mpi_version(),
              .folder = options.folder};
#ifdef OMPI_MAJOR_VERSION
  facts.mpi_built =
      fmt::format("{}.{}.{}", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION, OMPI_RELEASE_VERSION);
#endif
  look_at_folder(facts);
  RankFacts mine = examine_rank(world);
  if (options.gpu.value_or(true)) examine_card(world, mine);
  facts.gpu = options.gpu.value_or(mine.card.toolkit > 0);
  const nlohmann::json json = mine;
  for (const std::string& text : gather_texts(
           world.comm(), json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)))
    facts.ranks.push_back(nlohmann::json::parse(text).get<RankFacts>());
  return facts;
}

int doctor(World& world, const DoctorOptions& options) {
  const std::vector<Finding> findings = diagnose(examine(world, options));
  bool sound = true;
  constexpr std::string_view names[] = {"ok", "warning", "fault"};
  for (const Finding& finding : findings) {
    sound &= finding.health != Health::fault;
    // Also where each rank takes itself for the only one.
    if (world.leads() && rank_launched() == 0)
      fmt::print("{:<9}{:<16}{}\n", names[static_cast<size_t>(finding.health)], finding.check,
                 finding.text);
  }
  return static_cast<int>(sound ? Exit::done : Exit::bad_input);
}

}  // namespace helix
