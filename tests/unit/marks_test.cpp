// The marks of the tiny models stand where errors of sharding happen, and few a head.
#include "model/marks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

// Stored parts of quantised tensors are the whole's, and mean what the judge reads.
template <class T>
void check_stored(const Model& model, Format format) {
  const Precision precision = {format, format, Format::fp32, format, format, format};
  const Generator generator(model, precision, 7);
  for (const W weight : {W::q, W::o, W::up, W::experts_down, W::lm_head}) {
    const Extents e = extents_of(model, weight);
    if (e[0] * e[1] * e[2] * e[3] == 0 || (weight != W::lm_head && !in_layer(model, weight, 1)))
      continue;
    int axis = 3;
    while (e[axis] == 1) --axis;
    Part part = {whole(e[0]), whole(e[1]), whole(e[2]), whole(e[3])};
    std::vector<float> meant(static_cast<size_t>(e[0] * e[1] * e[2] * e[3]));
    generator.weights(weight, 1, part, meant.data());
    part[axis] = {16, e[axis] - 16};  // cut where blocks are
    if (part[axis].count == 0) part[axis] = {0, 16};
    const int64_t rows = std::ssize(meant) / e[axis];
    const int64_t count = rows * part[axis].count;
    std::vector<std::byte> memory(static_cast<size_t>(bytes_for<T>(count)));
    const auto stored = values_at<T>(memory.data(), count, generator.scale(weight, 1));
    generator.weights(weight, 1, part, stored);
    int64_t differing = 0;
    double largest = 0, sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      const auto from = i / part[axis].count * e[axis] + part[axis].first + i % part[axis].count;
      differing += value_at(stored, i) != meant[static_cast<size_t>(from)];
      largest = std::max(largest, std::abs(double{value_at(stored, i)}));
      sum += std::abs(double{value_at(stored, i)});
    }
    EXPECT_EQ(differing, 0) << model.name << " " << name_of(weight);
    EXPECT_GT(sum, 0) << name_of(weight);
  }
}

TEST(Generator, QuantisedPartsAreWhatTheJudgeReads) {
  for (const char* name : {"tiny-llama", "tiny-deepseek", "tiny-qwen3-moe"}) {
    check_stored<fp8>(read_model(preset_path(name)), Format::fp8);
    check_stored<nvfp4>(read_model(preset_path(name)), Format::nvfp4);
  }
}

// What is drawn and what stands in the cache differ by roundings alone: no scale is too small or
// too large for what the models hold.
TEST(Generator, QuantisedValuesAreNearTheDrawnOnes) {
  for (const std::string& name : preset_names()) {
    const Model model = read_model(preset_path(name));
    const Attention& a = model.attention;
    for (const auto& [format, allowed] : {std::pair(Format::fp8, 0.04), {Format::nvfp4, 0.25}}) {
      const auto with = [&](Format f) {
        return Generator(model, {f, f, Format::fp32, f, f, f}, 3);
      };
      const auto off = [&](const std::vector<float>& plain, const std::vector<float>& coded) {
        double difference = 0, size = 0;
        for (size_t i = 0; i < plain.size(); ++i) {
          difference += std::pow(double{plain[i]} - coded[i], 2);
          size += std::pow(double{plain[i]}, 2);
        }
        return std::sqrt(difference / size);
      };
      const Part rows = {Slice{0, 1}, Slice{0, 16}, whole(extents_of(model, W::q)[2]), Slice{0, 1}};
      std::vector<float> plain(static_cast<size_t>(16 * rows[2].count)), coded = plain;
      with(Format::fp32).weights(W::q, 1, rows, plain.data());
      with(format).weights(W::q, 1, rows, coded.data());
      EXPECT_LE(off(plain, coded), allowed) << name << " weights " << name_of(format);
      std::vector<float> keys(static_cast<size_t>(300 * a.head_size)), coded_keys = keys;
      std::vector<float> values(static_cast<size_t>(300 * a.value_size)), coded_values = values;
      const bool mla = a.mla();
      with(Format::fp32)
          .history(1, 0, 300, 0, {0, 300}, keys.data(), mla ? nullptr : values.data());
      with(format).history(1, 0, 300, 0, {0, 300}, coded_keys.data(),
                           mla ? nullptr : coded_values.data());
      EXPECT_LE(off(keys, coded_keys), allowed) << name << " keys " << name_of(format);
      if (!mla) {
        EXPECT_LE(off(values, coded_values), allowed) << name << " values " << name_of(format);
      }
    }
  }
}

}  // namespace
}  // namespace helix
