#include "bench/doctor.h"

#include <memory>
#include <string>

#include "commands/commands.h"
#include "commands/session.h"

namespace helix {

void add_doctor(CLI::App& app, Action& action) {
  auto o = std::make_shared<DoctorOptions>();
  auto executor = std::make_shared<std::string>();
  CLI::App* doctor = app.add_subcommand(
      "doctor", "what a run would trip over here, and what to do; under mpirun, as a run");
  doctor->add_option("--executor", *executor, "cpu or cuda (cuda, where this program has it)")
      ->check(CLI::IsMember({"cpu", "cuda"}));
  doctor->add_option("-o,--output", o->folder, "folder of results to come (results)");
  doctor->final_callback([o, executor, &action] {
    if (!executor->empty()) o->gpu = *executor == "cuda";
    action = [o] { return in_world(60, [&](World& world) { return helix::doctor(world, *o); }); };
  });
}

}  // namespace helix
