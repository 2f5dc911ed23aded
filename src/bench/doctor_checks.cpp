// The checks of `doctor`, as functions of facts.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "bench/doctor.h"
#include "machine/nvml.h"

namespace helix {

namespace {

struct Judged {
  Health health;
  std::string text;
};
template <class... Words>
Judged ok(fmt::format_string<Words...> text, Words&&... words) {
  return {Health::ok, fmt::format(text, std::forward<Words>(words)...)};
}
template <class... Words>
Judged warning(fmt::format_string<Words...> text, Words&&... words) {
  return {Health::warning, fmt::format(text, std::forward<Words>(words)...)};
}
template <class... Words>
Judged fault(fmt::format_string<Words...> text, Words&&... words) {
  return {Health::fault, fmt::format(text, std::forward<Words>(words)...)};
}

using Ranks = std::vector<const RankFacts*>;

// Ranks of each host, or of each card.
std::map<std::string, Ranks> grouped(const Facts& facts, std::string (*name)(const RankFacts&)) {
  std::map<std::string, Ranks> groups;
  for (const RankFacts& rank : facts.ranks) groups[name(rank)].push_back(&rank);
  return groups;
}
std::map<std::string, Ranks> hosts(const Facts& facts) {
  return grouped(facts, [](const RankFacts& rank) { return rank.host; });
}
std::map<std::string, Ranks> cards(const Facts& facts) {
  return grouped(facts, [](const RankFacts& rank) { return rank.card.id; });
}
size_t most_of_a_card(const Facts& facts) {
  size_t most = 0;
  for (const auto& [id, ranks] : cards(facts)) most = std::max(most, ranks.size());
  return most;
}

// The worst of what is said of each of some; of equals the first.
template <class All, class Judge>
Judged worst(const All& all, const Judge& judge) {
  Judged found{Health::ok, ""};
  for (const auto& each : all)
    if (Judged now = judge(each); found.text.empty() || now.health > found.health)
      found = std::move(now);
  return found;
}

std::string gb(double bytes) {
  if (bytes >= no_limit) return "unlimited";
  return bytes < 1e9 ? fmt::format("{:.0f} MB", bytes / 1e6)
                     : fmt::format("{:.1f} GB", bytes / 1e9);
}

// The launch ----------------------------------------------------------------------------------

Judged world(const Facts& facts) {
  const auto size = static_cast<int>(facts.ranks.size());
  if (size == 1 && facts.ranks_launched > 1)
    return fault(
        "{} ranks were started, each a world of its own: start them with the mpirun of the MPI "
        "that "
        "this program was built with (helix-bench --version), or with srun --mpi=pmix",
        facts.ranks_launched);
  if (facts.ranks_launched > 0 && facts.ranks_launched != size)
    return fault("the launcher counts {} ranks, MPI {}: one launcher inside another?",
                 facts.ranks_launched, size);
  return ok("{} {} on {} {}", size, size == 1 ? "rank" : "ranks", hosts(facts).size(),
            hosts(facts).size() == 1 ? "host" : "hosts");
}

Judged mpi(const Facts& facts) {
  if (facts.mpi_built.empty())
    return warning("no Open MPI: this program is tried with Open MPI 4.1 and later alone");
  if (facts.mpi_found.substr(0, 2) != facts.mpi_built.substr(0, 2))
    return fault("Open MPI {} is loaded, but this program was built with {}: load that one",
                 facts.mpi_found, facts.mpi_built);
  if (facts.mpi_found < "4.1")
    return warning("Open MPI {}: 4.1 or later is wanted", facts.mpi_found);
  return ok("Open MPI {}", facts.mpi_found);
}

Judged messages(const Facts& facts) {
  const auto wrong = std::ranges::find(facts.ranks, false, &RankFacts::exchanged);
  if (wrong != facts.ranks.end())
    return fault("rank {} did not receive what was sent: do not trust this MPI or network",
                 wrong - facts.ranks.begin());
  const double us = std::ranges::max(facts.ranks, {}, &RankFacts::exchange_us).exchange_us;
  if (us > 1000)
    return warning(
        "4 KB to each rank take {:.0f} us over MPI: ranks wait for cores (mpirun --mca "
        "mpi_yield_when_idle 1), or the network is slow",
        us);
  return ok("4 KB to each rank take {:.0f} us over MPI", us);
}

Judged cores(const Facts& facts) {
  return worst(hosts(facts), [](const auto& host) {
    const auto ranks = static_cast<int>(host.second.size());
    const int all = host.second.front()->host_cores;
    const int least = std::ranges::min(host.second, {}, &RankFacts::cores)->cores;
    if (ranks > all)
      return warning(
          "{}: {} ranks on {} cores: good to show exactness, not speed; idle ranks must yield "
          "(mpirun --mca mpi_yield_when_idle 1)",
          host.first, ranks, all);
    if (least < all / ranks)
      return warning(
          "{}: a rank is bound to {} of {} cores: mpirun --bind-to none, or --map-by "
          "slot:PE={}; srun --cpus-per-task={}",
          host.first, least, all, all / ranks, all / ranks);
    return ok("{} {} on {} {} of {}", ranks, ranks == 1 ? "rank" : "ranks", all,
              all == 1 ? "core" : "cores", host.first);
  });
}

Judged memory(const Facts& facts) {
  return worst(hosts(facts), [&](const auto& host) {
    const RankFacts& first = *host.second.front();
    const double each = first.memory_bytes / static_cast<double>(host.second.size());
    const double limit =
        std::ranges::min(host.second, {}, &RankFacts::address_space_bytes)->address_space_bytes;
    if (limit < no_limit && facts.gpu)
      return fault("{}: `ulimit -v` is {}, and CUDA maps more than a card has: ulimit -v unlimited",
                   host.first, gb(limit));
    if (each < 1 << 28)
      return fault("{}: {} free for {} ranks: fewer ranks, or a larger limit of the container",
                   host.first, gb(first.memory_bytes), host.second.size());
    if (limit < no_limit)
      return warning("{}: `ulimit -v` is {} a rank: ulimit -v unlimited", host.first, gb(limit));
    return ok("{}: {} free", host.first, gb(first.memory_bytes));
  });
}

Judged locked_memory(const Facts& facts) {
  const double least = std::ranges::min(facts.ranks, {}, &RankFacts::locked_bytes).locked_bytes;
  if (hosts(facts).size() > 1 && least < 1e9)
    return warning("`ulimit -l` is {}: networks with RDMA lock what they send; ulimit -l unlimited",
                   gb(least));
  return ok("`ulimit -l` is {}", gb(least));
}

Judged shared_memory(const Facts& facts) {
  return worst(hosts(facts), [](const auto& host) {
    const double free = host.second.front()->shared_memory_bytes;
    const auto ranks = static_cast<double>(host.second.size());
    if (ranks > 1 && free < ranks * (16 << 20))
      return warning(
          "{}: {} free in /dev/shm for {} ranks that exchange through it: a container needs "
          "--shm-size=1g or --ipc=host",
          host.first, gb(free), host.second.size());
    return ok("{}: {} free in /dev/shm", host.first, gb(free));
  });
}

Judged huge_pages(const Facts& facts) {
  const auto never = std::ranges::find(facts.ranks, "never", &RankFacts::huge_pages);
  if (!facts.gpu && never != facts.ranks.end())
    return warning(
        "{}: transparent huge pages are off, and CPU ranks read slower: echo madvise > "
        "/sys/kernel/mm/transparent_hugepage/enabled",
        never->host);
  const std::string& mode = facts.ranks.front().huge_pages;
  return ok("transparent: {}", mode.empty() ? "unknown" : mode);
}

Judged results_folder(const Facts& facts) {
  if (!facts.folder_error.empty())
    return fault("{}: {}; name another with -o", facts.folder, facts.folder_error);
  if (facts.folder_bytes < 1e8)
    return warning("{}: {} free: lines take 1 to 100 KB each", facts.folder,
                   gb(facts.folder_bytes));
  return ok("{}: {} free", facts.folder, gb(facts.folder_bytes));
}

// Cards ---------------------------------------------------------------------------------------

// The first rank's reason, with its number where there are others.
template <class Why>
Judged refused(const Facts& facts, const Why& why, const std::string& fine) {
  for (size_t i = 0; i < facts.ranks.size(); ++i)
    if (const std::string text = why(facts.ranks[i].card); !text.empty())
      return facts.ranks.size() == 1 ? fault("{}", text)
                                     : fault("rank {} ({}): {}", i, facts.ranks[i].host, text);
  return {Health::ok, fine};
}

Judged driver(const Facts& facts) {
  const CardFacts& card = facts.ranks.front().card;
  return refused(facts, driver_refusal,
                 fmt::format("the driver is for CUDA {}, this program's toolkit is {}",
                             cuda_version_text(card.driver), cuda_version_text(card.toolkit)));
}

Judged visible_cards(const Facts& facts) {
  size_t seen = 0;
  for (const auto& [host, ranks] : hosts(facts)) {
    std::set<std::string> ids;
    for (const RankFacts* rank : ranks) ids.insert(rank->card.id);
    seen += std::max(ids.size(), static_cast<size_t>(ranks.front()->card.visible));
  }
  return refused(facts, visibility_refusal,
                 fmt::format("{} {} on {} of {} visible cards ({})", facts.ranks.size(),
                             facts.ranks.size() == 1 ? "rank" : "ranks", cards(facts).size(), seen,
                             facts.ranks.front().card.name));
}

Judged kernels(const Facts& facts) {
  const int capability = facts.ranks.front().card.capability;
  return refused(facts, kernel_refusal,
                 fmt::format("this program has kernels for compute capability {}.{}",
                             capability / 10, capability % 10));
}

Judged sharing(const Facts& facts) {
  const size_t most = most_of_a_card(facts);
  if (most == 1) return ok("a card a rank");
  for (const RankFacts& rank : facts.ranks)
    if (!rank.card.mps)
      return warning(
          "{} ranks share a card, which runs one of them at a time: an exchange takes "
          "milliseconds; "
          "start them with jobs/with-mps.sh, or give each rank a card",
          most);
  return ok("{} ranks share a card under MPS", most);
}

Judged ipc(const Facts& facts) {
  if (facts.ranks.size() == hosts(facts).size()) return ok("no ranks on one host to map memory");
  const auto refusing =
      std::ranges::find_if(facts.ranks, [](const RankFacts& rank) { return !rank.ipc.empty(); });
  if (refusing != facts.ranks.end())
    return warning(
        "rank {} cannot map its neighbour's memory ({}), so there is no --exchange fused: a "
        "container "
        "needs --ipc=host --pid=host",
        refusing - facts.ranks.begin(), refusing->ipc);
  return ok("ranks of a host map each other's memory");
}

Judged peers(const Facts& facts) {
  for (const RankFacts& rank : facts.ranks)
    if (rank.card.reachable < rank.card.visible - 1)
      return warning(
          "{}: {} reaches {} of the {} other cards directly: exchanges with the rest go through "
          "the "
          "host; `nvidia-smi topo -p2p r` says why",
          rank.host, rank.card.bus_id, rank.card.reachable, rank.card.visible - 1);
  if (facts.ranks.front().card.visible == 1) return ok("one visible card a rank");
  return ok("each card reaches the others on its host");
}

Judged nccl(const Facts& facts) {
  const CardFacts& card = facts.ranks.front().card;
  if (card.nccl_built == 0)
    return warning("built without NCCL (NCCL_HOME): no --exchange nccl; mpi and fused are there");
  if (card.nccl_found < card.nccl_built)
    return warning(
        "NCCL {} is loaded, older than the {} this program was built with: load that one",
        nccl_version_text(card.nccl_found), nccl_version_text(card.nccl_built));
  if (const size_t most = most_of_a_card(facts); most > 1)
    return warning(
        "NCCL {} takes one rank a card, and {} share one: no --exchange nccl; mpi and fused let "
        "ranks "
        "share",
        nccl_version_text(card.nccl_found), most);
  return ok("NCCL {}", nccl_version_text(card.nccl_found));
}

Judged clocks(const Facts& facts) {
  for (const RankFacts& rank : facts.ranks)
    if (rank.throttled != 0)
      return warning("{}: {} is throttled now: {}; what is measured is not what the card can do",
                     rank.host, rank.card.bus_id, fmt::join(throttle_names(rank.throttled), ", "));
  for (const RankFacts& rank : facts.ranks)
    if (!rank.nvml)
      return warning(
          "{}: libnvidia-ml.so.1 does not answer: throttling would go unnoticed, and no line has "
          "its energy",
          rank.host);
  return ok("no card is throttled");
}

Judged device_memory(const Facts& facts) {
  double free = no_limit;
  for (const RankFacts& rank : facts.ranks) {
    free = std::min(free, rank.card.free_bytes);
    if (rank.card.free_bytes < 0.9 * rank.card.total_bytes)
      return warning("{}: {} of {} free on {}: `nvidia-smi` says who holds the rest", rank.host,
                     gb(rank.card.free_bytes), gb(rank.card.total_bytes), rank.card.bus_id);
  }
  return ok("{} free on each card", gb(free));
}

struct Check {
  std::string_view name;
  Judged (*judge)(const Facts&);
};
constexpr Check launch_checks[] = {{"world", world},
                                   {"MPI", mpi},
                                   {"messages", messages},
                                   {"cores", cores},
                                   {"memory", memory},
                                   {"locked memory", locked_memory},
                                   {"shared memory", shared_memory},
                                   {"huge pages", huge_pages},
                                   {"results folder", results_folder}};
// Each of the first three is needed for the next, and all three for the rest.
constexpr Check card_checks[] = {
    {"driver", driver},   {"cards", visible_cards}, {"kernels", kernels},
    {"sharing", sharing}, {"CUDA IPC", ipc},        {"peer access", peers},
    {"NCCL", nccl},       {"clocks", clocks},       {"device memory", device_memory}};

}  // namespace

std::vector<Finding> diagnose(const Facts& facts) {
  std::vector<Finding> findings;
  const auto judge = [&](const Check& check) {
    Judged judged = check.judge(facts);
    findings.push_back({check.name, judged.health, std::move(judged.text)});
    return judged.health != Health::fault;
  };
  for (const Check& check : launch_checks) judge(check);
  if (!facts.gpu) return findings;
  for (const Check& check : card_checks)
    if (!judge(check)) break;
  return findings;
}

}  // namespace helix
