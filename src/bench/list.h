// `helix-bench list models|machines|layouts`: what there is to name in a sweep.
#pragma once

#include <cstdint>
#include <string>

#include "model/model.h"

namespace helix {

// Prints one of the tables below. Throws InputError for another word, with the nearest.
int list(const std::string& what);

// A table of the presets: parameters and shapes.
std::string list_models();
// A table of the machine files under configs/machines.
std::string list_machines();
// The strategies and what they may choose.
std::string list_layouts();
// All legal layouts of a model on a number of ranks, a line each.
std::string list_layouts(const Model& model, const Precision& precision, int64_t ranks);

}  // namespace helix
