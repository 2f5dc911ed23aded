// Decode attention against its twin, over random shapes, whole and in shards, and what must not
// pass.
#include "kernels/cpu/attention.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>

#include "tests/unit/attention_input.h"

namespace helix::cpu {
namespace {

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

// Up to four heads decode codes while they multiply, each count in code of its own; lines of codes
// end anywhere in a head.
TYPED_TEST(Attention, EveryGroupOfHeadsAndEndOfALine) {
  using A = typename TypeParam::Activation;
  using Kv = typename TypeParam::Kv;
  Random random(9);
  for (int64_t heads = 1; heads <= 5; ++heads) {
    for (const int64_t size : {16, 48, 64, 80, 128, 144, 192, 208}) {
      const AttentionShape shape{
          .heads = 2 * heads, .kv_heads = 2, .head_size = 208 - size + 16, .value_size = size};
      SCOPED_TRACE(testing::Message() << heads << " heads, values of " << size);
      const Input<A, Kv> input(random, shape, {1, 30, 257}, true);
      expect_like(attend(input), twin(input));
    }
  }
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
    // Control: a block that is not this request's.
    for (auto& table : tables)
      if (!table.empty()) --table.front();
    EXPECT_FALSE(same_bits(attend(input, views).messages, attend(input).messages));
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
