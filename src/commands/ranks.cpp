#include <fmt/format.h>

#include <memory>

#include "bench/calibrate.h"
#include "bench/export.h"
#include "bench/run.h"
#include "bench/signals.h"
#include "bench/verify.h"
#include "commands/commands.h"
#include "commands/session.h"
#include "commands/texts.h"

namespace helix {

namespace {

void add_executor(CLI::App& command, std::string& executor, std::string& exchange,
                  ExecutorChoice& how) {
  command.add_option("--executor", executor, "cpu or cuda")->check(CLI::IsMember({"cpu", "cuda"}));
  command
      .add_option("--exchange", exchange,
                  "mpi, nccl (a GPU a rank), fused (one host or NVLink domain) or auto")
      ->check(CLI::IsMember({"mpi", "nccl", "fused", "auto"}));
  command.add_flag("!--no-graph", how.graph, "cuda: launch each kernel, no captured graphs");
  command.add_flag("!--no-early-reads", how.early_reads,
                   "cuda: each kernel begins when the one before has ended");
  command
      .add_option(
          "--exchange-blocks", how.exchange_blocks,
          "cuda: SMs of an exchange, which attention leaves to it under HOP-B (0: our choice)")
      ->check(CLI::Range(0, 128));
}
void set_executor(const std::string& executor, const std::string& exchange, ExecutorChoice& how) {
  how.kind = executor == "cuda" ? ExecutorKind::cuda : ExecutorKind::cpu;
  if (how.kind == ExecutorKind::cpu && exchange != "mpi" && exchange != "auto")
    throw InputError(fmt::format("--exchange {}: the CPU executor exchanges by mpi", exchange));
}

Scope scope_of(const std::string& text) {
  return text == "step" ? Scope::step : text == "tasks" ? Scope::tasks : Scope::automatic;
}

}  // namespace

void add_run(CLI::App& app, Action& action, std::vector<const char*> command) {
  struct Texts {
    std::string executor = "cpu", resume, slice = "1/1", scope = "auto", shard;
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
  run->add_option(
      "--machine", o->machine,
      "whose prices make slices equal, as plan's (bytes), and --shard's exchanges have");
  run->add_option(
      "--shard", t->shard,
      "RANK/N: that rank of an N-rank layout alone, in one process; nothing is exchanged");
  run->add_option("--time-limit", o->time_limit_s, "stop after so many seconds, exit 75")
      ->check(CLI::NonNegativeNumber);
  run->add_option("--repeat", o->repeat, "this launch is number R")->check(CLI::Range(1, 1000000));
  run->add_option("-w,--warmup", o->warmup, "warm-up steps, in place of the sweep's")
      ->check(CLI::Range(0, 1000000));
  run->add_option("-n,--steps", o->steps, "measured steps, in place of the sweep's")
      ->check(CLI::Range(1, 1000000));
  auto* noise = run->add_option("--noise-target", o->noise.percent,
                                "repeat steps until the median's 95 % confidence interval is "
                                "within so many percent")
                    ->check(CLI::Range(1e-3, 100.0));
  run->add_option("--min-steps", o->noise.min_steps, "at least so many (those of a round: -n)")
      ->check(CLI::Range(1, 1000000))
      ->needs(noise);
  run->add_option("--max-steps", o->noise.max_steps, "at most so many (100 rounds)")
      ->check(CLI::Range(1, 1000000))
      ->needs(noise);
  run->add_option("-T,--watchdog", t->silence_s, "seconds of silence that end a run (60)")
      ->check(CLI::Range(1, 1000000));
  run->add_option("--threads", o->threads, "threads a rank (default: cores / ranks on a host)")
      ->check(CLI::Range(1, 4096));
  run->add_flag("--dry-run", o->dry_run, "say what would run");
  run->add_flag("--no-verify", t->unverified, "do not hold the first step against the judge");
  run->add_option("--scope", t->scope,
                  "what is held against the judge: a whole step, its single tasks, or auto: tasks "
                  "where a step would take minutes")
      ->check(CLI::IsMember({"auto", "step", "tasks"}));
  run->add_option("--trace", o->trace, "FILE: one step of the first point as a Chrome trace");
  run->final_callback([o, t, &action] {
    if (o->sweep.empty() && o->from.empty()) throw InputError("run: give a SWEEP, or --from");
    set_executor(t->executor, o->exchange, o->how);
    if (o->noise.min_steps && o->noise.max_steps && *o->noise.min_steps > *o->noise.max_steps)
      throw InputError("--min-steps: more than --max-steps");
    o->slice = part_of("--slice", t->slice);
    if (!t->shard.empty()) o->shard = shard_of(t->shard);
    o->scope = t->unverified ? Scope::none : scope_of(t->scope);
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
  auto scope = std::make_shared<std::string>("step");
  add_executor(*verify, *executor, o->exchange, o->how);
  verify->add_option("--scope", *scope, "whole steps (step), or the single tasks of one (tasks)")
      ->check(CLI::IsMember({"step", "tasks"}));
  verify->add_option("--only", o->only, "layouts whose description has this text");
  verify->final_callback([o, part, threads, silence_s, executor, scope, &action] {
    o->scope = scope_of(*scope);
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

void add_export(CLI::App& app, Action& action) {
  auto o = std::make_shared<ExportOptions>();
  auto threads = std::make_shared<int>(0);
  auto executor = std::make_shared<std::string>("cpu");
  CLI::App* command = app.add_subcommand(
      "export", "a point's model, history and logits as a Hugging Face folder, under mpirun");
  command->add_option("POINT", o->point, "sweep file with one point")->required();
  command->add_option("-o,--output", o->folder, "new folder")->required();
  command->add_flag("!--no-model", o->model, "what was decoded alone, without the weights");
  add_executor(*command, *executor, o->exchange, o->how);
  command->add_option("--threads", *threads, "threads a rank")->check(CLI::Range(1, 4096));
  command->final_callback([o, threads, executor, &action] {
    set_executor(*executor, o->exchange, o->how);
    action = [o, threads] {
      return in_world(60, [&](World& world) {
        set_threads(world, *threads);
        return export_point(world, *o);
      });
    };
  });
}

void add_calibrate(CLI::App& app, Action& action) {
  auto o = std::make_shared<CalibrateOptions>();
  auto executor = std::make_shared<std::string>("cpu");
  auto silence_s = std::make_shared<double>(60);
  CLI::App* command = app.add_subcommand(
      "calibrate", "measure this machine into a file for --machine, under mpirun");
  command->add_option("-o,--output", o->output, "the machine file")->required();
  command->add_option("SWEEP", o->sweep, "whose tasks are timed (configs/sweeps/calibrate-*.json)");
  add_executor(*command, *executor, o->exchange, o->how);
  command->add_option("--threads", o->threads, "threads a rank (default: cores / ranks on a host)")
      ->check(CLI::Range(1, 4096));
  command->add_option("-T,--watchdog", *silence_s, "seconds of silence that end it (60)")
      ->check(CLI::Range(1, 1000000));
  command->final_callback([o, executor, silence_s, &action] {
    set_executor(*executor, o->exchange, o->how);
    action = [o, silence_s] {
      return in_world(*silence_s, [&](World& world) { return helix::calibrate(world, *o); });
    };
  });
}

}  // namespace helix
