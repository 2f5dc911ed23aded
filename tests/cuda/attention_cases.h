// The attention kernels against their plain twin: batches of ragged, empty and peaky shards, and
// what must not pass.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "kernels/cpu/reference.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/check.h"
#include "tests/cuda/testing.h"

namespace helix::cuda {

// bf16: the result is rounded (2^-8), weights before their sum (2^-9, mostly averaging out). fp32:
// logits are large, and their rounding is a relative error of the weights.
template <class T>
inline constexpr double tolerance_of = std::is_same_v<T, bf16> ? 3.0 / 256 : 5e-5;
inline constexpr double lse_tolerance = 3.2e-5;
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

// A batch of attention: keys and values of each pair (MLA: rows that hold both), rounded to what Kv
// can hold, and how they stand in device memory: one after another with gaps, or in pages of a
// random order. Gaps and what pages have beyond the last token are NaN that nobody may read.
template <class Activation, class Kv = bf16>
struct Attention {
  static constexpr int gap = 24;
  AttentionShape shape;
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> keys, values;  // [pair]; MLA: values are empty
  std::vector<Activation> q;

  Attention(AttentionShape of, std::vector<int32_t> of_tokens)
      : shape(of), tokens(std::move(of_tokens)) {
    shape.rows = static_cast<int>(tokens.size());
    if (shape.value_size == 0) shape.value_size = shape.head_size;
    shape.scale = 1 / std::sqrt(static_cast<float>(shape.head_size));
    q = normals<Activation>(int64_t{shape.rows} * shape.heads * shape.head_size);
    for (int pair = 0; pair < shape.pairs(); ++pair) {
      const int count = tokens[pair / shape.kv_heads];
      keys.push_back(normals<float>(int64_t{count} * shape.head_size));
      values.push_back(normals<float>(latent() ? 0 : int64_t{count} * shape.value_size));
      for (int peak = 0; count > 0 && peak < 3; ++peak) {
        point(pair, peak == 0 ? count - 1 : integer(0, count - 1), integer(0, shape.group() - 1));
      }
      round(pair);
    }
  }
  bool latent() const { return shape.value_size < shape.head_size; }
  // The key becomes one query, scaled to a logit of 12.
  void point(int pair, int token, int head) {
    const Activation* query = &q[(int64_t{pair} * shape.group() + head) * shape.head_size];
    float square = 0;
    for (int d = 0; d < shape.head_size; ++d) square += to_float(query[d]) * to_float(query[d]);
    for (int d = 0; d < shape.head_size; ++d) {
      keys[pair][int64_t{token} * shape.head_size + d] =
          12 / (shape.scale * square) * to_float(query[d]);
    }
  }
  static constexpr float scale_of(int head) {
    return !quantised(format_of<Kv>) ? 1
                                     : (format_of<Kv> == Format::fp8 ? 0.05F : 0.004F) * (head + 1);
  }
  void round(int pair) {
    const float scale = scale_of(pair % shape.kv_heads);
    for (std::vector<float>* some : {&keys[pair], &values[pair]}) {
      *some = decoded<Kv>(encoded<Kv>(*some, scale), std::ssize(*some), scale);
    }
  }
  // Tokens [first, first + count[row]) of each row alone.
  Attention part_of(const std::vector<int32_t>& first, const std::vector<int32_t>& count) const {
    Attention some = *this;
    some.tokens = count;
    for (int pair = 0; pair < shape.pairs(); ++pair) {
      const int row = pair / shape.kv_heads;
      const auto cut = [&](std::vector<float>& of, int size) {
        if (of.empty()) return;
        of.erase(of.begin(), of.begin() + int64_t{first[row]} * size);
        of.resize(int64_t{count[row]} * size);
      };
      cut(some.keys[pair], shape.head_size);
      cut(some.values[pair], shape.value_size);
    }
    return some;
  }
  PartialLayout part(int parts) const {
    return {.rows = shape.rows,
            .heads = shape.heads / parts,
            .value_size = shape.value_size,
            .element_bytes = sizeof(Activation)};
  }
  Messages twin(int parts) const {
    Messages out{part(parts), {}};
    out.bytes.resize(parts * out.part.bytes());
    std::vector<cpu::KvView<float>> views;
    for (int pair = 0; pair < shape.pairs(); ++pair) {
      views.push_back({.k = Values<const float>(keys[pair].data()),
                       .v = Values<const float>(latent() ? keys[pair].data() : values[pair].data()),
                       .k_stride = shape.head_size,
                       .v_stride = shape.value_stride(),
                       .tokens = tokens[pair / shape.kv_heads]});
    }
    cpu::reference::decode_attention<Activation, float>({.rows = shape.rows,
                                                         .heads = shape.heads,
                                                         .kv_heads = shape.kv_heads,
                                                         .head_size = shape.head_size,
                                                         .value_size = shape.value_size,
                                                         .scale = shape.scale},
                                                        q.data(), views, out.part,
                                                        out.bytes.data());
    return out;
  }

