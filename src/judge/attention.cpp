#include "judge/attention.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace helix {

namespace {

std::span<double> head_of(Vector& all, int64_t head, int64_t size) {
  return {all.data() + head * size, static_cast<size_t>(size)};
}

void softmax(std::span<double> x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double& value : x) sum += value = std::exp(value - top);
  for (double& value : x) value /= sum;
}

void add_scaled(double* to, double scale, const float* from, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] += scale * static_cast<double>(from[i]);
}

// Query heads that share one KV head, over one layer's memory.
struct Group {
  const Tensors& tensors;
  const KvMemory& memory;
  int64_t layer, kv_head;
  int64_t first_head, heads;
  int64_t key_size, value_size;

  // Runs work(rows, chunk) over all blocks. A chunk is a run of blocks that one thread does in
  // order; chunks depend on the number of blocks alone, so that sums over them do not depend on the
  // threads.
  int64_t chunks() const { return std::min<int64_t>(64, memory.blocks(layer)); }
  template <class Work>
  void each_block(const Work& work) const {
#pragma omp parallel if (memory.positions(layer) * heads * key_size > parallel_products)
    {
      KvMemory::Scratch scratch;
#pragma omp for schedule(static)
      for (int64_t chunk = 0; chunk < chunks(); ++chunk) {
        const Slice blocks = share(memory.blocks(layer), chunks(), chunk);
        for (int64_t i = blocks.first; i < blocks.first + blocks.count; ++i) {
          work(memory.block(layer, kv_head, i, scratch), chunk);
          if (omp_get_thread_num() == 0) tensors.beat()();
        }
      }
    }
  }

  // [heads][positions] from queries [heads][key_size].
  Vector weights(const Vector& queries, const SeeWeights& see) const {
    const int64_t positions = memory.positions(layer);
    const double scale = softmax_scale(tensors.model());
    Vector weights(static_cast<size_t>(heads * positions));
    each_block([&](const KvMemory::Rows& rows, int64_t) {
      for (int64_t head = 0; head < heads; ++head)
        for (int64_t i = 0; i < rows.count; ++i)
          weights[head * positions + rows.first + i] =
              scale * dot(rows.keys + i * key_size, queries.data() + head * key_size, key_size);
    });
    finish(weights, see);
    return weights;
  }

  void finish(Vector& weights, const SeeWeights& see) const {
    const int64_t positions = memory.positions(layer);
#pragma omp parallel for schedule(static) if (heads * positions > parallel_products / 16)
    for (int64_t head = 0; head < heads; ++head) softmax(head_of(weights, head, positions));
    for (int64_t head = 0; see && head < heads; ++head)
      see(first_head + head, head_of(weights, head, positions));
  }

  // [heads][value_size]: values summed by weight.
  Vector output(const Vector& weights) const {
    const int64_t positions = memory.positions(layer), size = heads * value_size;
    Vector partial(static_cast<size_t>(chunks() * size));
    each_block([&](const KvMemory::Rows& rows, int64_t chunk) {
      for (int64_t head = 0; head < heads; ++head)
        for (int64_t i = 0; i < rows.count; ++i)
          add_scaled(partial.data() + chunk * size + head * value_size,
                     weights[head * positions + rows.first + i],
                     rows.values + i * rows.value_stride, value_size);
    });
    for (int64_t chunk = 1; chunk < chunks(); ++chunk)
      for (int64_t i = 0; i < size; ++i) partial[i] += partial[chunk * size + i];
    partial.resize(static_cast<size_t>(size));
    return partial;
  }
};

Vector attend_gqa(const Tensors& tensors, KvMemory& memory, int64_t layer, int64_t position,
                  const Vector& input, const SeeWeights& see) {
  const Model& model = tensors.model();
  const Attention& a = model.attention;
  const Vector frequencies = rope_frequencies(model);
  Vector queries = tensors.times(W::q, layer, input);
  Vector keys = tensors.times(W::kv, layer, 0, input);
  Vector values = tensors.times(W::kv, layer, 1, input);
  const auto finish = [&](Vector& heads, W norm, int64_t count) {
    const Vector weight = a.qk_norm ? tensors.values(norm, layer) : Vector();
    for (int64_t head = 0; head < count; ++head) {
      const std::span<double> one = head_of(heads, head, a.head_size);
      if (a.qk_norm) rms_norm(one, weight, model.norm_eps);
      rotate(one, frequencies, position, model.rope.interleaved);
    }
  };
  finish(queries, W::q_norm, a.query_heads);
  finish(keys, W::k_norm, a.kv_heads);
  const int64_t shared_by = a.query_heads / a.kv_heads;
  Vector output;
  for (int64_t kv = 0; kv < a.kv_heads; ++kv)
    memory.append(layer, kv, head_of(keys, kv, a.head_size), head_of(values, kv, a.value_size));
  for (int64_t kv = 0; kv < a.kv_heads; ++kv) {
    memory.fetch(layer, kv);
    const Group group = {tensors,        memory,    layer,       kv,
                         kv * shared_by, shared_by, a.head_size, a.value_size};
    const auto mine = head_of(queries, kv, shared_by * a.head_size);
    const Vector heads = group.output(group.weights({mine.begin(), mine.end()}, see));
    output.insert(output.end(), heads.begin(), heads.end());
  }
  return output;
}

