// The GPU kernels against their plain twins on the CPU: peaky data, ragged and empty shards, NaN,
// and what must not pass. Prints one line a check; exit code 1 if any failed. --quick: small shapes
// alone (for compute-sanitizer).
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "base/random.h"
#include "kernels/cpu/reference.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/generate.h"
#include "kernels/cuda/product.h"
#include "tests/cuda/testing.h"

namespace helix::cuda {
namespace {

// bf16: the result is rounded (2^-8), weights before their sum (2^-9, mostly averaging out). fp32:
// activations are held in 16 bits of mantissa.
template <class T>
constexpr double tolerance_of = std::is_same_v<T, bf16> ? 3.0 / 256 : 5e-5;
template <class T>
constexpr double lse_tolerance = std::is_same_v<T, bf16> ? 2e-6 : 2e-6;
template <class T>
constexpr const char* name_of = std::is_same_v<T, bf16> ? "bf16" : "fp32";

OwnedStream stream;
int sms = 0;
Launch how(bool dependent = true) { return {stream.get(), sms, dependent}; }

struct Messages {
  PartialLayout part;
  std::vector<std::byte> bytes;
  template <class T>
  std::vector<T> values() const {
    std::vector<T> all;
    for (size_t at = 0; at < bytes.size(); at += part.bytes()) {
      const T* from = reinterpret_cast<const T*>(&bytes[at]);
      all.insert(all.end(), from, from + part.rows * part.heads * part.value_size);
    }
    return all;
  }
  std::vector<float> lses() const {
    std::vector<float> all;
    for (size_t at = 0; at < bytes.size(); at += part.bytes()) {
      const float* from = reinterpret_cast<const float*>(&bytes[at + part.outputs_bytes()]);
      all.insert(all.end(), from, from + part.rows * part.heads);
    }
    return all;
  }
};

// A batch of attention: each pair's keys, then its values, then a gap of NaN that nobody may read.
template <class Activation>
struct Attention {
  static constexpr int gap = 24;
  AttentionShape shape;
  std::vector<int32_t> tokens;
  std::vector<int64_t> keys, values;
  std::vector<bf16> kv;
  std::vector<Activation> q;

