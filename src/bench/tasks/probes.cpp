#include "bench/tasks/probes.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace helix {

namespace {

constexpr int64_t between = 5;  // tokens of a shard that are looked at, beside its ends

// How long a query along `key` has to be, counted in keys, so that its token has about half of the
// weight among `tokens` others whose keys are as long and point anywhere: their logits are normal,
// with a variance of u^2 / D where the token's own is u, so that u - u^2 / 2D = ln(tokens).
double length_of(const std::vector<double>& key, double tokens, double scale) {
  const auto size = static_cast<double>(key.size());
  const double wanted = std::log(tokens + 1) + 0.5;
  const double own = 2 * wanted < size ? size * (1 - std::sqrt(1 - 2 * wanted / size)) : size;
  return own / (scale * std::inner_product(key.begin(), key.end(), key.begin(), 0.0));
}

void put_number(const Tensor& t, std::byte* to, double value) {
  if (t.bytes == 2) *reinterpret_cast<bf16*>(to) = to_bf16(static_cast<float>(value));
  else *reinterpret_cast<float*>(to) = static_cast<float>(value);
}

double number_at(const Tensor& t, const std::byte* from) {
  return static_cast<double>(t.bytes == 2 ? to_float(*reinterpret_cast<const bf16*>(from))
                                          : *reinterpret_cast<const float*>(from));
}

}  // namespace

Probes::Probes(Executor& executor, const Assignment& work)
    : executor_(executor),
      work_(work),
      requests_(work, executor.schedule()),
      generator_(*work.model, work.precision, work.seed) {}

// Token -1 is the newest; else the i-th of this rank's shard.
std::vector<double> Probes::key(int layer, int64_t row, int64_t kv, int64_t token,
                                const Content& appended) const {
  const Attention& a = work_.model->attention;
  const Place& me = executor_.schedule().place;
  std::vector<double> key;
  if (token < 0) {
    const auto all = appended.row(row).subspan(static_cast<size_t>(kv * a.head_size),
                                               static_cast<size_t>(a.head_size));
    return {all.begin(), all.end()};
  }
  std::vector<float> k(static_cast<size_t>(a.head_size)), v(static_cast<size_t>(a.value_size));
  generator_.history(layer, requests_.first + row, requests_.lengths[static_cast<size_t>(row)],
                     me.kv_heads(a.kv_heads).first + kv,
                     {global_position(token, work_.interval, me.l.kvp, me.kvp), 1}, k.data(),
                     a.mla() ? nullptr : v.data());
  return {k.begin(), k.end()};
}

// What the append has read: keys first in each row.
Content Probes::appended(const Task& append) const {
  const Id id = append.reads[0];
  const Tensor& t = executor_.schedule()[id];
  const TensorView view = executor_.view(id, all_chunks);
  Content content{view.rows, view.values, {}};
  const auto bytes = static_cast<int64_t>(t.bytes);
  for (int64_t i = 0; i < view.rows * view.values; ++i)
    content.numbers.push_back(static_cast<float>(number_at(t, view.data + i * bytes)));
  return content;
}

Id Probes::put(const Task& task, int layer) const {
  if (task.op != Op::append || work_.model->marked) return -1;
  const Schedule& s = executor_.schedule();
  const Attention& a = work_.model->attention;
  const Task& attend = *std::find_if(&task, s.tasks.data() + s.tasks.size(),
                                     [](const Task& t) { return t.op == Op::attend; });
  const Tensor& query = s[attend.reads[0]];
  const TensorView queries = executor_.view(attend.reads[0], all_chunks);
  const Content newest = appended(task);
  const Slice heads = s.place.heads(a.query_heads);
  const double scale = softmax_scale(*work_.model);
  for (int64_t row = 0; row < queries.rows; ++row) {
    const int64_t held = local_length(requests_.lengths[static_cast<size_t>(row)], work_.interval,
                                      s.place.l.kvp, s.place.kvp);
    for (int64_t head = 0; head < heads.count; ++head) {
      const int64_t kv =
          (heads.first + head) * a.kv_heads / a.query_heads - s.place.kv_heads(a.kv_heads).first;
      // Neighbours, which may share a KV head, look at different tokens.
      const int64_t which = (row + head) % (between + 3);
      const int64_t token = which == 0 || held == 0 ? -1 : (which - 1) * (held - 1) / (between + 1);
      const std::vector<double> along = key(layer, row, kv, token, newest);
      const double length = length_of(along, static_cast<double>(held), scale);
      for (int64_t i = 0; i < a.head_size; ++i)
        put_number(query,
                   queries.data + ((row * heads.count + head) * a.head_size + i) *
                                      static_cast<int64_t>(query.bytes),
                   length * along[static_cast<size_t>(i)]);
    }
  }
  return attend.reads[0];
}

}  // namespace helix
