// Products and elementwise kernels against their twins; equal bits for equal rows; NaN is seen.
#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <stdexcept>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/reference.h"
#include "tests/unit/kernels.h"

namespace helix::cpu {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

TEST(Lanes, ExponentialIsWithinTwoUnits) {
  EXPECT_EQ(exponential(0.0F), 1.0F);
  EXPECT_EQ(exponential(-infinity), 0.0F);
  EXPECT_EQ(exponential(-1000.0F), 0.0F);
  EXPECT_EQ(exponential(std::numeric_limits<float>::lowest()), 0.0F);
  EXPECT_EQ(exponential(infinity), infinity);
  EXPECT_EQ(exponential(100.0F), infinity);
  EXPECT_TRUE(std::isnan(exponential(NAN)));
  EXPECT_TRUE(std::isnan(exponential(-NAN)));
  double worst = 0;
  for (float x = -104; x < 88.72F; x += 0.00037F) {
    const double exact = std::exp(double{x});
    const auto near = static_cast<float>(exact);
    const double unit = double{std::nextafter(near, infinity)} - near;
    worst = std::max(worst, std::abs(exponential(x) - exact) / unit);
  }
  EXPECT_LE(worst, 2.0) << "units in the last place";
}

TEST(Lanes, EverySumTakesTheSameTree) {
  Random random(1);
  const auto values = random.normals<float>(16 * 16);
  Lanes v[16];
  for (int i = 0; i < 16; ++i) v[i] = load(&values[16 * static_cast<size_t>(i)]);
  float together[16];
  store(sums(v), together);
  for (int i = 0; i < 16; ++i) {
    // The tree, spelt out: it is the same on every machine.
    const float* lanes = &values[16 * static_cast<size_t>(i)];
    const auto block = [&](size_t b) {
      const float* four = &lanes[4 * b];
      return (four[0] + four[2]) + (four[1] + four[3]);
    };
    const float expected = (block(0) + block(1)) + (block(2) + block(3));
    EXPECT_EQ(together[i], expected);
    EXPECT_EQ(sum(v[i]), expected);
  }
}

TEST(Lanes, StoresRoundAsScalarsDo) {
  std::vector<float> values = {0.0F, -0.0F, infinity, -infinity, NAN, -NAN, 1e-40F, 3.4e38F};
  for (uint32_t low : {0x7fffU, 0x8000U, 0x8001U}) {
    for (uint32_t high : {0x3f80U, 0x3f81U, 0x7f7fU, 0x7f80U})
      values.push_back(std::bit_cast<float>(high << 16 | low));
  }
  std::vector<bf16> actual(values.size());
  std::vector<bf16> expected(values.size());
  convert<float, bf16>(std::ssize(values), values.data(), actual.data());
  reference::convert<float, bf16>(std::ssize(values), values.data(), expected.data());
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_EQ(actual[i].bits, expected[i].bits) << values[i];
  std::vector<float> back(values.size());
  convert<bf16, float>(std::ssize(values), actual.data(), back.data());
  EXPECT_EQ(std::bit_cast<uint32_t>(back[3]), std::bit_cast<uint32_t>(-infinity));
}

template <class A, class B>
struct Types {
  using Weight = A;
  using Activation = B;
};
using Combinations =
    testing::Types<Types<float, float>, Types<float, bf16>, Types<bf16, float>, Types<bf16, bf16>>;
using StoredCombinations =
    testing::Types<Types<float, float>, Types<float, bf16>, Types<bf16, float>, Types<bf16, bf16>,
                   Types<fp8, float>, Types<fp8, bf16>, Types<nvfp4, float>, Types<nvfp4, bf16>>;
template <class Pair>
class Product : public testing::Test {};
TYPED_TEST_SUITE(Product, StoredCombinations);

// Sums of K random terms grow as sqrt(K); a lane of K / 16 terms, rounded at each (6e-8 of what it
// holds), is off by about sqrt(K / 16) roundings: 2e-6 of the largest of some hundred results for K
// up to 10^4. BLAS is no worse.
constexpr double product_tolerance = 2e-6;

template <class W, class A>
std::vector<A> multiply(const ProductShape& shape, int64_t heads, const std::vector<A>& x,
                        const Values<const W>& w) {
  std::vector<A> y(static_cast<size_t>(shape.rows * heads * shape.y_stride), from_float<A>(-7.0F));
  if (heads == 1) {
    product(shape, x.data(), w, y.data());
  } else {
    product_per_head(shape, heads, x.data(), w, y.data());
  }
  return y;
}

TYPED_TEST(Product, MatchesItsTwin) {
  using W = typename TypeParam::Weight;
  using A = typename TypeParam::Activation;
  Random random(2);
  for (int i = 0; i < 40; ++i) {
    ProductShape shape{
        .rows = random.pick<int64_t>({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 31, 256, 257}),
        .outputs = random.pick<int64_t>({1, 3, 8, 15, 16, 17, 24, 130, 300}),
        .inputs = random.pick<int64_t>({1, 8, 15, 16, 17, 64, 100, 576, 1024, 5000}),
        .fixed_order = random.integer(0, 1) == 1};
    shape.inputs = up_to(granule<W>, shape.inputs);
    shape.x_stride = shape.inputs + random.integer(0, 3);
    shape.y_stride = shape.outputs + random.integer(0, 3);
    const auto heads = random.pick<int64_t>({1, 1, 3});
    const auto x = random.normals<A>(shape.rows * heads * shape.x_stride);
    const auto w = random.stored<W>(heads * shape.outputs * shape.inputs);
    std::vector<A> expected(static_cast<size_t>(shape.rows * heads * shape.y_stride),
                            from_float<A>(-7.0F));
    reference::product_per_head(shape, heads, x.data(), w.view(), expected.data());
    SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.outputs << " x " << shape.inputs
                                    << " heads " << heads);
    expect_close(multiply(shape, heads, x, w.view()), expected, product_tolerance + rounding_of<A>);
  }
}

