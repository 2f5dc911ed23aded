// Machines for tests: known ones with some numbers in place of their own.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "machine/machine.h"

namespace helix {

// Everything takes no time but what a test asks for: every efficiency 1, every fixed time 0, every
// rate so high that it does not count.
inline Machine ideal_machine(std::initializer_list<std::pair<const char*, double>> numbers = {}) {
  Machine m = read_machine("gb200-nvl72");
  m.name = "ideal";
  m.domain_ranks = 1 << 20;
  for (const MachineNumber& number : machine_numbers()) {
    const std::string key(number.key);
    const bool share = key.ends_with("_efficiency");
    m.*number.value = share ? 1 : number.peak ? number.high : 0;
  }
  m.product_tflops.fill(1e9);
  m.attention_tflops.fill(1e9);
  for (const auto& [key, value] : numbers)
    for (const MachineNumber& number : machine_numbers())
      if (number.key == key) m.*number.value = value;
  return m;
}

}  // namespace helix
