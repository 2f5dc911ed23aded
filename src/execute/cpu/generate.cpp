#include "execute/cpu/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/heartbeat.h"
#include "execute/cpu/types.h"

namespace helix::cpu {

Block allocate(size_t bytes) {
  const size_t rounded = (std::max<size_t>(bytes, 1) + 63) / 64 * 64;
  Block block(static_cast<std::byte*>(std::aligned_alloc(64, rounded)),
              [](std::byte* p) { std::free(p); });
  if (!block) throw RunError(fmt::format("out of memory: {} bytes wanted", rounded));
  std::memset(block.get(), 0, rounded);
  return block;
}

void generate(const Store& store, const Assignment& work) {
  const Generator generator(*work.model, work.precision, work.seed);
  store.for_each_weight([&](const WeightPart& w) {
    with_type(format_of(work.precision, w.weight), [&]<class T>(T*) {
      generator.weights(w.weight, w.layer, w.part, reinterpret_cast<T*>(w.data));
    });
    beat();
  });
  if (!work.prompt.empty()) return;  // its steps make the history
  const int64_t block = std::max(work.interval, 4096 / work.interval * work.interval);
  const Attention& a = work.model->attention;
  store.for_each_history([&](const HistoryPart& h) {
    with_type(work.precision.kv, [&]<class T>(T*) {
      T* keys = reinterpret_cast<T*>(h.keys);
      T* values = reinterpret_cast<T*>(h.values);
      for (int64_t i = 0; i < h.positions.count; i += block) {
        Generator::Positions some = h.positions;
        some.first = h.positions.at(i);
        some.count = std::min(block, h.positions.count - i);
        generator.history(h.layer, h.request, h.length, h.kv_head, some, keys + i * a.head_size,
                          values == nullptr ? nullptr : values + i * a.value_size);
        beat();
      }
    });
  });
}

}  // namespace helix::cpu
