// The plainest decoder that can be written, for models of a few hundred numbers: every step begins
// again at the first token and keeps nothing. It shares no code with the judge but the generator
// and RoPE's frequencies.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <vector>

#include "model/weights.h"

namespace helix::brute {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

struct Decoder {
  const Generator& generator;
  int64_t request, history;
  const Model& m = generator.model();
  const Attention& a = m.attention;

  // A whole tensor as rows of its last axis.
  Rows tensor(W weight, int64_t layer) const {
    const Extents e = extents_of(m, weight);
    const size_t size = e[0] * e[1] * e[2] * e[3];
    std::vector<float> all(size);
    generator.weights(weight, layer, Part{whole(e[0]), whole(e[1]), whole(e[2]), whole(e[3])},
                      all.data());
    int last = 3;
    while (last > 0 && e[last] == 1) --last;
    const size_t width = weight == W::o ? e[1] * e[2] : e[last];
    Rows rows;
    for (size_t i = 0; i < size; i += width)
      rows.emplace_back(all.begin() + i, all.begin() + i + width);
    return rows;
  }

  static double product(const Row& x, const Row& y) {
    double sum = 0;
    for (size_t i = x.size(); i-- > 0;) sum += x[i] * y[i];
    return sum;
  }
  static Row apply(const Rows& rows, const Row& x, size_t first, size_t count) {
    Row y;
    for (size_t i = first; i < first + count; ++i) y.push_back(product(rows[i], x));
    return y;
  }
  Row apply(W weight, int64_t layer, const Row& x) const {
    const Rows rows = tensor(weight, layer);
    return apply(rows, x, 0, rows.size());
  }
  static Row part(const Row& x, size_t first, size_t count) {
    return {x.begin() + first, x.begin() + first + count};
  }
  static Row joined(Row x, const Row& y) {
    x.insert(x.end(), y.begin(), y.end());
    return x;
  }