// W_UK absorbed: a query over the latent is compared with the cache as it is, W_UV follows the sum.
Vector absorbed(const Group& group, Vector queries, const SeeWeights& see) {
  const Tensors& tensors = group.tensors;
  const Attention& a = tensors.model().attention;
  Vector over_cache;
  for (int64_t head = 0; head < a.query_heads; ++head) {
    const std::span<double> query = head_of(queries, head, a.query_size());
    const Vector latent =
        tensors.times(W::uk, group.layer, head, query.first(static_cast<size_t>(a.nope)));
    over_cache.insert(over_cache.end(), latent.begin(), latent.end());
    over_cache.insert(over_cache.end(), query.begin() + a.nope, query.end());
  }
  Vector latents = group.output(group.weights(over_cache, see));
  Vector output;
  for (int64_t head = 0; head < a.query_heads; ++head) {
    const Vector one = tensors.times(W::uv, group.layer, head, head_of(latents, head, a.kv_lora));
    output.insert(output.end(), one.begin(), one.end());
  }
  return output;
}

// Turns [rows][columns].
Vector turned(std::span<const double> matrix, int64_t columns) {
  const int64_t rows = std::ssize(matrix) / columns;
  Vector out(matrix.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) out[j * rows + i] = matrix[i * columns + j];
  return out;
}

// As the model is defined: every head has keys and values of its own, made from the latents. They
// are made once, and kept for the next token.
struct Expanded {
  const Group& group;
  const Attention& a;
  int64_t positions;

  int64_t products() const { return positions * a.query_heads * a.kv_lora * std::min(a.nope, a.v); }

  // Runs work(position, cached numbers) over positions from `first` on.
  template <class Work>
  void each_position(int64_t first, const Work& work) const {
    KvMemory::Scratch scratch;
    for (int64_t i = 0; i < group.memory.blocks(group.layer); ++i) {
      const KvMemory::Rows rows = group.memory.block(group.layer, 0, i, scratch);
      for (int64_t row = std::max<int64_t>(0, first - rows.first); row < rows.count; ++row)
        work(rows.first + row, rows.keys + row * a.head_size);
      if (omp_get_thread_num() == 0) group.tensors.beat()();
    }
  }

  // Adds to `made`, [..][size], what `matrix`, [kv_lora][size], makes of the latents after it.
  void extend(Vector& made, std::span<const double> matrix, int64_t size) const {
    const int64_t first = std::ssize(made) / size;
    made.resize(static_cast<size_t>(positions * size));
    each_position(first, [&](int64_t position, const float* latent) {
      double* const out = made.data() + position * size;
      for (int64_t c = 0; c < a.kv_lora; ++c) {
        const double* const row = matrix.data() + c * size;
        const double one = latent[c];
#pragma omp simd
        for (int64_t i = 0; i < size; ++i) out[i] += row[i] * one;
      }
    });
  }

  // Of a head's keys, which W_UK [kv_lora][nope] makes; what follows in a key is rotated, cached as
  // it is, and the same for all heads.
  void logits(std::span<const double> uk, const double* query, Vector& keys, double* out) const {
    extend(keys, uk, a.nope);
    const double scale = softmax_scale(group.tensors.model());
    each_position(0, [&](int64_t position, const float* cached) {
      double sum = dot(cached + a.kv_lora, query + a.nope, a.rope);
      for (int64_t i = 0; i < a.nope; ++i) sum += keys[position * a.nope + i] * query[i];
      out[position] = scale * sum;
    });
  }