  struct Cache {
    std::vector<float> base;
    std::vector<int> head_of;  // each 16 values' KV head
    std::vector<int64_t> keys, values;
    std::vector<int32_t> pages;
    int64_t page_stride = 0;
    int max_pages = 0;
  };
  Cache dense() const {
    Cache cache;
    for (int pair = 0; pair < shape.pairs(); ++pair) {
      const auto add = [&](const std::vector<float>& some, int size) {
        const int64_t at = std::ssize(cache.base);
        cache.base.insert(cache.base.end(), some.begin(), some.end());
        cache.base.insert(cache.base.end(), gap * size, nan);
        cache.head_of.resize(cache.base.size() / 16, pair % shape.kv_heads);
        return at;
      };
      cache.keys.push_back(add(keys[pair], shape.head_size));
      cache.values.push_back(latent() ? cache.keys.back() : add(values[pair], shape.value_size));
    }
    return cache;
  }
  // A page: for each KV head its keys, then its values.
  Cache paged() const {
    Cache cache;
    const int64_t head_values =
        page_tokens * (shape.head_size + (latent() ? 0 : int64_t{shape.value_size}));
    cache.page_stride = shape.kv_heads * head_values;
    for (int count : tokens) {
      cache.max_pages = std::max(cache.max_pages, (count + page_tokens - 1) / page_tokens);
    }
    std::vector<int32_t> free(shape.rows * cache.max_pages);
    for (size_t i = 0; i < free.size(); ++i) free[i] = static_cast<int32_t>(i);
    std::shuffle(free.begin(), free.end(), engine);
    cache.pages = free;
    cache.base.assign(std::max<int64_t>(1, std::ssize(free)) * cache.page_stride, nan);
    for (int64_t i = 0; i < std::ssize(cache.base); i += 16) {
      cache.head_of.push_back(static_cast<int>(i % cache.page_stride / head_values));
    }
    for (int pair = 0; pair < shape.pairs(); ++pair) {
      const int row = pair / shape.kv_heads;
      cache.keys.push_back(pair % shape.kv_heads * head_values);
      cache.values.push_back(cache.keys.back() +
                             (latent() ? 0 : int64_t{page_tokens} * shape.head_size));
      for (int token = 0; token < tokens[row]; ++token) {
        const int64_t page =
            cache.pages[row * cache.max_pages + token / page_tokens] * cache.page_stride;
        const auto put = [&](const std::vector<float>& some, int64_t first, int size) {
          if (some.empty()) return;
          std::copy_n(some.begin() + int64_t{token} * size, size,
                      cache.base.begin() + page + first + token % page_tokens * int64_t{size});
        };
        put(keys[pair], cache.keys.back(), shape.head_size);
        put(values[pair], cache.values.back(), shape.value_size);
      }
    }
    return cache;
  }

