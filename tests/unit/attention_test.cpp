// Decode attention against its twin, over random shapes, whole and in shards, and what must not
// pass.
#include "kernels/cpu/attention.h"

#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>
#include <thread>

#include "kernels/cpu/reference.h"
#include "tests/unit/kernels.h"

namespace helix::cpu {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

// fp32: a logit of 20 is rounded to steps of 1.9e-6, half of which e^x makes the relative error of
// its weight; the sums add less (sixteen lanes of at most 36 products, 64 tokens in a row). Seen
// here: 6.2e-7 at most.
constexpr double fp32_tolerance = 2e-6;
// A log-sum-exp up to 32 is itself rounded to steps of 1.9e-6, absolute.
constexpr double lse_tolerance = 4e-6;
template <class T>
constexpr double tolerance_of = fp32_tolerance + rounding_of<T>;

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

std::vector<int64_t> random_tokens(Random& random) {
  std::vector<int64_t> tokens;
  for (int64_t row = random.integer(1, 9); row > 0; --row) {
    tokens.push_back(random.pick<int64_t>(
        {0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 257, random.integer(1, 700)}));
  }
  return tokens;
}

template <class Pair>
class Attention : public testing::Test {};
template <class A, class B>
struct Types {
  using Activation = A;
  using Kv = B;
};
using Combinations =
    testing::Types<Types<float, float>, Types<float, bf16>, Types<bf16, float>, Types<bf16, bf16>,
                   Types<float, fp8>, Types<bf16, fp8>, Types<float, nvfp4>, Types<bf16, nvfp4>>;
TYPED_TEST_SUITE(Attention, Combinations);

TYPED_TEST(Attention, MatchesItsTwin) {
  using A = typename TypeParam::Activation;
  Random random(1);
  for (int i = 0; i < 24; ++i) {
    using Kv = typename TypeParam::Kv;
    const Input<A, Kv> input(random, random_shape<Kv>(random), random_tokens(random), i % 2 == 0);
    int64_t parts = random.integer(1, 8);
    while (input.shape.heads % parts != 0) --parts;
    SCOPED_TRACE(testing::Message()
                 << "heads " << input.shape.heads << "/" << input.shape.kv_heads << " size "
                 << input.shape.head_size << " parts " << parts << " case " << i);
    expect_like(attend(input, parts), twin(input, parts));
  }
}

TYPED_TEST(Attention, LongHistoriesAndAWholeGroupOfHeads) {
  using A = typename TypeParam::Activation;
  Random random(2);
  // Over 32 splits of 2048 tokens they grow longer; 64 heads read one latent KV head.
  const AttentionShape gqa{.heads = 4, .kv_heads = 1, .head_size = 128, .value_size = 128};
  const AttentionShape mla{.heads = 64, .kv_heads = 1, .head_size = 576, .value_size = 512};
  const Input<A, typename TypeParam::Kv> a(random, gqa, {67000, 5, 2047, 2048, 2049}, true);
  expect_like(attend(a), twin(a));
  const Input<A, typename TypeParam::Kv> b(random, mla, {2100}, true);
  expect_like(attend(b, 8), twin(b, 8));
}

TYPED_TEST(Attention, BitsDependOnTheRowAlone) {
  using A = typename TypeParam::Activation;
  using Kv = typename TypeParam::Kv;
  Random random(3);
  for (int i = 0; i < 12; ++i) {
    AttentionShape shape = random_shape<Kv>(random);
    auto tokens = random_tokens(random);
    if (i % 5 == 0) tokens.push_back(3000);
    const Input<A, Kv> input(random, shape, tokens, true);
    std::vector<std::byte> one;
    std::vector<std::byte> two;
    with_threads(1, [&] { one = attend(input).messages; });
    with_threads(2, [&] { two = attend(input).messages; });
    EXPECT_TRUE(same_bits(one, two));

    const auto whole = attend(input).values();
    const auto last = input.shape.rows - 1;
    const int64_t row_values = shape.heads * shape.value_size;
    Input<A, Kv> alone = input;
    alone.shape.rows = 1;
    alone.tokens = {tokens.back()};
    alone.q.erase(alone.q.begin(), alone.q.end() - shape.heads * shape.head_size);
    alone.k.erase(alone.k.begin(), alone.k.end() - shape.kv_heads);
    alone.v.erase(alone.v.begin(), alone.v.end() - shape.kv_heads);
    EXPECT_TRUE(same_bits(attend(alone).values(),
                          std::vector<A>(whole.begin() + last * row_values, whole.end())));
  }
}

TYPED_TEST(Attention, ShardsMergeToTheWhole) {
  using A = typename TypeParam::Activation;
  Random random(4);
  for (int i = 0; i < 12; ++i) {
    using Kv = typename TypeParam::Kv;
    const Input<A, Kv> input(random, random_shape<Kv>(random), random_tokens(random), i % 2 == 0);
    const auto shards = static_cast<int>(random.integer(1, 8));
    Output<A> gathered(input.shape, 1);
    gathered.messages.clear();
    for (int s = 0; s < shards; ++s) {
      const auto message = attend(input, input.views(s, shards)).messages;
      gathered.messages.insert(gathered.messages.end(), message.begin(), message.end());
    }
    auto whole = twin(input).values();
    std::vector<A> merged(whole.size());
    merge_partials(gathered.part, shards, gathered.messages.data(), merged.data());
    expect_close(merged, whole, lse_tolerance + 2 * rounding_of<A>, "merged");
  }
}

TYPED_TEST(Attention, NansAreSeen) {
  using A = typename TypeParam::Activation;
  using Kv = typename TypeParam::Kv;
  Random random(5);
  for (int64_t token : {0, 63, 64, 300}) {
    constexpr int64_t size = up_to(granule<Kv>, 24);
    const AttentionShape shape{.heads = 6, .kv_heads = 2, .head_size = size, .value_size = size};
    const auto count_nans = [](const std::vector<A>& values) {
      return std::ranges::count_if(values, [](A value) { return std::isnan(to_float(value)); });
    };
    const Input<A, Kv> clean(random, shape, {301, 301}, true);
    ASSERT_EQ(count_nans(attend(clean).values()), 0);
    auto input = clean;
    input.q[0] = from_float<A>(NAN);
    EXPECT_EQ(count_nans(attend(input).values()), size);  // one head
    EXPECT_TRUE(std::isnan(attend(input).lses()[0]));
    input = clean;
    input.k[1].make_nan(token * size + 23);
    EXPECT_EQ(count_nans(attend(input).values()), 3 * size);  // one KV head
    EXPECT_TRUE(std::isnan(attend(input).lses()[3]));
    input = clean;
    input.v[1].make_nan(token * size + 23);
    EXPECT_EQ(count_nans(attend(input).values()), 3 * granule<Kv>);  // of three heads
  }
}

// Blocks in any order, of which some are not this request's, behind a table.
TYPED_TEST(Attention, PagedIsAsDense) {
  using A = typename TypeParam::Activation;
  using Kv = typename TypeParam::Kv;
  Random random(9);
  for (int i = 0; i < 12; ++i) {
    const Input<A, Kv> input(random, random_shape<Kv>(random), random_tokens(random), true);
    const auto block_tokens = random.pick<int64_t>({64, 128});
    std::vector<std::vector<int32_t>> tables(input.k.size());
    std::vector<Array<Kv>> k, v;
    auto views = input.views();
    for (size_t pair = 0; pair < views.size(); ++pair) {
      std::vector<int32_t>& table = tables[pair];
      for (int64_t t = 0; t < views[pair].tokens; t += block_tokens)
        table.push_back(static_cast<int32_t>(2 * std::ssize(table) + 1));
      std::ranges::reverse(table);
      const auto paged = [&](const std::vector<float>& rows, int64_t width) {
        std::vector<float> pool(static_cast<size_t>(2 * std::ssize(table) * block_tokens * width),
                                1e3F);
        for (int64_t t = 0; t * width < std::ssize(rows); ++t)
          std::copy_n(&rows[t * width], width,
                      &pool[(table[t / block_tokens] * block_tokens + t % block_tokens) * width]);
        return Array<Kv>(pool);
      };
      k.push_back(paged(input.keys[pair], input.shape.head_size));
      v.push_back(paged(input.values[pair], input.shape.value_size));
    }
    for (size_t pair = 0; pair < views.size(); ++pair) {
      views[pair].k = k[pair].view();
      views[pair].v = input.latent() ? k[pair].view() : v[pair].view();
      views[pair].block_table = tables[pair].data();
      views[pair].block_tokens = block_tokens;
    }
    EXPECT_TRUE(same_bits(attend(input, views).messages, attend(input).messages));
    if (std::ranges::all_of(input.tokens, [](int64_t tokens) { return tokens == 0; })) continue;
    std::ranges::for_each(tables, [](auto& table) { std::ranges::reverse(table); });
    const bool one_block = std::ranges::all_of(tables, [](const auto& t) { return t.size() < 2; });
    EXPECT_EQ(same_bits(attend(input, views).messages, attend(input).messages), one_block);
  }
}

// All of these change the merged output by far more than the tolerance.
TEST(AttentionControls, WrongArithmeticFails) {
  Random random(6);
  const AttentionShape shape{.heads = 4, .kv_heads = 1, .head_size = 64, .value_size = 64};
  constexpr int shards = 4;
  const Input<float, float> input(random, shape, {400, 401}, true);
  const auto whole = twin(input).values();
  const auto error = [&](auto&& change) {
    Output<float> gathered(input.shape, 1);
    gathered.messages.clear();
    for (int s = 0; s < shards; ++s) {
      auto partial = attend(input, input.views(s, shards));
      for (int64_t i = 0; i < 8; ++i) partial.lse(i / 4, i % 4) = change(partial.lse(i / 4, i % 4));
      gathered.messages.insert(gathered.messages.end(), partial.messages.begin(),
                               partial.messages.end());
    }
    std::vector<float> merged(whole.size());
    merge_partials(gathered.part, shards, gathered.messages.data(), merged.data());
    return relative_error(merged, whole);
  };
  EXPECT_LE(error([](float lse) { return lse; }), lse_tolerance);
  EXPECT_GT(error([](float lse) { return lse * std::log2(std::exp(1.0F)); }), 10 * lse_tolerance);
  EXPECT_GT(error([](float lse) { return to_float(to_bf16(lse)); }), 10 * lse_tolerance);
  auto views = input.views();
  --views[1].tokens;  // the last token of a row is lost
  EXPECT_GT(relative_error(attend(input, views).values(), whole), 10 * lse_tolerance);
}

TEST(AttentionControls, LogitsThatAreAllMinusInfinityAreAnError) {
  Random random(7);
  const AttentionShape shape{.heads = 1, .kv_heads = 1, .head_size = 8, .value_size = 8};
  Input<float, float> input(random, shape, {100}, false);
  std::ranges::fill(input.q, 1.0F);
  input.k[0] = Array<float>(std::vector<float>(800, -infinity));
  EXPECT_TRUE(std::isnan(attend(input).lses()[0]));
  EXPECT_TRUE(std::isnan(attend(input).values()[0]));
  std::vector<float> keys(800, -infinity);
  std::fill_n(keys.begin(), 8, 0.5F);  // one token is finite: it has all the weight
  input.k[0] = Array<float>(keys);
  EXPECT_EQ(attend(input).values(),
            std::vector<float>(input.values[0].begin(), input.values[0].begin() + 8));
}

TEST(AttentionPoll, OnlyTheCallerPollsAndItsExceptionsArrive) {
  Random random(8);
  const AttentionShape shape{.heads = 64, .kv_heads = 1, .head_size = 128, .value_size = 128};
  const Input<float, float> input(random, shape, {4000, 4000}, false);
  const auto caller = std::this_thread::get_id();
  for (int threads : {1, 2}) {
    with_threads(threads, [&] {
      int polls = 0;
      attend(input, input.views(), 1, [&] {
        EXPECT_EQ(std::this_thread::get_id(), caller);
        ++polls;
      });
      EXPECT_GE(polls, threads == 1 ? 2 * 4000 / 64
                                    : 1);  // every tile; with help, what falls to the caller
      EXPECT_THROW(
          attend(input, input.views(), 1, [] { throw std::runtime_error("a peer is gone"); }),
          std::runtime_error);
    });
  }
}

}  // namespace
}  // namespace helix::cpu
