// The command line. A command is one function; `run` and `verify` live in a world of MPI ranks, the
// others need no launcher.
#include <fmt/format.h>
#include <mpi.h>

#include <CLI/CLI.hpp>
#include <array>
#include <charconv>
#include <chrono>
#include <functional>
#include <thread>

#include "base/error.h"
#include "base/version.h"
#include "bench/compare.h"
#include "bench/export.h"
#include "bench/frontier.h"
#include "bench/list.h"
#include "bench/paper.h"
#include "bench/plan.h"
#include "bench/recommend.h"
#include "bench/run.h"
#include "bench/signals.h"
#include "bench/simulate.h"
#include "bench/translate.h"
#include "bench/verify.h"
#include "bench/watchdog.h"
#include "bench/world.h"

namespace helix {

namespace {

// However many ranks read the same command line, one of them speaks.
int refuse(const std::string& reason, Exit code) {
  if (rank_launched() == 0) fmt::print(stderr, "helix-bench: {}\n", reason);
  else  // a launcher kills the others as soon as one has failed
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  return static_cast<int>(code);
}

class Session {
 public:
  Session() {
    int provided = 0;
    check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread",
              __FILE__, __LINE__);
  }
  ~Session() { MPI_Finalize(); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
};

// What all ranks know of ends in order; anything else would leave ranks waiting for each other.
int in_world(double silence_s, const std::function<int(World&)>& command) {
  const Session session;
  World world;
  const Watchdog watchdog(world.rank(), silence_s);
  try {
    return command(world);
  } catch (const InputError& error) {
    return world.leads() ? refuse(error.what(), Exit::bad_input) : 2;
  } catch (const AgreedError& error) {
    return world.leads() ? refuse(error.what(), Exit::failed) : 3;
  } catch (const std::exception& error) {
    end_all_ranks(world.rank(), fmt::format("{}, while {}", error.what(), what_was_done()));
  }
}

std::string version_text() {
  const Version& v = version();
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> mpi{};
  int length = 0;
  MPI_Get_library_version(mpi.data(), &length);
  const std::string library(mpi.data(), static_cast<size_t>(length));
  return fmt::format(
      "helix-bench {}\ncompiler  {}{}\nMPI       {}\nCUDA      {}\ncuBLAS    {}\nNCCL      {}",
      short_commit(v.commit, v.dirty), v.compiler, v.optimised ? "" : ", not optimised",
      library.substr(0, library.find(',')), v.cuda, v.cublas, v.nccl);
}

// "I/N" with 1 <= I <= N.
std::pair<int64_t, int64_t> part_of(const std::string& option, const std::string& text) {
  std::pair<int64_t, int64_t> part = {0, 0};
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, part.first);
  if (first.ec == std::errc{} && first.ptr != end && *first.ptr == '/') {
    const auto second = std::from_chars(first.ptr + 1, end, part.second);
    if (second.ec == std::errc{} && second.ptr == end && part.first >= 1 &&
        part.first <= part.second)
      return part;
  }
  throw InputError(fmt::format("{}: {} is not I/N with 1 <= I <= N", option, in_quotes(text)));
}

using Action = std::function<int()>;

Resume resume_of(const std::string& text) {
  if (text == "mixed") return Resume::mixed;
  return text == "yes" ? Resume::yes : Resume::no;
}

void add_executor(CLI::App& command, std::string& executor, std::string& exchange,
                  ExecutorChoice& how) {
  command.add_option("--executor", executor, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}));
  command.add_option("--exchange", exchange, "mpi, nccl (a GPU a rank), fused (one host) or auto")
      ->check(CLI::IsMember({"mpi", "nccl", "fused", "auto"}));
  command.add_flag("!--no-graph", how.graph, "cuda: launch each kernel, no captured graphs");
  command
      .add_option("--exchange-blocks", how.exchange_blocks,
                  "cuda, HOP-B: SMs that attention leaves to the exchange (0: our choice)")
      ->check(CLI::Range(0, 128));
}
void set_executor(const std::string& executor, const std::string& exchange, ExecutorChoice& how) {
  how.kind = executor == "cuda" ? ExecutorKind::cuda : ExecutorKind::cpu;
  if (how.kind == ExecutorKind::cpu && exchange != "mpi" && exchange != "auto")
    throw InputError(fmt::format("--exchange {}: the CPU executor exchanges by mpi", exchange));
}

