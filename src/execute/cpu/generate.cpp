#include "execute/cpu/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/heartbeat.h"
#include "execute/types.h"
#include "kernels/cpu/memory.h"

namespace helix::cpu {

Block allocate(size_t bytes) {
  const size_t rounded = (std::max<size_t>(bytes, 1) + 63) / 64 * 64;
  const Memory memory = take_memory(rounded);
  if (!memory) throw OutOfMemory(fmt::format("out of memory: {} bytes wanted", rounded));
  Block block(memory.get(), [memory](std::byte*) {});
  // First touched by all threads: on a host with several memories the pages are spread over them.
  constexpr size_t part = 2 << 20;
#pragma omp parallel for schedule(static) if (rounded > 4 * part)
  for (size_t at = 0; at < rounded; at += part)
    std::memset(block.get() + at, 0, std::min(part, rounded - at));
  return block;
}

void generate(const Store& store, const Assignment& work) {
  const Generator generator(*work.model, work.precision, work.seed);
  store.for_each_weight([&](const WeightPart& w) {
    int64_t count = 1;
    for (const Slice& slice : w.part) count *= slice.count;
    with_stored(format_of(work.precision, w.weight), [&]<class T>(T*) {
      generator.weights(w.weight, w.layer, w.part,
                        values_at<T>(w.data, count, generator.scale(w.weight, w.layer)));
    });
    beat();
  });
  if (!work.prompt.empty()) return;  // its steps make the history
  const int64_t block = std::max(work.interval, 4096 / work.interval * work.interval);
  const Attention& a = work.model->attention;
  store.for_each_history([&](const HistoryPart& h) {
    with_stored(work.precision.kv, [&]<class T>(T*) {
      const auto cache = values_at<T>(h.cache, h.cached, generator.kv_scale(h.layer, h.kv_head));
      for (int64_t i = 0; i < h.positions.count; i += block) {
        Generator::Positions some = h.positions;
        some.first = h.positions.at(i);
        some.count = std::min(block, h.positions.count - i);
        generator.history(h.layer, h.request, h.length, h.kv_head, some,
                          cache.at(h.first_key + i * a.head_size),
                          cache.at(h.first_value + i * a.value_size));
        beat();
      }
    });
  });
}

}  // namespace helix::cpu