  Attention(AttentionShape of, std::vector<int32_t> of_tokens)
      : shape(of), tokens(std::move(of_tokens)) {
    shape.rows = static_cast<int>(tokens.size());
    shape.scale = 1 / std::sqrt(static_cast<float>(shape.head_size));
    q = normals<Activation>(int64_t{shape.rows} * shape.heads * shape.head_size);
    for (int pair = 0; pair < shape.pairs(); ++pair) {
      const int count = tokens[pair / shape.kv_heads];
      for (std::vector<int64_t>* at : {&keys, &values}) {
        at->push_back(std::ssize(kv));
        const auto drawn = normals<bf16>(int64_t{count} * shape.head_size);
        kv.insert(kv.end(), drawn.begin(), drawn.end());
        kv.insert(kv.end(), gap * shape.head_size, to_bf16(nan));
      }
      for (int peak = 0; count > 0 && peak < 3; ++peak) {
        point(pair, peak == 0 ? count - 1 : integer(0, count - 1), integer(0, shape.group() - 1));
      }
    }
  }
  // The key becomes one query, scaled to a logit of 12.
  void point(int pair, int token, int head) {
    const Activation* query = &q[(int64_t{pair} * shape.group() + head) * shape.head_size];
    float square = 0;
    for (int d = 0; d < shape.head_size; ++d) square += to_float(query[d]) * to_float(query[d]);
    for (int d = 0; d < shape.head_size; ++d) {
      kv[keys[pair] + int64_t{token} * shape.head_size + d] =
          to_bf16(12 / (shape.scale * square) * to_float(query[d]));
    }
  }
  PartialLayout part(int parts) const {
    return {.rows = shape.rows,
            .heads = shape.heads / parts,
            .value_size = shape.head_size,
            .element_bytes = sizeof(Activation)};
  }
  Messages twin(int parts) const {
    Messages out{part(parts), {}};
    out.bytes.resize(parts * out.part.bytes());
    std::vector<cpu::KvView<bf16>> views;
    for (int pair = 0; pair < shape.pairs(); ++pair) {
      views.push_back({.k = &kv[keys[pair]],
                       .v = &kv[values[pair]],
                       .k_stride = shape.head_size,
                       .v_stride = shape.head_size,
                       .tokens = tokens[pair / shape.kv_heads]});
    }
    cpu::reference::decode_attention<Activation, bf16>({.rows = shape.rows,
                                                        .heads = shape.heads,
                                                        .kv_heads = shape.kv_heads,
                                                        .head_size = shape.head_size,
                                                        .value_size = shape.head_size,
                                                        .scale = shape.scale},
                                                       q.data(), views, out.part, out.bytes.data());
    return out;
  }
  // `times` runs in one graph, dependent on each other; the last one's result.
  Messages run(int parts, int times = 1, int blocks = sms) const {
    Messages out{part(parts), std::vector<std::byte>(parts * part(parts).bytes(), std::byte{0xff})};
    const Buffer<std::byte> memory(AttentionPlan::bytes(shape, blocks));
    HELIX_CUDA(cudaMemset(memory.data(), 0xff, memory.bytes()));
    const Buffer<bf16> kv_device{std::span<const bf16>(kv)};
    const Buffer<int64_t> k{std::span<const int64_t>(keys)}, v{std::span<const int64_t>(values)};
    const Buffer<int32_t> t{std::span<const int32_t>(tokens)};
    const Buffer<Activation> queries{std::span<const Activation>(q)};
    const Buffer<std::byte> result{std::span<const std::byte>(out.bytes)};
    const AttentionPlan plan(shape, blocks, memory.data());
    const KvView view{kv_device.data(), k.data(), v.data(), t.data()};
    const auto body = [&] {
      cut_attention(plan, t.data(), how());
      for (int i = 0; i < times; ++i) {
        decode_attention(plan, queries.data(), view, out.part, result.data(), how(times > 1));
      }
    };
    if (times == 1) {
      body();
    } else {
      HELIX_CUDA(cudaGraphLaunch(capture(stream.get(), body).get(), stream.get()));
    }
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    out.bytes = result.read();
    return out;
  }
};

template <class T>
double lse_error(const std::vector<T>& a, const std::vector<T>& b) {
  double worst = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    if (std::isinf(b[i]) || std::isnan(b[i])) {
      if (!(a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i])))) return infinity;
    } else {
      worst = !(std::abs(a[i] - b[i]) <= worst) ? std::abs(a[i] - b[i]) : worst;
    }
  }
  return std::isnan(worst) ? infinity : worst;
}
template <class Activation>
void expect_like(const Messages& a, const Messages& b, const std::string& what) {
  expect_close(a.values<Activation>(), b.values<Activation>(), tolerance_of<Activation>, what);
  const double error = lse_error(a.lses(), b.lses());
  char text[64];
  std::snprintf(text, sizeof text, ", log-sum-exp: error %.2g", error);
  expect(error <= 16 * lse_tolerance<Activation>, what + text);
}

template <class Activation>
void attention_cases(bool quick) {
  struct Case {
    int heads, kv_heads, head_size, parts;
    std::vector<int32_t> tokens;
  };
  std::vector<Case> cases = {
      {16, 1, 128, 4, {1, 15, 16, 17, 0, 300}},
      {2, 2, 64, 1, {0, 0, 5}},
      {8, 2, 64, 8, {33, 31, 0, 129}},
      {3, 1, 128, 3, {2000}},
      {32, 8, 128, 2, {40, 1000, 0, 7, 512, 64}},
      {12, 2, 64, 2, {1000, 1}},
      {4, 4, 128, 4, {0}},
  };
  if (!quick) {
    cases.push_back({16, 1, 128, 16, {16384}});
    cases.push_back({16, 1, 128, 1, {9000, 0, 1, 20000, 333}});
    cases.push_back({64, 8, 128, 8, {4000, 3000, 17, 0, 2500}});
    cases.push_back({8, 1, 64, 8, {30000}});
  }
  for (const Case& c : cases) {
    const Attention<Activation> input(
        {.heads = c.heads, .kv_heads = c.kv_heads, .head_size = c.head_size}, c.tokens);
    std::string what = std::string("attention ") + name_of<Activation> + " " +
                       std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) + " D " +
                       std::to_string(c.head_size) + " tokens";
    for (int t : c.tokens) what += " " + std::to_string(t);
    const Messages once = input.run(c.parts);
    expect_like<Activation>(once, input.twin(c.parts), what);
    expect(same_bits(once.bytes, input.run(c.parts, 5).bytes),
           what + ": the same bits as a dependent graph node");
    if (quick) continue;
    expect_like<Activation>(input.run(c.parts, 1, 7), input.twin(c.parts), what + ", 7 blocks");
  }
}