void add_run(CLI::App& app, Action& action, std::vector<const char*> command) {
  struct Texts {
    std::string executor = "cpu", resume, slice = "1/1";
    double silence_s = 60;
    bool unverified = false;
  };
  auto o = std::make_shared<RunOptions>();
  auto t = std::make_shared<Texts>();
  o->command = std::move(command);
  CLI::App* run = app.add_subcommand("run", "execute a sweep, under mpirun or srun");
  auto* sweep = run->add_option("SWEEP", o->sweep, "sweep file");
  run->add_option("--from", o->from, "RESULTS#KEY: the point of a result line, in place of a sweep")
      ->excludes(sweep);
  add_executor(*run, t->executor, o->exchange, o->how);
  run->add_option("-o,--output", o->folder, "folder of results (default: results/NAME)");
  run->add_flag("--resume{yes}", t->resume, "go on; --resume=mixed: also from another commit")
      ->check(CLI::IsMember({"yes", "mixed"}));
  run->add_option("--lock-wait", o->lock_wait_s,
                  "seconds to wait for another run to leave the folder (0)")
      ->check(CLI::NonNegativeNumber);
  run->add_option("--slice", t->slice, "I/N: only part I of N, of equal work");
  run->add_option("--time-limit", o->time_limit_s, "stop after so many seconds, exit 75")
      ->check(CLI::NonNegativeNumber);
  run->add_option("--repeat", o->repeat, "this launch is number R")->check(CLI::Range(1, 1000000));
  run->add_option("-w,--warmup", o->warmup, "warm-up steps, in place of the sweep's")
      ->check(CLI::Range(0, 1000000));
  run->add_option("-n,--steps", o->steps, "measured steps, in place of the sweep's")
      ->check(CLI::Range(1, 1000000));
  run->add_option("-T,--watchdog", t->silence_s, "seconds of silence that end a run (60)")
      ->check(CLI::Range(1, 1000000));
  run->add_option("--threads", o->threads, "threads a rank (default: cores / ranks on a host)")
      ->check(CLI::Range(1, 4096));
  run->add_flag("--dry-run", o->dry_run, "say what would run");
  run->add_flag("--no-verify", t->unverified, "do not hold the first step against the judge");
  run->add_option("--trace", o->trace, "FILE: one step of the first point as a Chrome trace");
  run->final_callback([o, t, &action] {
    if (o->sweep.empty() && o->from.empty()) throw InputError("run: give a SWEEP, or --from");
    set_executor(t->executor, o->exchange, o->how);
    o->slice = part_of("--slice", t->slice);
    o->verify = !t->unverified;
    // A repeat adds to what the first launch wrote.
    o->resume = o->repeat > 1 && t->resume.empty() ? Resume::yes : resume_of(t->resume);
    action = [o, t] {
      hear_signals();
      return in_world(t->silence_s, [&](World& world) { return helix::run(world, *o); });
    };
  });
}

void add_verify(CLI::App& app, Action& action) {
  auto o = std::make_shared<VerifyOptions>();
  auto part = std::make_shared<std::string>("1/1");
  auto threads = std::make_shared<int>(0);
  auto silence_s = std::make_shared<double>(60);
  CLI::App* verify = app.add_subcommand("verify", "hold every layout against an exact judge");
  verify->add_option("SWEEP", o->sweep, "only the points of this sweep");
  verify->add_flag("--full", o->full, "all combinations of the other axes, not all pairs");
  verify->add_option("--part", *part, "I/N: only part I of N of the cases");
  verify->add_option("--seed", o->seed, "deals the cases");
  verify->add_option("--threads", *threads, "threads a rank")->check(CLI::Range(1, 4096));
  verify->add_option("-T,--watchdog", *silence_s, "seconds of silence that end it (60)")
      ->check(CLI::Range(1, 1000000));
  auto executor = std::make_shared<std::string>("cpu");
  add_executor(*verify, *executor, o->exchange, o->how);
  verify->add_option("--only", o->only, "layouts whose description has this text");
  verify->final_callback([o, part, threads, silence_s, executor, &action] {
    set_executor(*executor, o->exchange, o->how);
    std::tie(o->part, o->parts) = part_of("--part", *part);
    action = [o, threads, silence_s] {
      return in_world(*silence_s, [&](World& world) {
        set_threads(world, *threads);
        return helix::verify(world, *o);
      });
    };
  });
}

