// The commands of the command line. Each adds its options to the program's and, where it was asked
// for, says what is to be done.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <vector>

namespace helix {

using Action = std::function<int()>;  // returns the exit code

// In a world of MPI ranks, started by mpirun or srun (ranks.cpp).
void add_run(CLI::App& app, Action& action, std::vector<const char*> command);
void add_verify(CLI::App& app, Action& action);
void add_export(CLI::App& app, Action& action);
void add_calibrate(CLI::App& app, Action& action);
void add_doctor(CLI::App& app, Action& action);  // doctor.cpp

// What would be, counted or priced; without a launcher (plans.cpp).
void add_plan(CLI::App& app, Action& action);
void add_simulate(CLI::App& app, Action& action, std::vector<const char*> command);
void add_recommend(CLI::App& app, Action& action);
void add_claims(CLI::App& app, Action& action);
void add_translate(CLI::App& app, Action& action);
void add_list(CLI::App& app, Action& action);

// What was measured; without a launcher (results.cpp).
void add_frontier(CLI::App& app, Action& action);
void add_compare(CLI::App& app, Action& action);
void add_explain(CLI::App& app, Action& action);

}  // namespace helix
