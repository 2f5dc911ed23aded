#include <fmt/format.h>

#include <memory>

#include "bench/list.h"
#include "bench/paper.h"
#include "bench/plan.h"
#include "bench/recommend.h"
#include "bench/simulate.h"
#include "bench/translate.h"
#include "commands/commands.h"
#include "commands/texts.h"

namespace helix {

void add_plan(CLI::App& app, Action& action) {
  auto o = std::make_shared<PlanOptions>();
  auto json = std::make_shared<std::string>("table");
  auto shard = std::make_shared<std::string>();
  CLI::App* plan = app.add_subcommand("plan", "points, ranks and bytes a rank, before a run");
  plan->add_option("SWEEP", o->sweep, "sweep file")->required();
  plan->add_option("--format", *json, "table or json")->check(CLI::IsMember({"table", "json"}));
  plan->add_flag("--schedule", o->schedule, "one layer's tasks of each schedule");
  plan->add_option("--ranks", o->ranks, "skip points that need more")
      ->check(CLI::Range(1, 1 << 20));
  plan->add_option("--shard", *shard, "RANK/N: bytes of that rank, in place of the widest");
  plan->add_option("--slices", o->slices, "which slice of N, of equal work, runs a point")
      ->check(CLI::Range(1, 1 << 20));
  plan->add_flag_callback(
      "--slurm", [json] { *json = "slurm"; },
      "the options of sbatch for it, or for one of the slices");
  plan->add_option("--machine", o->machine, "a name or a file: TTL and time of each point");
  plan->add_option("--ranks-per-node", o->ranks_per_node, "for --slurm (8)")
      ->check(CLI::Range(1, 1 << 20));
  plan->final_callback([o, json, shard, &action] {
    if (!shard->empty()) o->shard = shard_of(*shard);
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

void add_list(CLI::App& app, Action& action) {
  auto what = std::make_shared<std::string>();
  CLI::App* list = app.add_subcommand("list", "what can be decoded, and how");
  list->add_option("WHAT", *what, "models, machines or layouts")->required();
  list->final_callback([what, &action] { action = [what] { return helix::list(*what); }; });
}

}  // namespace helix