void add_plan(CLI::App& app, Action& action) {
  auto o = std::make_shared<PlanOptions>();
  auto json = std::make_shared<std::string>("table");
  CLI::App* plan = app.add_subcommand("plan", "points, ranks and bytes a rank, before a run");
  plan->add_option("SWEEP", o->sweep, "sweep file")->required();
  plan->add_option("--format", *json, "table or json")->check(CLI::IsMember({"table", "json"}));
  plan->add_flag("--schedule", o->schedule, "one layer's tasks of each schedule");
  plan->add_option("--ranks", o->ranks, "skip points that need more")
      ->check(CLI::Range(1, 1 << 20));
  plan->add_option("--slices", o->slices, "which slice of N, of equal work, runs a point")
      ->check(CLI::Range(1, 1 << 20));
  plan->add_flag_callback(
      "--slurm", [json] { *json = "slurm"; },
      "the options of sbatch for it, or for one of the slices");
  plan->add_option("--ranks-per-node", o->ranks_per_node, "for --slurm (8)")
      ->check(CLI::Range(1, 1 << 20));
  plan->final_callback([o, json, &action] {
    o->format = *json == "slurm"  ? PlanFormat::slurm
                : *json == "json" ? PlanFormat::json
                                  : PlanFormat::table;
    action = [o] { return helix::plan(*o); };
  });
}

void add_simulate(CLI::App& app, Action& action, std::vector<const char*> command) {
  auto o = std::make_shared<SimulateOptions>();
  auto resume = std::make_shared<std::string>();
  auto accounting = std::make_shared<std::string>("chunks");
  o->command = std::move(command);
  CLI::App* simulate = app.add_subcommand("simulate", "price a sweep on a machine; needs no MPI");
  auto* sweep = simulate->add_option("SWEEP", o->sweep, "sweep file");
  simulate->add_option("--from", o->from, "RESULTS#KEY: the point of a result line")
      ->excludes(sweep);
  simulate->add_option("--machine", o->machine, "a name (list machines) or a file")->required();
  simulate
      ->add_option("--accounting", *accounting,
                   "of HOP-B. chunks: each pays its latency; paper: as in its Figure 3")
      ->check(CLI::IsMember({"chunks", "paper"}));
  simulate->add_option("-o,--output", o->folder,
                       "folder of results (default: results/NAME-MACHINE)");
  simulate->add_flag("--resume{yes}", *resume, "go on; --resume=mixed: also from another commit")
      ->check(CLI::IsMember({"yes", "mixed"}));
  simulate->final_callback([o, resume, accounting, &action] {
    if (o->sweep.empty() && o->from.empty()) throw InputError("simulate: give a SWEEP, or --from");
    o->accounting = *accounting == "paper" ? Accounting::paper : Accounting::chunks;
    o->resume = resume_of(*resume);
    action = [o] { return helix::simulate(*o); };
  });
}

void add_export(CLI::App& app, Action& action) {
  auto o = std::make_shared<ExportOptions>();
  auto threads = std::make_shared<int>(0);
  CLI::App* command = app.add_subcommand(
      "export", "a point's model, history and logits as a Hugging Face folder, under mpirun");
  command->add_option("POINT", o->point, "sweep file with one point")->required();
  command->add_option("-o,--output", o->folder, "new folder")->required();
  command->add_option("--threads", *threads, "threads a rank")->check(CLI::Range(1, 4096));
  command->final_callback([o, threads, &action] {
    action = [o, threads] {
      return in_world(60, [&](World& world) {
        set_threads(world, *threads);
        return export_point(world, *o);
      });
    };
  });
}

void add_list(CLI::App& app, Action& action) {
  auto what = std::make_shared<std::string>();
  CLI::App* list = app.add_subcommand("list", "what can be decoded, and how");
  list->add_option("WHAT", *what, "models, machines or layouts")->required();
  list->final_callback([what, &action] { action = [what] { return helix::list(*what); }; });
}

void add_frontier(CLI::App& app, Action& action) {
  auto paths = std::make_shared<std::vector<std::string>>();
  auto format = std::make_shared<std::string>("table");
  CLI::App* frontier = app.add_subcommand("frontier", "which measured points are worth having");
  frontier->add_option("RESULTS", *paths, "results files or folders")->required();
  frontier->add_option("--format", *format, "table or json")
      ->check(CLI::IsMember({"table", "json"}));
  frontier->final_callback([paths, format, &action] {
    action = [paths, format] {
      const Frontier found = read_frontier(*paths);
      for (const std::string& note : found.notes) fmt::print(stderr, "helix-bench: {}\n", note);
      fmt::print("{}\n", *format == "json" ? to_json(found).dump() : to_text(found));
      return 0;
    };
  });
}

