// What a card is told of the generator's streams gives the generator's values, of any shard.
#include "execute/drawn.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/random.h"
#include "layout/requests.h"

namespace helix {
namespace {

// As kernels/cuda/generate.cu does it.
void make(const DrawnPart& p, float* to) {
  for (int64_t row = 0; row < p.rows; ++row)
    for (int64_t i = 0; i < p.width; ++i) {
      const int64_t index = p.first + i + (row / p.run * p.jump + row % p.run) * p.stride;
      to[row * p.width + i] = std::fma(uniform_at(p.draw.stream, static_cast<uint64_t>(index)),
                                       p.draw.scale, p.draw.offset);
    }
}

int64_t volume(const Part& part) {
  return part[0].count * part[1].count * part[2].count * part[3].count;
}

// Thirds of some axes, in turn; the others whole.
Part part_of(const Extents& e, int which) {
  Part part;
  for (size_t axis = 0; axis < 4; ++axis)
    part[axis] = (which >> axis & 1) != 0 && e[axis] >= 3 ? share(e[axis], 3, 1) : whole(e[axis]);
  return part;
}

TEST(DrawnParts, GiveTheGeneratorsValuesOfAnyShard) {
  constexpr Precision exact = {Format::fp32, Format::fp32, Format::fp32,
                               Format::fp32, Format::fp32, Format::fp32};
  int64_t checked = 0;
  for (const char* name : {"tiny-llama", "tiny-qwen3-moe", "tiny-deepseek"}) {
    Model model = read_model(preset_path(name));
    model.marked = false;
    const Generator generator(model, exact, 7);
    for (int i = 0; i < weight_count; ++i) {
      const W weight = static_cast<W>(i);
      const Extents e = extents_of(model, weight);
      if (e[0] * e[1] * e[2] * e[3] == 0 || generator.draw(weight, 1).offset != 0) continue;
      for (int which = 0; which < 16; ++which) {
        const Part part = part_of(e, which);
        std::vector<float> expected(static_cast<size_t>(volume(part)));
        generator.weights(weight, 1, part, expected.data());
        std::vector<float> made(expected.size(), NAN);
        int64_t filled = 0;
        for (const DrawnPart& p : drawn_parts(generator, weight, 1, part)) {
          ASSERT_EQ(p.begins, filled);
          ASSERT_LE(filled += p.rows * p.width, std::ssize(made));
          make(p, made.data() + p.begins);
        }
        ASSERT_EQ(made, expected) << name << " " << name_of(weight) << " part " << which;
        ++checked;
      }
    }
  }
  EXPECT_GT(checked, 500);
}

TEST(DrawnParts, GiveTheGeneratorsHistories) {
  constexpr Precision exact = {Format::fp32, Format::fp32, Format::fp32,
                               Format::fp32, Format::fp32, Format::fp32};
  for (const char* name : {"tiny-llama", "tiny-deepseek"}) {
    Model model = read_model(preset_path(name));
    model.marked = false;
    const Generator generator(model, exact, 7);
    const Attention& a = model.attention;
    for (const int64_t interval : {1, 16, 32}) {
      HistoryPart h{};
      h.layer = 2;
      h.request = 3;
      h.length = 700;
      h.kv_head = a.mla() ? 0 : 1;
      h.positions = {global_position(0, interval, 4, 1), local_length(700, interval, 4, 1),
                     interval, 4 * interval};
      std::vector<float> keys(static_cast<size_t>(h.positions.count * a.head_size));
      std::vector<float> values(static_cast<size_t>(h.positions.count * a.value_size));
      generator.history(h.layer, h.request, h.length, h.kv_head, h.positions, keys.data(),
                        a.mla() ? nullptr : values.data());
      std::vector<float> made(keys.size());
      make(drawn_keys(generator, h), made.data());
      EXPECT_EQ(made, keys) << name << " interval " << interval;
      if (a.mla()) continue;
      make(drawn_values(generator, h), made.data());
      EXPECT_EQ(made, values) << name << " interval " << interval;
    }
  }
}

}  // namespace
}  // namespace helix