template <class Activation>
void attention_controls() {
  const std::string type = std::string("attention ") + name_of<Activation>;
  Attention<Activation> input({.heads = 16, .kv_heads = 2, .head_size = 128}, {700, 90, 16});
  const Messages expected = input.twin(1);
  const auto error = [&](const Messages& a) {
    return relative_error(a.values<Activation>(), expected.template values<Activation>());
  };
  Attention<Activation> shorter = input;  // the newest token of one request is lost
  --shorter.tokens[1];
  expect(error(shorter.run(1)) > 10 * tolerance_of<Activation>, type + ": a lost token is seen");

  // Two shards of every request, merged, once with base-2 log-sum-exps.
  Attention<Activation> low = input, high = input;
  for (size_t row = 0; row < input.tokens.size(); ++row) {
    low.tokens[row] /= 3;
    high.tokens[row] -= low.tokens[row];
  }
  for (int pair = 0; pair < input.shape.pairs(); ++pair) {
    const int64_t skip = int64_t{low.tokens[pair / 2]} * 128;
    high.keys[pair] += skip;
    high.values[pair] += skip;
  }
  Messages merged = low.run(1);
  const Messages upper = high.run(1);
  merged.bytes.insert(merged.bytes.end(), upper.bytes.begin(), upper.bytes.end());
  const auto merge = [&](const Messages& of) {
    const Buffer<std::byte> messages{std::span<const std::byte>(of.bytes)};
    const Buffer<Activation> out(of.part.outputs_bytes() / of.part.element_bytes);
    merge_partials(of.part, 2, messages.data(), out.data(), how());
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    return out.read();
  };
  const auto whole = expected.template values<Activation>();
  expect_close(merge(merged), whole, 2 * tolerance_of<Activation>, type + ": two shards merged");
  for (int shard = 0; shard < 2; ++shard) {
    float* lse = reinterpret_cast<float*>(&merged.bytes[shard * merged.part.bytes()] +
                                          merged.part.outputs_bytes());
    for (int i = 0; i < merged.part.rows * merged.part.heads; ++i) lse[i] *= 1.44269504F;
  }
  expect(relative_error(merge(merged), whole) > 2 * tolerance_of<Activation>,
         type + ": base-2 log-sum-exps are seen");

  Attention<Activation> broken = input;
  broken.kv[broken.keys[1] + 650 * 128 + 3] = to_bf16(nan);   // row 0, KV head 1
  broken.kv[broken.values[2] + 20 * 128 + 5] = to_bf16(nan);  // row 1, KV head 0, one number
  if (std::is_same_v<Activation, bf16>) {  // a split fp32 query turns -inf into NaN: seen as well
    broken.kv[broken.keys[4] + 2 * 128] = to_bf16(infinity);  // row 2
  }
  const Messages seen = broken.run(1);
  expect_like<Activation>(seen, broken.twin(1), type + ": NaN and infinity come through");
}

