#include "bench/faults.h"

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>

#include "base/error.h"
#include "base/text.h"

namespace helix {

namespace {

constexpr std::array<std::string_view, 7> names = {"",           "kill",          "throw", "hang",
                                                   "throw_load", "out_of_memory", "wrong"};

}  // namespace

Fault wanted_fault() {
  const char* text = std::getenv("HELIX_BENCH_FAULT");
  if (text == nullptr || *text == '\0') return {};
  const std::string_view whole = text;
  const std::string rest(whole.substr(std::min(whole.find(':'), whole.size())));
  Fault fault;
  long long point = 1;
  int end = 0;
  for (size_t i = 1; i < names.size(); ++i)
    if (whole.substr(0, whole.find(':')) == names[i]) fault.kind = static_cast<FaultKind>(i);
  if (fault.kind == FaultKind::none ||
      std::sscanf(rest.c_str(), ":rank=%d:point=%lld%n", &fault.rank, &point, &end) != 2 ||
      static_cast<size_t>(end) != rest.size())
    throw InputError("HELIX_BENCH_FAULT: " + in_quotes(whole) +
                     " is not KIND:rank=R:point=P with a KIND of " +
                     listed(std::span(names).subspan(1)));
  fault.point = point;
  return fault;
}

void strike(FaultKind kind) {
  if (kind == FaultKind::kill) std::raise(SIGKILL);
  if (kind == FaultKind::failure) throw RunError("HELIX_BENCH_FAULT throws");
  while (kind == FaultKind::hang) std::this_thread::sleep_for(std::chrono::seconds(1));
}

}  // namespace helix
