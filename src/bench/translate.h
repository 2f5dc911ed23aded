// A layout in the words of serving engines: the flags that give it, or why an engine cannot run it.
// Each row of the tables (translate_engines.cpp) names the file that it was read from; engines move
// on.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bench/point.h"

namespace helix {

// What an engine is asked for.
struct Asked {
  const Model& model;
  const Layout& layout;
  int64_t interval = 1;
  bool hop_b = false;
};

struct EngineRow {
  bool (*applies)(const Asked&);
  std::string_view text;    // {kvp}, {tpa} … stand for the layout's numbers
  std::string_view source;  // "path@commit" in the engine's repository, or one of its pull requests
};
struct Engine {
  std::string_view name;
  std::string_view command;            // what the flags are given to
  std::string_view origin;             // where its files were read, and when
  std::span<const EngineRow> limits;   // the first that applies is why the engine cannot
  std::span<const EngineRow> flags;    // those that apply, together
  std::span<const EngineRow> remarks;  // in what the engine still differs
};
std::span<const Engine> engines();

struct Sourced {
  std::string text;
  std::string_view source;
};
struct Translation {
  std::string_view engine;
  std::optional<Sourced> refusal;  // then there are no flags
  std::vector<Sourced> flags;
  std::vector<Sourced> remarks;
};
Translation translate(const Engine& engine, const Asked& asked);

struct TranslateOptions {
  std::string sweep;
  std::string from;    // RESULTS#KEY, in place of a sweep
  std::string engine;  // "": all
  bool json = false;
};
// Prints the translations of each layout of a sweep. Throws InputError for bad input.
int translate(const TranslateOptions& options);

}  // namespace helix
