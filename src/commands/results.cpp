#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "bench/compare.h"
#include "bench/explain.h"
#include "bench/frontier.h"
#include "commands/commands.h"

namespace helix {

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
      const CoverComparison found = helix::compare(*paths, with);
      for (const std::string& note : found.notes) fmt::print(stderr, "helix-bench: {}\n", note);
      fmt::print("{}\n", *format == "json" ? to_json(found).dump() : to_text(found, with));
      return 0;
    };
  });
}

void add_explain(CLI::App& app, Action& action) {
  auto path = std::make_shared<std::string>();
  auto key = std::make_shared<std::string>();
  CLI::App* explain =
      app.add_subcommand("explain", "one point's tasks against their floors, and what limits it");
  explain->add_option("RESULTS", *path, "a results file or folder")->required();
  explain->add_option("KEY", *key, "of a line")->required();
  explain->final_callback(
      [path, key, &action] { action = [path, key] { return explain_key(*path, *key); }; });
}

}  // namespace helix