template <class Activation>
void merge_cases() {
  for (const auto& [parts, size] : {std::pair{1, 64}, {2, 128}, {7, 128}, {64, 128}, {8, 512}}) {
    const PartialLayout part{
        .rows = 3, .heads = 4, .value_size = size, .element_bytes = sizeof(Activation)};
    std::vector<std::byte> messages(parts * part.bytes());
    for (int p = 0; p < parts; ++p) {
      auto values = normals<Activation>(12 * size);
      for (int i = 0; i < 12; ++i) {
        // Vector 3 is empty everywhere; an empty part holds NaN, which may not be read.
        const bool empty = i == 3 || integer(0, 3) == 0;
        const float lse = empty ? -infinity : i == 5 && p == 0 ? nan : 8 * normals<float>(1)[0];
        for (int d = 0; empty && d < size; ++d) values[i * size + d] = from_float<Activation>(nan);
        std::memcpy(&messages[p * part.bytes() + part.lse_offset(i / 4, i % 4)], &lse, 4);
      }
      std::memcpy(static_cast<void*>(&messages[p * part.bytes()]), values.data(),
                  part.outputs_bytes());
    }
    std::vector<Activation> expected(12 * size);
    cpu::reference::merge_partials<Activation>(part, parts, messages.data(), expected.data());
    const Buffer<std::byte> device{std::span<const std::byte>(messages)};
    const Buffer<Activation> out(12 * size);
    merge_partials(part, parts, device.data(), out.data(), how());
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    expect_close(out.read(), expected, std::is_same_v<Activation, bf16> ? 1.0 / 128 : 2e-6,
                 std::string("merge ") + name_of<Activation> + " of " + std::to_string(parts));
  }
}

template <class Activation>
void product_cases(bool quick) {
  struct Case {
    int rows, outputs, inputs;
  };
  std::vector<Case> cases = {{1, 1, 8},      {3, 200, 136},  {8, 1000, 512},
                             {2, 131, 1032}, {5, 3000, 264}, {1, 17, 4096}};
  if (!quick) {
    cases.push_back({1, 2048, 7168});
    cases.push_back({8, 6656, 4096});
    cases.push_back({4, 20000, 1024});
  }
  for (const Case& c : cases) {
    const int64_t x_stride = c.inputs + 16;
    const int64_t y_stride = c.outputs + 3;
    const auto x = normals<Activation>(c.rows * x_stride);
    const auto w = normals<bf16>(int64_t{c.outputs} * c.inputs);
    std::vector<Activation> expected(c.rows * y_stride, from_float<Activation>(-1));
    cpu::reference::product<bf16, Activation>({.rows = c.rows,
                                               .outputs = c.outputs,
                                               .inputs = c.inputs,
                                               .x_stride = x_stride,
                                               .y_stride = y_stride},
                                              x.data(), w.data(), expected.data());
    const Buffer<Activation> xs{std::span<const Activation>(x)};
    const Buffer<bf16> ws{std::span<const bf16>(w)};
    const auto run = [&](int rows) {
      const std::vector<Activation> before(rows * y_stride, from_float<Activation>(-1));
      const Buffer<Activation> ys{std::span<const Activation>(before)};
      product({rows, c.outputs, c.inputs, x_stride, y_stride}, xs.data(), ws.data(), ys.data(),
              how());
      HELIX_CUDA(cudaStreamSynchronize(stream.get()));
      return ys.read();
    };
    const std::string what = std::string("product ") + name_of<Activation> + " " +
                             std::to_string(c.rows) + " x " + std::to_string(c.outputs) + " x " +
                             std::to_string(c.inputs);
    const auto all = run(c.rows);
    expect_close(all, expected, std::is_same_v<Activation, bf16> ? 1.0 / 128 : 5e-5, what);
    expect(same_bits(run(1), {all.begin(), all.begin() + y_stride}),
           what + ": row 0 alone has the same bits");
  }
}

template <class Weight, class Activation>
void norm_cases() {
  for (const auto& [rows, width] : {std::pair{1, 8}, {3, 2048}, {2, 16384}, {1, 7168}}) {
    auto hidden = normals<Activation>(rows * width);
    const auto y = normals<Activation>(rows * width);
    const auto w = normals<Weight>(width);
    const Buffer<Activation> hs{std::span<const Activation>(hidden)};
    const Buffer<Activation> ys{std::span<const Activation>(y)}, out(rows * width);
    const Buffer<Weight> ws{std::span<const Weight>(w)};
    add_rms_norm(rows, width, hs.data(), ys.data(), ws.data(), 1e-5F, out.data(), how());
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    std::vector<Activation> expected(rows * width);
    cpu::reference::add_rms_norm<Weight, Activation>(rows, width, hidden.data(), y.data(), w.data(),
                                                     1e-5F, expected.data());
    const std::string what = std::string("add norm ") + name_of<Activation> + " " +
                             std::to_string(rows) + " x " + std::to_string(width);
    expect_close(out.read(), expected, std::is_same_v<Activation, bf16> ? 1.0 / 128 : 2e-6, what);
    expect(same_bits(hs.read(), hidden), what + ": the same hidden state");
  }
}

