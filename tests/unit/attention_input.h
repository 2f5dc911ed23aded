// Random input of decode attention, what the kernels and their twin make of it, and how near the
// two must be.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/reference.h"
#include "tests/unit/kernels.h"

namespace helix::cpu {

inline constexpr float infinity = std::numeric_limits<float>::infinity();

// fp32: a logit of 20 is rounded to steps of 1.9e-6, half of which e^x makes the relative error of
// its weight; the sums add less (sixteen lanes of at most 36 products, 64 tokens in a row). Seen
// here: 6.2e-7 at most.
inline constexpr double fp32_tolerance = 2e-6;
// A log-sum-exp up to 32 is itself rounded to steps of 1.9e-6, absolute.
inline constexpr double lse_tolerance = 4e-6;
template <class T>
inline constexpr double tolerance_of = fp32_tolerance + rounding_of<T>;

// Random attention input. Some tokens are peaks: their key is a query of that row, scaled to a
// logit of 20.
template <class Activation, class Kv>
struct Input {
  AttentionShape shape;
  std::vector<int64_t> tokens;  // of each row
  std::vector<Activation> q;
  std::vector<std::vector<float>> keys, values;  // of each (row, KV head), before they are rounded
  std::vector<Array<Kv>> k, v;                   // MLA has no v of its own

  Input(Random& random, AttentionShape of, std::vector<int64_t> row_tokens, bool peaky)
      : shape(of), tokens(std::move(row_tokens)) {
    shape.rows = std::ssize(tokens);
    shape.scale = 1 / std::sqrt(static_cast<float>(shape.head_size));
    q = random.normals<Activation>(shape.rows * shape.heads * shape.head_size);
    for (int64_t pair = 0; pair < shape.rows * shape.kv_heads; ++pair) {
      const int64_t count = tokens[pair / shape.kv_heads];
      keys.push_back(random.normals<float>(count * shape.head_size));
      values.push_back(random.normals<float>(latent() ? 0 : count * shape.value_size));
      for (int peak = 0; peaky && count > 0 && peak < 3; ++peak) {
        point(pair, random.integer(0, count - 1),
              random.integer(0, shape.heads / shape.kv_heads - 1));
      }
      k.emplace_back(keys.back());
      v.emplace_back(values.back());
    }
  }

  bool latent() const { return shape.head_size == 576; }

  void point(int64_t pair, int64_t token, int64_t head) {
    const Activation* query = &q[(pair * shape.heads / shape.kv_heads + head) * shape.head_size];
    double square = 0;
    for (int64_t d = 0; d < shape.head_size; ++d) square += std::pow(to_float(query[d]), 2);
    const double factor = 20 / (shape.scale * square);
    for (int64_t d = 0; d < shape.head_size; ++d) {
      keys[pair][token * shape.head_size + d] = static_cast<float>(factor * to_float(query[d]));
    }
  }

  // Tokens [begin, end) of every row, cut to what the row has, as fractions of `of` parts.
  std::vector<KvView<Kv>> views(int64_t shard = 0, int64_t of = 1) const {
    std::vector<KvView<Kv>> all;
    for (int64_t pair = 0; pair < std::ssize(k); ++pair) {
      const int64_t count = tokens[pair / shape.kv_heads];
      const int64_t begin = count * shard / of;
      const int64_t v_stride = latent() ? shape.head_size : shape.value_size;
      const auto own = latent() ? k[pair].view() : v[pair].view();
      all.push_back({.k = k[pair].view().at(begin * shape.head_size),
                     .v = own.at(begin * v_stride),
                     .k_stride = shape.head_size,
                     .v_stride = v_stride,
                     .tokens = count * (shard + 1) / of - begin});
    }
    return all;
  }
};

// Messages of `part`, and the same unpacked to [rows][heads][value_size] and [rows][heads].
template <class Activation>
struct Output {
  PartialLayout part;
  std::vector<std::byte> messages;