TYPED_TEST(Product, BitsDependOnTheRowAlone) {
  using W = typename TypeParam::Weight;
  using A = typename TypeParam::Activation;
  Random random(3);
  constexpr int64_t outputs = 333;
  constexpr int64_t inputs = up_to(granule<W>, 1111);
  const auto w = random.stored<W>(outputs * inputs);
  const auto x = random.normals<A>(9 * inputs);
  const ProductShape one{
      .rows = 1, .outputs = outputs, .inputs = inputs, .x_stride = inputs, .y_stride = outputs};
  for (int64_t rows : {1, 2, 3, 4, 5, 7, 9, 40}) {
    std::vector<A> many;
    for (int64_t r = 0; r < rows; ++r) {
      many.insert(many.end(), x.begin() + r % 9 * inputs, x.begin() + (r % 9 + 1) * inputs);
    }
    ProductShape shape = one;
    shape.rows = rows;
    shape.fixed_order = true;
    const auto y = multiply(shape, 1, many, w.view());
    for (int64_t r = 0; r < rows; ++r) {
      const std::vector<A> row(many.begin() + r * inputs, many.begin() + (r + 1) * inputs);
      EXPECT_TRUE(same_bits(multiply(one, 1, row, w.view()),
                            std::vector<A>(y.begin() + r * outputs, y.begin() + (r + 1) * outputs)))
          << "row " << r << " of " << rows;
    }
    // A column's bits do not depend on the other columns either.
    ProductShape last = one;
    last.outputs = last.y_stride = 1;
    const std::vector<A> row(many.begin(), many.begin() + inputs);
    EXPECT_TRUE(same_bits(multiply(last, 1, row, w.view().at((outputs - 1) * inputs)),
                          std::vector<A>{y[outputs - 1]}));
  }
}

TYPED_TEST(Product, ThreadsDoNotChangeBits) {
  using W = typename TypeParam::Weight;
  using A = typename TypeParam::Activation;
  Random random(4);
  for (int64_t rows : {1, 5, 256}) {
    const ProductShape shape{
        .rows = rows, .outputs = 700, .inputs = 912, .x_stride = 912, .y_stride = 700};
    const auto x = random.normals<A>(rows * 912);
    const auto w = random.stored<W>(700 * 912);
    std::vector<A> one;
    std::vector<A> two;
    with_threads(1, [&] { one = multiply(shape, 1, x, w.view()); });
    with_threads(2, [&] { two = multiply(shape, 1, x, w.view()); });
    EXPECT_TRUE(same_bits(one, two)) << rows;
  }
}