  Row norm(const Row& x, W weight, int64_t layer) const {
    const Row gain = tensor(weight, layer)[0];
    const double length = std::sqrt(product(x, x) / double(x.size()) + m.norm_eps);
    Row y;
    for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] / length * gain[i]);
    return y;
  }

  Row turned(const Row& x, int64_t position) const {
    const Row frequencies = rope_frequencies(m);
    Row y = x;
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const size_t re = m.rope.interleaved ? 2 * i : i;
      const size_t im = m.rope.interleaved ? 2 * i + 1 : i + x.size() / 2;
      const auto z =
          std::complex(x[re], x[im]) * std::polar(1.0, double(position) * frequencies[i]);
      y[re] = z.real(), y[im] = z.imag();
    }
    return y;
  }

  Row stored(Row x) const {
    for (double& value : x)
      value = generator.precision().kv == Format::bf16
                  ? to_float(to_bf16(static_cast<float>(value)))
                  : static_cast<float>(value);
    return x;
  }

  // What the cache holds of a token: for each KV head its key, then its value (MLA: one row, latent
  // and key).
  Rows cached(int64_t layer, const Row& x, int64_t position) const {
    if (a.mla()) {
      const Row both = apply(W::dkv, layer, x);
      return {stored(joined(norm(part(both, 0, a.kv_lora), W::kv_latent_norm, layer),
                            turned(part(both, a.kv_lora, a.rope), position)))};
    }
    const Row both = apply(W::kv, layer, x);
    Rows heads;
    for (int64_t head = 0; head < a.kv_heads; ++head) {
      const Row key = part(both, head * a.head_size, a.head_size);
      const Row value = part(both, (a.kv_heads + head) * a.head_size, a.head_size);
      heads.push_back(
          stored(joined(turned(a.qk_norm ? norm(key, W::k_norm, layer) : key, position), value)));
    }
    return heads;
  }

  Rows past(int64_t layer, int64_t position) const {
    Rows heads;
    for (int64_t head = 0; head < a.kv_heads; ++head) {
      std::vector<float> key(a.head_size), value(a.mla() ? 0 : a.value_size);
      generator.history(layer, request, history, head, {.first = position, .count = 1}, key.data(),
                        a.mla() ? nullptr : value.data());
      heads.push_back(joined({key.begin(), key.end()}, {value.begin(), value.end()}));
    }
    return heads;
  }

  // Key and value that query head `head` sees of a cached token.
  void seen(int64_t layer, int64_t head, const Rows& token, Row& key, Row& value) const {
    if (!a.mla()) {
      const Row& both = token[head / (a.query_heads / a.kv_heads)];
      key = part(both, 0, a.head_size), value = part(both, a.head_size, a.head_size);
      return;
    }
    const Row latent = part(token[0], 0, a.kv_lora);
    const Rows uk = tensor(W::uk, layer);
    key.assign(a.nope, 0);
    for (int64_t c = 0; c < a.kv_lora; ++c)
      for (int64_t n = 0; n < a.nope; ++n) key[n] += uk[head * a.kv_lora + c][n] * latent[c];
    key = joined(key, part(token[0], a.kv_lora, a.rope));
    value = apply(tensor(W::uv, layer), latent, head * a.v, a.v);
  }

  Row query(int64_t layer, int64_t head, const Row& x, int64_t position) const {
    const Row latent = a.q_lora > 0 ? norm(apply(W::dq, layer, x), W::q_latent_norm, layer) : x;
    const Row all = apply(tensor(W::q, layer), latent, head * a.query_size(), a.query_size());
    if (a.mla()) return joined(part(all, 0, a.nope), turned(part(all, a.nope, a.rope), position));
    return turned(a.qk_norm ? norm(all, W::q_norm, layer) : all, position);
  }

  Row attention(int64_t layer, const std::vector<Rows>& tokens, const Row& x) const {
    Row out;
    for (int64_t head = 0; head < a.query_heads; ++head) {
      const Row q = query(layer, head, x, static_cast<int64_t>(tokens.size()) - 1);
      Row sum(a.output_size());
      double all = 0;
      for (const Rows& token : tokens) {
        Row key, value;
        seen(layer, head, token, key, value);
        const double weight = std::exp(softmax_scale(m) * product(q, key));
        all += weight;
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += weight * value[i];
      }
      for (double& number : sum) number /= all;
      out = joined(out, sum);
    }
    return apply(W::o, layer, out);
  }

  static Row swiglu(const Row& both) {
    Row y;
    for (size_t i = 0; i < both.size() / 2; ++i)
      y.push_back(both[i] * both[i + both.size() / 2] / (1 + std::exp(-both[i])));
    return y;
  }

  // Chosen by counting who is better, group by group, then expert by expert.
  Row gates(const Row& logits, const Row& bias) const {
    const Experts& e = m.experts;
    Row score, compared, groups;
    double all = 0, sum = 0;
    for (const double logit : logits) all += std::exp(logit);
    for (size_t i = 0; i < logits.size(); ++i) {
      score.push_back(e.scoring == Scoring::softmax ? std::exp(logits[i]) / all
                                                    : 1 / (1 + std::exp(-logits[i])));
      compared.push_back(score[i] + (e.bias ? bias[i] : 0));
    }
    const size_t size = e.count / e.groups;
    for (int64_t g = 0; g < e.groups; ++g) {
      Row mine = part(compared, g * size, size);
      std::sort(mine.rbegin(), mine.rend());
      groups.push_back(mine[0] + (e.groups > 1 ? mine[1] : 0));
    }
    const auto better = [](const Row& x, size_t i) {
      return std::count_if(x.begin(), x.end(), [&](double other) { return other > x[i]; });
    };
    for (size_t i = 0; i < compared.size(); ++i)
      if (better(groups, i / size) >= e.chosen_groups) compared[i] = -1e9;
    Row gate(logits.size());
    for (size_t i = 0; i < gate.size(); ++i)
      if (better(compared, i) < e.chosen) sum += gate[i] = score[i];
    for (double& number : gate) number *= e.scale / (e.renormalise ? sum : 1);
    return gate;
  }

  Row ffn(int64_t layer, const Row& x) const {
    if (layer < m.dense_layers) return apply(W::down, layer, swiglu(apply(W::up, layer, x)));
    const Experts& e = m.experts;
    const Row gate =
        gates(apply(W::router, layer, x), e.bias ? tensor(W::router_bias, layer)[0] : Row());
    Row sum = e.shared > 0 ? apply(W::shared_down, layer, swiglu(apply(W::shared_up, layer, x)))
                           : Row(x.size());
    for (int64_t i = 0; i < e.count; ++i) {
      const Row middle =
          swiglu(apply(tensor(W::experts_up, layer), x, i * 2 * e.width, 2 * e.width));
      const Row one = apply(tensor(W::experts_down, layer), middle, i * m.hidden, m.hidden);
      for (size_t h = 0; h < sum.size(); ++h) sum[h] += gate[i] * one[h];
    }
    return sum;
  }

  // Logits after `fed`, tokens at positions history, history + 1, …
  Row logits(const std::vector<int32_t>& fed) const {
    Rows x;
    for (const int32_t token : fed) x.push_back(tensor(W::embed, 0)[token]);
    for (int64_t layer = 0; layer < m.layers; ++layer) {
      std::vector<Rows> tokens;
      for (int64_t p = 0; p < history; ++p) tokens.push_back(past(layer, p));
      for (Row& one : x) {
        const Row input = norm(one, W::attention_norm, layer);
        tokens.push_back(cached(layer, input, static_cast<int64_t>(tokens.size())));
        const Row attended = attention(layer, tokens, input);
        for (size_t h = 0; h < one.size(); ++h) one[h] += attended[h];
        const Row added = ffn(layer, norm(one, W::ffn_norm, layer));
        for (size_t h = 0; h < one.size(); ++h) one[h] += added[h];
      }
    }
    return apply(m.tied ? W::embed : W::lm_head, 0, norm(x.back(), W::attention_norm, m.layers));
  }
};

}  // namespace helix::brute