  // `times` runs in one graph, dependent on each other; the last one's result.
  Messages run(int parts, int times = 1, int blocks = sms) const {
    return run(dense(), parts, times, blocks);
  }
  Messages run(const Cache& cache, int parts, int times, int blocks) const {
    Messages out{part(parts), std::vector<std::byte>(parts * part(parts).bytes(), std::byte{0xff})};
    const Buffer<std::byte> memory(AttentionPlan::bytes(shape, blocks));
    HELIX_CUDA(cudaMemset(memory.data(), 0xff, memory.bytes()));
    HELIX_CUDA(cudaStreamSynchronize(nullptr));
    // Codes of every head's scale, then block scales.
    std::vector<std::byte> codes(code_bytes<Kv>(std::ssize(cache.base)));
    const int64_t count = std::ssize(cache.base);
    for (int64_t i = 0; i < count; i += 16) {
      const auto to = values_at<Kv>(codes.data(), count, scale_of(cache.head_of[i / 16]));
      encode(&cache.base[i], 16, to.at(i));
    }
    std::vector<float> head_scales;
    for (int head = 0; head < shape.kv_heads; ++head) head_scales.push_back(scale_of(head));
    const Buffer<std::byte> base{std::span<const std::byte>(codes)};
    const Buffer<float> scales{std::span<const float>(head_scales)};
    const Buffer<int64_t> k{std::span<const int64_t>(cache.keys)},
        v{std::span<const int64_t>(cache.values)};
    const Buffer<int32_t> t{std::span<const int32_t>(tokens)},
        pages{std::span<const int32_t>(cache.pages)};
    const Buffer<Activation> queries{std::span<const Activation>(q)};
    const Buffer<std::byte> result{std::span<const std::byte>(out.bytes)};
    const AttentionPlan plan(shape, blocks, memory.data());
    const KvView view{.base = base.data(),
                      .format = format_of<Kv>,
                      .keys = k.data(),
                      .values = v.data(),
                      .tokens = t.data(),
                      .pages = pages.data(),
                      .page_stride = cache.page_stride,
                      .max_pages = cache.max_pages,
                      .scales = quantised(format_of<Kv>) ? scales.data() : nullptr,
                      .block_scales = reinterpret_cast<fp8*>(base.data() + count / 2)};
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
  expect(error <= lse_tolerance, what + text);
}

template <class Activation, class Kv = bf16>
void attention_cases(bool quick) {
  struct Case {
    int heads, kv_heads, head_size, parts;
    std::vector<int32_t> tokens;
    int value_size = 0;
  };
  std::vector<Case> cases = {
      {16, 1, 128, 4, {1, 15, 16, 17, 0, 300}},
      {2, 2, 64, 1, {0, 0, 5}},
      {8, 2, 64, 8, {33, 31, 0, 129}},
      {3, 1, 128, 3, {2000}},
      {32, 8, 128, 2, {40, 1000, 0, 7, 512, 64}},
      {12, 2, 64, 2, {1000, 1}},
      {4, 4, 128, 4, {0}},
      {16, 4, 16, 4, {0, 1, 70, 300}},
      {16, 1, 80, 2, {0, 1, 70, 300}, 64},
      {16, 1, 576, 4, {1, 63, 64, 65, 0, 300}, 512},
      {128, 1, 576, 8, {3, 0, 150}, 512},
      {80, 1, 576, 5, {200}, 512},
  };
  if (!quick) {
    cases.push_back({16, 1, 128, 16, {16384}});
    cases.push_back({16, 1, 128, 1, {9000, 0, 1, 20000, 333}});
    cases.push_back({64, 8, 128, 8, {4000, 3000, 17, 0, 2500}});
    cases.push_back({8, 1, 64, 8, {30000}});
    cases.push_back({40, 1, 64, 8, {1000}});
    cases.push_back({128, 1, 576, 64, {1500, 0, 17, 900}, 512});
    cases.push_back({16, 1, 576, 16, {9000, 31, 0, 4000}, 512});
  }
  for (const Case& c : cases) {
    const Attention<Activation, Kv> input({.heads = c.heads,
                                           .kv_heads = c.kv_heads,
                                           .head_size = c.head_size,
                                           .value_size = c.value_size},
                                          c.tokens);
    std::string what = std::string("attention ") + name_of<Activation> + " over " + name_of<Kv> +
                       " " + std::to_string(c.heads) + "/" + std::to_string(c.kv_heads) + " D " +
                       std::to_string(c.head_size) + " tokens";
    for (int t : c.tokens) what += " " + std::to_string(t);
    const Messages once = input.run(c.parts);
    const Messages twin = input.twin(c.parts);
    expect_like<Activation>(once, twin, what);
    expect(same_bits(once.bytes, input.run(c.parts, 5).bytes),
           what + ": the same bits as a dependent graph node");
    expect(same_bits(once.bytes, input.run(input.paged(), c.parts, 1, sms).bytes),
           what + ": the same bits from pages");
    // A block has several tiles, and rows.
    const int few = quick ? 2 : 7;
    if (!quick || input.latent()) {
      expect_like<Activation>(input.run(c.parts, 1, few), twin,
                              what + ", " + std::to_string(few) + " blocks");
    }
  }
}

// One number of a key, one of a value, and an infinity come through where they must, and nowhere
// else. (fp8 has no infinity; a split fp32 query turns -inf into NaN: seen as well.)
template <class Activation, class Kv = bf16>
void attention_nans() {
  Attention<Activation, Kv> broken({.heads = 16, .kv_heads = 2, .head_size = 128}, {700, 90, 16});
  broken.keys[1][650 * 128 + 3] = nan;   // row 0, KV head 1
  broken.values[2][20 * 128 + 5] = nan;  // row 1, KV head 0
  if (std::is_same_v<Activation, bf16> && std::is_same_v<Kv, bf16>) {
    broken.keys[4][2 * 128] = infinity;  // row 2
  }
  for (int pair = 0; pair < 6; ++pair) broken.round(pair);  // nvfp4 has it in whole blocks
  const std::string type = std::string("attention ") + name_of<Activation> + " over " + name_of<Kv>;
  expect_like<Activation>(broken.run(1), broken.twin(1), type + ": NaN and infinity come through");

  Attention<Activation, Kv> rows({.heads = 32, .kv_heads = 1, .head_size = 576, .value_size = 512},
                                 {500, 90});
  rows.keys[0][400 * 576 + 570] = nan;  // of the key alone
  rows.keys[1][80 * 576 + 5] = nan;
  for (int pair = 0; pair < 2; ++pair) rows.round(pair);
  expect_like<Activation>(rows.run(1), rows.twin(1), type + ", MLA: NaN comes through");
}

template <class Activation>
void attention_controls() {
  const std::string type = std::string("attention ") + name_of<Activation>;
  Attention<Activation> input({.heads = 16, .kv_heads = 2, .head_size = 128}, {700, 90, 16});
  const Messages expected = input.twin(1);
  const auto error = [&](const Messages& a) {
    return relative_error(a.values<Activation>(), expected.template values<Activation>());
  };
  // The newest token of one request is lost.
  expect(error(input.part_of({0, 0, 0}, {700, 89, 16}).run(1)) > 10 * tolerance_of<Activation>,
         type + ": a lost token is seen");

  // Two shards of every request, merged, once with base-2 log-sum-exps.
  const auto low = input.part_of({0, 0, 0}, {233, 30, 5});
  const auto high = input.part_of({233, 30, 5}, {467, 60, 11});
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

  const Attention<Activation> rows(
      {.heads = 32, .kv_heads = 1, .head_size = 576, .value_size = 512}, {500, 90});
  expect(relative_error(rows.part_of({0, 0}, {500, 89}).run(1).template values<Activation>(),
                        rows.twin(1).template values<Activation>()) > 10 * tolerance_of<Activation>,
         type + " MLA: a lost token is seen");
}

}  // namespace helix::cuda