TYPED_TEST(Product, NansAreSeenAndAMissingInputFails) {
  using W = typename TypeParam::Weight;
  using A = typename TypeParam::Activation;
  Random random(5);
  for (int64_t rows : {1, 3, 256}) {
    const ProductShape shape{
        .rows = rows, .outputs = 20, .inputs = 48, .x_stride = 48, .y_stride = 20};
    const auto x = random.normals<A>(rows * 48);
    const auto w = random.stored<W>(20 * 48);
    const auto good = multiply(shape, 1, x, w.view());
    auto changed = w;
    changed.make_nan(7 * 48 + 47);
    EXPECT_TRUE(std::isnan(to_float(multiply(shape, 1, x, changed.view())[7])));
    EXPECT_FALSE(relative_error(multiply(shape, 1, x, changed.view()), good) <= 1);
    auto missing = shape;
    missing.inputs -= granule<W>;  // negative control: rows of w shift, too
    EXPECT_GT(relative_error(multiply(missing, 1, x, w.view()), good), 10 * product_tolerance);
  }
}

// Every code, alone in its row: the kernel's decoding and the format's are one.
TYPED_TEST(Product, EveryCodeIsDecodedAsTheFormatSays) {
  using W = typename TypeParam::Weight;
  std::vector<float> from;
  for (int code = 0; code < 256; ++code) {
    std::vector<float> block(16, 0.0F);
    if (const fp8 value{static_cast<uint8_t>(code)}; (code & 127) != 127)
      block[static_cast<size_t>(code % 16)] = 0.3F * to_float(value);
    block[static_cast<size_t>((code + 5) % 16)] = 0.3F;
    from.insert(from.end(), block.begin(), block.end());
  }
  const Array<W> w(from);
  for (int64_t channel = 0; channel < 16; ++channel) {
    std::vector<float> x(16, 0.0F);
    x[static_cast<size_t>(channel)] = 1;
    std::vector<float> y(256);
    product(ProductShape{.rows = 1, .outputs = 256, .inputs = 16, .x_stride = 16, .y_stride = 256},
            x.data(), w.view(), y.data());
    for (int64_t row = 0; row < 256; ++row) EXPECT_FLOAT_EQ(y[row], w[row * 16 + channel]);
  }
}

TEST(ProductPoll, ExceptionsArrive) {
  const ProductShape shape{
      .rows = 1, .outputs = 2000, .inputs = 1000, .x_stride = 1000, .y_stride = 2000};
  const std::vector<float> x(1000), w(2000000);
  std::vector<float> y(2000);
  EXPECT_THROW(product(shape, x.data(), Values(w.data()), y.data(),
                       [] { throw std::runtime_error("a peer is gone"); }),
               std::runtime_error);
}

template <class Pair>
class Elementwise : public testing::Test {};
TYPED_TEST_SUITE(Elementwise, Combinations);

TYPED_TEST(Elementwise, NormsMatchTheirTwins) {
  using W = typename TypeParam::Weight;
  using A = typename TypeParam::Activation;
  Random random(6);
  for (int i = 0; i < 40; ++i) {
    const int64_t rows = random.integer(0, 9);
    const auto width = random.pick<int64_t>({1, 8, 16, 100, 128, 576, 7168});
    const int64_t stride = width + random.integer(0, 5);
    const auto w = random.normals<W>(width);
    auto x = random.normals<A>(rows * stride, 10);
    auto expected = x;
    reference::rms_norm(rows, width, stride, stride, x.data(), w.data(), 1e-5F, expected.data());
    rms_norm(rows, width, stride, stride, x.data(), w.data(), 1e-5F, x.data());  // in place
    // Four roundings of 6e-8 for a value, and the root's.
    expect_close(x, expected, 5e-7 + rounding_of<A>, "rms_norm");

    auto hidden = random.normals<A>(rows * width);
    auto twin_hidden = hidden;
    const auto y = random.normals<A>(rows * width);
    std::vector<A> out(hidden.size());
    std::vector<A> twin_out(hidden.size());
    add_rms_norm(rows, width, hidden.data(), y.data(), w.data(), 1e-6F, out.data());
    reference::add_rms_norm(rows, width, twin_hidden.data(), y.data(), w.data(), 1e-6F,
                            twin_out.data());
    EXPECT_TRUE(same_bits(hidden, twin_hidden));  // one exact sum, rounded once
    expect_close(out, twin_out, 5e-7 + rounding_of<A>, "add_rms_norm");
  }
}