  Output(const AttentionShape& shape, int64_t parts)
      : part{.rows = shape.rows,
             .heads = shape.heads / parts,
             .value_size = shape.value_size,
             .element_bytes = sizeof(Activation)},
        messages(static_cast<size_t>(parts * part.bytes()), std::byte{0xff}) {}

  int64_t heads() const { return std::ssize(messages) / part.bytes() * part.heads; }
  std::byte* message(int64_t head) { return &messages[head / part.heads * part.bytes()]; }

  std::vector<Activation> values() {
    std::vector<Activation> all(static_cast<size_t>(part.rows * heads() * part.value_size));
    for (int64_t i = 0; i < part.rows * heads(); ++i) {
      const int64_t head = i % heads();
      std::memcpy(static_cast<void*>(&all[i * part.value_size]),
                  message(head) + part.output_offset(i / heads(), head % part.heads),
                  part.value_size * part.element_bytes);
    }
    return all;
  }
  float& lse(int64_t row, int64_t head) {
    return *reinterpret_cast<float*>(message(head) + part.lse_offset(row, head % part.heads));
  }
  std::vector<float> lses() {
    std::vector<float> all;
    for (int64_t i = 0; i < part.rows * heads(); ++i) {
      float value = 0;
      std::memcpy(&value, &lse(i / heads(), i % heads()), sizeof value);
      all.push_back(value);
    }
    return all;
  }
};

template <class Activation, class Kv>
Output<Activation> attend(const Input<Activation, Kv>& input, const std::vector<KvView<Kv>>& views,
                          int64_t parts = 1, const std::function<void()>& poll = {}) {
  Output<Activation> output(input.shape, parts);
  decode_attention<Activation, Kv>(input.shape, input.q.data(), views, output.part,
                                   output.messages.data(), poll);
  return output;
}
template <class Activation, class Kv>
Output<Activation> attend(const Input<Activation, Kv>& input, int64_t parts = 1) {
  return attend(input, input.views(), parts);
}
template <class Activation, class Kv>
Output<Activation> twin(const Input<Activation, Kv>& input, int64_t parts = 1) {
  Output<Activation> output(input.shape, parts);
  reference::decode_attention<Activation, Kv>(input.shape, input.q.data(), input.views(),
                                              output.part, output.messages.data());
  return output;
}

template <class Activation>
void expect_like(Output<Activation> actual, Output<Activation> expected) {
  expect_close(actual.values(), expected.values(), tolerance_of<Activation>, "outputs");
  const auto a = actual.lses();
  const auto b = expected.lses();
  for (size_t i = 0; i < a.size(); ++i) {
    if (b[i] == -infinity) {
      EXPECT_EQ(a[i], -infinity);
    } else if (!(std::abs(a[i] - b[i]) <= lse_tolerance)) {
      ADD_FAILURE() << "log-sum-exp " << a[i] << ", expected " << b[i];
    }
  }
}

template <class Kv>
AttentionShape random_shape(Random& random) {
  struct Heads {
    int64_t heads, kv_heads;
  };
  const auto heads = random.pick<Heads>({{1, 1},
                                         {2, 1},
                                         {3, 1},
                                         {3, 3},
                                         {6, 2},
                                         {16, 1},
                                         {16, 2},
                                         {16, 16},
                                         {24, 3},
                                         {24, 8},
                                         {40, 2}});
  const int64_t size = up_to(granule<Kv>, random.pick<int64_t>({8, 16, 24, 64, 100, 128, 576}));
  return {
      .heads = heads.heads,
      .kv_heads = heads.kv_heads,
      .head_size = size,
      .value_size = size == 576 ? 512 : up_to(granule<Kv>, random.pick<int64_t>({size, 8, 72}))};
}

inline std::vector<int64_t> random_tokens(Random& random) {
  std::vector<int64_t> tokens;
  for (int64_t row = random.integer(1, 9); row > 0; --row) {
    tokens.push_back(random.pick<int64_t>(
        {0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 257, random.integer(1, 700)}));
  }
  return tokens;
}

}  // namespace helix::cpu
