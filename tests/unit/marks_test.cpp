// The marks of the tiny models stand where errors of sharding happen, and few a head.
#include "model/marks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "layout/requests.h"

namespace helix {
namespace {

constexpr const char* tiny[] = {"tiny-llama", "tiny-deepseek", "tiny-v2-lite", "tiny-qwen3-moe"};

std::set<int64_t> all_marks(const Model& model, int64_t length) {
  std::set<int64_t> marks;
  for (int64_t layer = 0; layer < model.layers; ++layer)
    for (int64_t group = 0; group < mark_groups(model); ++group)
      for (const int64_t position : marks_of(model, layer, group, length)) marks.insert(position);
  return marks;
}

// However a history is sharded, a token whose loss is seen stands at both ends of every shard that
// is not empty.
TEST(Marks, StandAtBothEndsOfEveryShard) {
  for (const char* name : tiny) {
    const Model model = read_model(preset_path(name));
    for (const int64_t length :
         {1, 2, 7, 16, 31, 33, 64, 255, 256, 257, 300, 511, 777, 1000, 4096, 9999, 30000}) {
      const std::set<int64_t> marks = all_marks(model, length);
      for (int kvp = 1; kvp <= 8; ++kvp)
        for (const int64_t interval : {1, 16, 32})
          for (int rank = 0; rank < kvp; ++rank) {
            const int64_t held = local_length(length, interval, kvp, rank);
            if (held == 0) continue;
            for (const int64_t local : {int64_t{0}, held - 1})
              EXPECT_TRUE(marks.contains(global_position(local, interval, kvp, rank)))
                  << name << " length " << length << " KVP " << kvp << " interval " << interval
                  << " rank " << rank << " position "
                  << global_position(local, interval, kvp, rank);
          }
    }
  }
}

TEST(Marks, AreAtMostEightAHeadAndLayer) {
  for (const char* name : tiny) {
    const Model model = read_model(preset_path(name));
    for (int64_t length = 0; length < 2000; length += 37)
      for (int64_t layer = 0; layer < model.layers; ++layer)
        for (int64_t group = 0; group < mark_groups(model); ++group)
          EXPECT_LE(marks_of(model, layer, group, length).size(), 8U) << name << " " << length;
  }
}

// Any part of a weight or of a history is the same numbers as in the whole.
TEST(Generator, PartsEqualTheWhole) {
  const Model model = read_model(preset_path("tiny-llama"));
  const Precision precision;
  const Generator generator(model, precision, 7);
  const Extents e = extents_of(model, W::kv);
  std::vector<float> whole_weight(static_cast<size_t>(e[0] * e[1] * e[2] * e[3]));
  generator.weights(W::kv, 1, {whole(e[0]), whole(e[1]), whole(e[2]), whole(e[3])},
                    whole_weight.data());
  const Part part = {Slice{0, 2}, Slice{1, 2}, Slice{3, 5}, Slice{17, 40}};
  std::vector<float> some(2 * 2 * 5 * 40);
  generator.weights(W::kv, 1, part, some.data());
  size_t at = 0;
  for (int64_t i = 0; i < 2; ++i)
    for (int64_t j = 1; j < 3; ++j)
      for (int64_t k = 3; k < 8; ++k)
        for (int64_t l = 17; l < 57; ++l)
          EXPECT_EQ(some[at++],
                    whole_weight[static_cast<size_t>(((i * e[1] + j) * e[2] + k) * e[3] + l)]);

  const int64_t length = 200;
  const int64_t d = model.attention.head_size;
  std::vector<float> keys(static_cast<size_t>(length * d));
  std::vector<float> values(keys.size());
  generator.history(2, 3, length, 1, {0, length}, keys.data(), values.data());
  for (const int kvp : {2, 3, 8})
    for (int rank = 0; rank < kvp; ++rank) {
      const int64_t held = local_length(length, 16, kvp, rank);
      std::vector<float> k(static_cast<size_t>(held * d));
      std::vector<float> v(k.size());
      generator.history(2, 3, length, 1, {int64_t{16} * rank, held, 16, int64_t{16} * kvp},
                        k.data(), v.data());
      for (int64_t i = 0; i < held; ++i)
        for (int64_t n = 0; n < d; ++n) {
          const auto from = static_cast<size_t>(global_position(i, 16, kvp, rank) * d + n);
          EXPECT_EQ(k[static_cast<size_t>(i * d + n)], keys[from]);
          EXPECT_EQ(v[static_cast<size_t>(i * d + n)], values[from]);
        }
    }
}

}  // namespace
}  // namespace helix