void add_translate(CLI::App& app, Action& action) {
  auto o = std::make_shared<TranslateOptions>();
  auto format = std::make_shared<std::string>("table");
  CLI::App* translate = app.add_subcommand("translate", "a layout as flags of serving engines");
  auto* sweep = translate->add_option("SWEEP", o->sweep, "sweep file: each of its layouts");
  translate->add_option("--from", o->from, "RESULTS#KEY: the layout of a result line")
      ->excludes(sweep);
  translate->add_option("--engine", o->engine, "vllm, sglang or tensorrt-llm (default: all)");
  translate->add_option("--format", *format, "table or json")
      ->check(CLI::IsMember({"table", "json"}));
  translate->final_callback([o, format, &action] {
    if (o->sweep.empty() && o->from.empty()) throw InputError("translate: give a SWEEP, or --from");
    o->json = *format == "json";
    action = [o] { return helix::translate(*o); };
  });
}

void add_claims(CLI::App& app, Action& action) {
  auto o = std::make_shared<ClaimsOptions>();
  CLI::App* claims = app.add_subcommand("claims", "the paper's claims and figures, simulated");
  claims->add_option("SWEEP", o->sweeps, "sweep files (default: those of configs/sweeps/paper)");
  claims->add_option("--machine", o->machine, "a machine's name, or file (gb200-nvl72)");
  claims->add_option("-o,--output", o->folder, "folder for claims.md and paper.json");
  claims->add_flag("--sensitivity", o->sensitivity, "each factor halved and doubled");
  claims->add_option("--threads", o->threads, "threads (default: cores)")
      ->check(CLI::Range(1, 4096));
  claims->final_callback([o, &action] { action = [o] { return helix::claims(*o); }; });
}

void add_compare(CLI::App& app, Action& action) {
  auto paths = std::make_shared<std::vector<std::string>>();
  auto machine = std::make_shared<std::string>();
  auto format = std::make_shared<std::string>("table");
  CLI::App* compare = app.add_subcommand("compare", "measured against simulated, cover by cover");
  compare->add_option("RESULTS", *paths, "results files or folders")->required();
  compare->add_option("--machine", *machine, "a name (list machines) or a file")->required();
  compare->add_option("--format", *format, "table or json")
      ->check(CLI::IsMember({"table", "json"}));
  compare->final_callback([paths, machine, format, &action] {
    action = [paths, machine, format] {
      const Machine with = read_machine(*machine);
      const Comparison found = helix::compare(*paths, with);
      for (const std::string& note : found.notes) fmt::print(stderr, "helix-bench: {}\n", note);
      fmt::print("{}\n", *format == "json" ? to_json(found).dump() : to_text(found, with));
      return 0;
    };
  });
}

void add_recommend(CLI::App& app, Action& action) {
  auto o = std::make_shared<RecommendOptions>();
  CLI::App* recommend = app.add_subcommand("recommend", "which layout to run, by simulation");
  recommend->add_option("--model", o->model, "a model's name, or file")->required();
  recommend->add_option("--machine", o->machine, "a machine's name, or file")->required();
  recommend->add_option("--gpus", o->gpus, "GPUs there are")->required()->check(CLI::Range(1, 512));
  recommend->add_option("--context", o->context, "tokens of history a request")
      ->required()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32));
  auto* ttl = recommend->add_option("--ttl-ms", o->ttl_ms, "most tokens/s/GPU within so long a TTL")
                  ->check(CLI::PositiveNumber);
  recommend->add_option("--users", o->users, "least TTL for so many requests at once")
      ->check(CLI::Range(1, 1 << 16))
      ->excludes(ttl);
  recommend->add_option("--weights", o->weights, "format of weights (nvfp4 where it is fast)");
  recommend->add_option("--kv", o->kv, "format of the KV cache (fp8)");
  recommend->final_callback([o, &action] {
    if (!o->ttl_ms && !o->users) throw InputError("recommend: give --ttl-ms or --users");
    action = [o] { return helix::recommend(*o); };
  });
}

int start(int argc, char** argv) {
  CLI::App app("Exact LLM decode under Helix parallelism and its rivals, measured", "helix-bench");
  Action action;
  app.set_version_flag("--version", version_text);
  app.require_subcommand(1);
  add_run(app, action, {argv, argv + argc});
  add_verify(app, action);
  add_plan(app, action);
  add_simulate(app, action, {argv, argv + argc});
  add_export(app, action);
  add_list(app, action);
  add_frontier(app, action);
  add_compare(app, action);
  add_translate(app, action);
  add_claims(app, action);
  add_recommend(app, action);
  try {
    app.parse(argc, argv);
    return action();
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0)
      return refuse(one_line(error.what()) + " (see --help)", Exit::bad_input);
    return rank_launched() == 0 ? app.exit(error) : 0;
  } catch (const InputError& error) {
    return refuse(error.what(), Exit::bad_input);
  } catch (const std::exception& error) {
    return refuse(error.what(), Exit::failed);
  }
}

}  // namespace

}  // namespace helix

int main(int argc, char** argv) { return helix::start(argc, argv); }
