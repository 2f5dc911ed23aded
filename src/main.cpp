// The program: which commands there are, and what its exit codes say.
#include <fmt/format.h>
#include <mpi.h>

#include <CLI/CLI.hpp>
#include <array>

#include "base/text.h"
#include "base/version.h"
#include "commands/commands.h"
#include "commands/session.h"
#include "kernels/cpu/memory.h"

namespace helix {

namespace {

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
  add_calibrate(app, action);
  add_doctor(app, action);
  add_list(app, action);
  add_frontier(app, action);
  add_compare(app, action);
  add_explain(app, action);
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

int main(int argc, char** argv) {
  helix::cpu::move_code();
  return helix::start(argc, argv);
}