TYPED_TEST(Elementwise, RopeMatchesItsTwin) {
  using A = typename TypeParam::Activation;
  Random random(7);
  for (int i = 0; i < 40; ++i) {
    RopeShape shape{.rows = random.integer(0, 9),
                    .heads = random.pick<int64_t>({1, 3, 16, 24}),
                    .size = random.pick<int64_t>({8, 16, 64, 128, 192, 576}),
                    .interleaved = i % 2 == 0};
    shape.pairs = random.pick<int64_t>({shape.size / 2, 4});
    std::vector<float> cosines;
    std::vector<float> sines;
    for (int64_t p = 0; p < shape.rows * shape.pairs; ++p) {
      const float angle = 10 * random.normal();
      cosines.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
    auto x = random.normals<A>(shape.rows * shape.heads * shape.size);
    std::vector<A> out(x.size());
    std::vector<A> expected(x.size());
    reference::rope(shape, cosines.data(), sines.data(), x.data(), expected.data());
    rope(shape, cosines.data(), sines.data(), x.data(), out.data());
    expect_close(out, expected, 2e-7 + rounding_of<A>);
    rope(shape, cosines.data(), sines.data(), x.data(), x.data());
    EXPECT_TRUE(same_bits(x, out)) << "in place";
  }
}

TYPED_TEST(Elementwise, GatesSumsAndEmbeddingsMatchTheirTwins) {
  using W = typename TypeParam::Weight;
  using A = typename TypeParam::Activation;
  Random random(8);
  for (int i = 0; i < 40; ++i) {
    const int64_t rows = random.integer(0, 9);
    const auto width = random.pick<int64_t>({1, 16, 100, 5000});
    std::vector<A> out(static_cast<size_t>(rows * width));
    auto expected = out;
    const auto x = random.normals<A>(rows * 2 * width, 20);
    swiglu(rows, width, x.data(), out.data());
    reference::swiglu(rows, width, x.data(), expected.data());
    expect_close(out, expected, 5e-7 + rounding_of<A>, "swiglu");

    const auto parts = static_cast<int>(random.integer(1, 8));
    std::vector<std::vector<A>> values;
    std::vector<const A*> from;
    values.reserve(static_cast<size_t>(parts));
    from.reserve(static_cast<size_t>(parts));
    for (int p = 0; p < parts; ++p) values.push_back(random.normals<A>(rows * width));
    for (const auto& part : values) from.push_back(part.data());
    sum_in_order(parts, rows * width, from.data(), out.data());
    reference::sum_in_order(parts, rows * width, from.data(), expected.data());
    expect_close(out, expected, 5e-7 + rounding_of<A>, "sum_in_order");
    EXPECT_TRUE(parts > 2 || same_bits(out, expected));  // the sum of two is rounded once

    const auto table = random.normals<W>(10 * width);
    std::vector<int32_t> tokens;
    for (int64_t r = 0; r < rows; ++r)
      tokens.push_back(static_cast<int32_t>(random.integer(15, 34)));
    embed(tokens, 20, 10, width, table.data(), out.data());
    reference::embed(tokens, 20, 10, width, table.data(), expected.data());
    EXPECT_TRUE(same_bits(out, expected));
  }
  const std::vector<A> nan = {from_float<A>(NAN), from_float<A>(1.0F)};
  A out;
  swiglu(1, 1, nan.data(), &out);
  EXPECT_TRUE(std::isnan(to_float(out)));
}

TYPED_TEST(Elementwise, ArgmaxTakesTheLowestOfTheLargestAndSeesNan) {
  using A = typename TypeParam::Activation;
  Random random(9);
  for (int i = 0; i < 100; ++i) {
    auto logits = random.normals<A>(random.pick<int64_t>({0, 1, 16, 255, 256, 257, 1000, 5000}));
    for (A& logit : logits) {  // many ties
      if (i % 3 == 0) logit = from_float<A>(std::round(to_float(logit)));
    }
    if (i % 7 == 0 && !logits.empty())
      logits[random.integer(0, std::ssize(logits) - 1)] = from_float<A>(NAN);
    const Best actual = argmax<A>(logits, 77);
    const Best expected = reference::argmax<A>(logits, 77);
    EXPECT_EQ(actual.index, expected.index);
    EXPECT_EQ(std::bit_cast<uint32_t>(actual.value), std::bit_cast<uint32_t>(expected.value));
  }
}

}  // namespace
}  // namespace helix::cpu