  // The sum by weight of a head's values, which W_UV [v][kv_lora] makes.
  void sum(std::span<const double> uv, const double* weights, Vector& values, double* out) const {
    extend(values, turned(uv, a.kv_lora), a.v);
    for (int64_t position = 0; position < positions; ++position)
      for (int64_t i = 0; i < a.v; ++i) out[i] += weights[position] * values[position * a.v + i];
  }
};

Vector expanded(const Group& group, KvMemory& memory, Vector queries, const SeeWeights& see) {
  const Attention& a = group.tensors.model().attention;
  const int64_t layer = group.layer;
  const Expanded form = {group, a, memory.positions(layer)};
  Vector uk = group.tensors.values(W::uk, layer);
  Vector uv = group.tensors.values(W::uv, layer);
  Vector weights(static_cast<size_t>(a.query_heads * form.positions));
  Vector output(static_cast<size_t>(a.query_heads * a.v));
#pragma omp parallel for schedule(static) if (form.products() > parallel_products)
  for (int64_t head = 0; head < a.query_heads; ++head)
    form.logits(head_of(uk, head, a.kv_lora * a.nope),
                head_of(queries, head, a.query_size()).data(), memory.made(layer, head).keys,
                head_of(weights, head, form.positions).data());
  group.finish(weights, see);
#pragma omp parallel for schedule(static) if (form.products() > parallel_products)
  for (int64_t head = 0; head < a.query_heads; ++head)
    form.sum(head_of(uv, head, a.v * a.kv_lora), head_of(weights, head, form.positions).data(),
             memory.made(layer, head).values, head_of(output, head, a.v).data());
  return output;
}

// Up to here the expanded form costs less than about a tenth of a second a layer.
constexpr double dear = 1 << 26;

Vector attend_mla(const Tensors& tensors, KvMemory& memory, int64_t layer, int64_t position,
                  const Vector& input, MlaForm form, const SeeWeights& see) {
  const Model& model = tensors.model();
  const Attention& a = model.attention;
  const Vector frequencies = rope_frequencies(model);
  Vector latent_query = input;
  if (a.q_lora > 0) {
    latent_query = tensors.times(W::dq, layer, input);
    rms_norm(latent_query, tensors.values(W::q_latent_norm, layer), model.norm_eps);
  }
  Vector queries = tensors.times(W::q, layer, latent_query);
  for (int64_t head = 0; head < a.query_heads; ++head)
    rotate(head_of(queries, head, a.query_size()).subspan(static_cast<size_t>(a.nope)), frequencies,
           position, model.rope.interleaved);
  Vector cached = tensors.times(W::dkv, layer, input);
  rms_norm(head_of(cached, 0, a.kv_lora), tensors.values(W::kv_latent_norm, layer), model.norm_eps);
  rotate(std::span(cached).subspan(static_cast<size_t>(a.kv_lora)), frequencies, position,
         model.rope.interleaved);
  memory.append(layer, 0, cached, {});
  memory.fetch(layer, 0);
  const Group group = {tensors, memory, layer, 0, 0, a.query_heads, a.head_size, a.value_size};
  const double cost = double(memory.positions(layer)) * double(a.query_heads) * double(a.kv_lora) *
                      double(a.nope + a.v);
  if (form == MlaForm::automatic) form = cost <= dear ? MlaForm::expanded : MlaForm::absorbed;
  return form == MlaForm::expanded ? expanded(group, memory, std::move(queries), see)
                                   : absorbed(group, queries, see);
}

}  // namespace

void rms_norm(std::span<double> x, const Vector& weight, double eps) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  const double scale = 1 / std::sqrt(squares / double(x.size()) + eps);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= scale * weight[i];
}

void rotate(std::span<double> x, const Vector& frequencies, int64_t position, bool interleaved) {
  const size_t pairs = frequencies.size();
  for (size_t i = 0; i < pairs; ++i) {
    double& a = x[interleaved ? 2 * i : i];
    double& b = x[interleaved ? 2 * i + 1 : i + pairs];
    const double angle = double(position) * frequencies[i];
    const double c = std::cos(angle), s = std::sin(angle);
    const double turned = a * c - b * s;
    b = b * c + a * s;
    a = turned;
  }
}

Vector attend(const Tensors& tensors, KvMemory& memory, int64_t layer, int64_t position,
              const Vector& input, MlaForm form, const SeeWeights& see) {
  const bool mla = tensors.model().attention.mla();
  const Vector heads = mla ? attend_mla(tensors, memory, layer, position, input, form, see)
                           : attend_gqa(tensors, memory, layer, position, input, see);
  return tensors.times(W::o, layer, heads);
}

}  // namespace helix
