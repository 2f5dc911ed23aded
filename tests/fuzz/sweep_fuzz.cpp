// Any bytes are a sweep whose points are all legal, distinct and read again from its resolved form,
// or one clear line.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <string_view>

#include "bench/sweep.h"
#include "layout/strategy.h"

namespace sweep_fuzz {

using namespace helix;

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "sweep_fuzz: %s\n", what);
  std::abort();
}

inline void check_line(std::string_view line) {
  require(line.find(": ") != line.npos, "the message names the file");
  require(line.size() < 20000, "the message is short");
  for (const char c : line) require(static_cast<uint8_t>(c) >= 0x20 && c != 0x7f, "one line");
}

inline void check_point(const Point& p) {
  require(!refuse(*p.model, p.precision, p.layout), "a point is legal");
  require(canonical(*p.model, p.layout) == p.layout, "a point is canonical");
  require(p.chunks >= 1 && p.chunks <= std::max<int64_t>(1, most_requests(p)), "chunks");
  require(p.hop_b == (p.chunks > 1), "HOP-B is more than one chunk");
  require(p.batch >= 1 && p.context.low <= p.context.high && p.interval >= 1, "a load");
  require(canonical_text(p) == to_json(p).dump(), "the key's text");
}

inline void check_sweep(const Sweep& sweep) {
  require(!sweep.points.empty(), "a sweep has points");
  if (sweep.points.size() > 300) return check_point(sweep.points.back());
  std::set<std::string> texts;
  for (const Point& p : sweep.points) {
    check_point(p);
    require(texts.insert(canonical_text(p)).second, "points are distinct");
  }
  const Node resolved = parse_json("resolved", sweep.resolved.dump());
  const Sweep again = read_sweep(resolved, ".");
  require(again.resolved == sweep.resolved, "what is resolved stays");
  require(again.points.size() == sweep.points.size(), "resolved, it has the same points");
  for (size_t i = 0; i < sweep.points.size(); ++i)
    require(canonical_text(again.points[i]) == canonical_text(sweep.points[i]),
            "in the same order");
  const Point& first = sweep.points.front();
  const Node point = parse_json("line", to_json(first).dump());
  const Sweep one = read_sweep(parse_json("one", sweep_of(point, "one", 1, 0).dump()), ".");
  require(one.points.size() == 1, "a point is a sweep of one");
  require(canonical_text(one.points[0]) == canonical_text(first), "and that is itself");
}

}  // namespace sweep_fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sweep_fuzz;
  const std::string text(reinterpret_cast<const char*>(data), size);
  Sweep sweep;
  try {
    sweep = read_sweep(parse_json("fuzz.json", text), ".");
  } catch (const InputError& error) {
    check_line(error.what());
    return 0;
  }
  check_sweep(sweep);
  return 0;
}
