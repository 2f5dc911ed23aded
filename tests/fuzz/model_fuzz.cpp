// Any bytes are a model with shapes that can be counted and laid out, or one clear line.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "layout/strategy.h"
#include "model/model.h"
#include "model/weights.h"

namespace model_fuzz {

using namespace helix;

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "model_fuzz: %s\n", what);
  std::abort();
}

// A file in memory, as a model is read from a path.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : file_(memfd_create("model", 0)) {
    require(file_ >= 0 && write(file_, data, size) == static_cast<ssize_t>(size), "memfd");
  }
  ~MemoryFile() { close(file_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(file_); }

 private:
  int file_;
};

inline void check_line(std::string_view line) {
  require(line.starts_with("/proc/self/fd/"), "the message names the file");
  require(line.size() < 20000, "the message is short");
  for (const char c : line) require(static_cast<uint8_t>(c) >= 0x20 && c != 0x7f, "one line");
}

inline void check_model(const Model& m) {
  require(!m.name.empty() && m.name.find('/') == m.name.npos, "a name without a path");
  require(m.attention.query_heads % m.attention.kv_heads == 0, "query heads a KV head");
  require(m.dense_layers >= 0 && m.dense_layers <= m.layers, "dense layers");
  require((m.experts.count == 0) == (m.dense_layers == m.layers) || m.experts.count > 0, "dense");
  require(m.dense_layers == 0 || m.ffn > 0, "dense layers have a width");
  const int64_t all = parameters(m);
  require(all > 0 && all < int64_t{2'000'000'000'000'000}, "parameters can be counted");
  require(active_parameters(m) > 0 && active_parameters(m) <= all, "some of them are active");
  require(std::isfinite(softmax_scale(m)) && softmax_scale(m) > 0, "softmax scale");
  for (const double frequency : rope_frequencies(m))
    require(std::isfinite(frequency) && frequency >= 0, "RoPE turns by numbers");
}

inline void check_layouts(const Model& m) {
  const Precision precision;
  for (const Strategy& strategy : strategies())
    for (const Layout& l : layouts(m, precision, strategy, 12)) {
      require(!refuse(m, precision, l), "an enumerated layout is legal");
      require(l.ranks() == 12, "and fills the ranks");
    }
  require(nearest_legal(m, precision, {.strategy = "helix", .kvp = 5}).has_value(),
          "a model has some legal layout");
}

}  // namespace model_fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace model_fuzz;
  const MemoryFile file(data, size);
  Model model;
  try {
    model = read_model(file.path());
  } catch (const InputError& error) {
    check_line(error.what());
    return 0;
  }
  check_model(model);
  check_layouts(model);
  return 0;
}