template <class Activation>
void small_cases() {
  const double tolerance = std::is_same_v<Activation, bf16> ? 1.0 / 128 : 2e-6;
  for (const bool interleaved : {false, true}) {
    const cpu::RopeShape shape{
        .rows = 3, .heads = 5, .size = 192, .pairs = 32, .interleaved = interleaved};
    const auto x = normals<Activation>(3 * 5 * 192);
    std::vector<float> cosines, sines;
    for (float angle : normals<float>(3 * 32)) {
      cosines.push_back(std::cos(angle));
      sines.push_back(std::sin(angle));
    }
    std::vector<Activation> expected(x.size());
    cpu::reference::rope<Activation>(shape, cosines.data(), sines.data(), x.data(),
                                     expected.data());
    const Buffer<Activation> xs{std::span<const Activation>(x)}, out(std::ssize(x));
    const Buffer<float> c{std::span<const float>(cosines)}, s{std::span<const float>(sines)};
    rope({3, 5, 192, 32, interleaved}, c.data(), s.data(), xs.data(), out.data(), how());
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    expect_close(out.read(), expected, tolerance, std::string("rope ") + name_of<Activation>);
  }
  const auto x = normals<Activation>(2 * 2 * 1032);
  std::vector<Activation> expected(2 * 1032);
  cpu::reference::swiglu<Activation>(2, 1032, x.data(), expected.data());
  const Buffer<Activation> xs{std::span<const Activation>(x)}, out(2 * 1032);
  swiglu(2, 1032, xs.data(), out.data(), how());
  HELIX_CUDA(cudaStreamSynchronize(stream.get()));
  expect_close(out.read(), expected, tolerance, std::string("swiglu ") + name_of<Activation>);
}

template <class T>
void generate_cases() {
  const Draw draw{.stream = combine(42, 7), .scale = 0.7310586F, .offset = 0.1F};
  for (const Drawn& which :
       {Drawn{.first = 1234567890123, .rows = 1, .width = 4097, .stride = 0},
        Drawn{.first = 77, .rows = 300, .width = 64, .stride = 64, .run = 16, .jump = 64},
        Drawn{.first = 5, .rows = 33, .width = 100, .stride = 1001}}) {
    std::vector<T> expected;
    for (int64_t row = 0; row < which.rows; ++row) {
      for (int64_t i = 0; i < which.width; ++i) {
        const int64_t index =
            which.first + i + (row / which.run * which.jump + row % which.run) * which.stride;
        expected.push_back(from_float<T>(std::fma(
            uniform_at(draw.stream, static_cast<uint64_t>(index)), draw.scale, draw.offset)));
      }
    }
    const Buffer<T> out(std::ssize(expected));
    generate(draw, which, out.data(), how());
    HELIX_CUDA(cudaStreamSynchronize(stream.get()));
    expect(same_bits(out.read(), expected), std::string("generate ") + name_of<T> +
                                                ": the CPU's bits, " +
                                                std::to_string(expected.size()) + " values");
  }
}

void all_cases(bool quick) {
  generate_cases<float>();
  generate_cases<bf16>();
  norm_cases<float, float>();
  norm_cases<bf16, bf16>();
  norm_cases<bf16, float>();
  small_cases<float>();
  small_cases<bf16>();
  merge_cases<float>();
  merge_cases<bf16>();
  product_cases<float>(quick);
  product_cases<bf16>(quick);
  attention_cases<float>(quick);
  attention_cases<bf16>(quick);
  attention_controls<float>();
  attention_controls<bf16>();
}

}  // namespace
}  // namespace helix::cuda

int main(int count, char** words) {
  using namespace helix::cuda;
  try {
    HELIX_CUDA(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0));
    stream = make_stream();
    all_cases(count > 1 && std::string(words[1]) == "--quick");
    stream = {};
  } catch (const std::exception& error) {
    std::printf("FAIL  %s\n", error.what());
    return 1;
  }
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
