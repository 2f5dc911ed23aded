#include "bench/tasks/judge.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/heartbeat.h"
#include "base/random.h"
#include "judge/attention.h"
#include "judge/ffn.h"
#include "judge/partial.h"

namespace helix {

namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();
constexpr int64_t sampled_rows = 4;
constexpr int64_t sampled_weights = int64_t{1} << 22;  // generated for one task
constexpr int64_t fewest_features = 32;
constexpr int64_t sampled_kv_heads = 4;
constexpr int64_t sampled_heads = 6;  // that share a KV head

Vector vector_of(std::span<const float> row) { return {row.begin(), row.end()}; }
Vector part_of(std::span<const float> row, int64_t first, int64_t count) {
  return vector_of(row.subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
}
double dot(const Vector& a, std::span<const float> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

Part part_of(const Tensor& weight) {
  Part part;
  for (size_t axis = 0; axis < part.size(); ++axis)
    part[axis] = weight.dims[axis].fill == Fill::absent ? Slice{0, 1} : weight.dims[axis].mine;
  return part;
}

// e^(x - largest) of each; all 0 where there is nothing but -inf.
Vector weights_of(Vector lses) {
  const double top = *std::ranges::max_element(lses);
  double sum = 0;
  for (double& x : lses) sum += x = std::isinf(top) ? 0 : std::exp(x - top);
  for (double& x : lses) x = sum > 0 ? x / sum : 0;
  return lses;
}

}  // namespace

TaskJudge::TaskJudge(const Schedule& schedule, const Assignment& work, const OwnRequests& requests,
                     const OwnChoices& own_choices, MPI_Comm ranks)
    : schedule_(schedule),
      me_(schedule.place),
      work_(work),
      model_(*work.model),
      requests_(requests),
      own_choices_(own_choices),
      tensors_(Generator(*work.model, work.precision, work.seed, work.zipf), 0, beat) {
  if (ranks != MPI_COMM_NULL) groups_.emplace(ranks, me_);
}

double TaskJudge::error(const TaskRecord& r) {
  switch (r.task->op) {
    case Op::embed: return embed(r);
    case Op::norm: return norm(r);
    case Op::add_norm: return add_norm(r);
    case Op::product: return product(r);
    case Op::per_head: return per_head(r);
    case Op::angles: return angles(r);
    case Op::rope: return rope(r);
    case Op::append: return append(r);
    case Op::attend: return attend(r);
    case Op::merge: return merge(r);
    case Op::rescale: return rescale(r);
    case Op::swiglu: return swiglu(r);
    case Op::add: return add(r);
    case Op::route: return route(r);
    case Op::experts: return experts(r);
    case Op::pick: return pick(r);
    case Op::advance: return advance(r);
    default: return groups_ ? exchange(r) : 0;
  }
}

// Log-sum-exps are exponents: what counts is how far they are off, not relative to what. What is
// fp32 among bf16 activations is ten times finer than they are, and more.
double TaskJudge::off(const Sample& sample, const TaskRecord& r, int write) const {
  const Tensor& t = schedule_[r.task->writes[write]];
  const Content& actual = *r.writes[static_cast<size_t>(write)];
  const bool exponents = t.name.find("lse") != std::string_view::npos;
  const double error = exponents ? sample.absolute_error(actual) : sample.relative_error(actual);
  const bool finer = t.bytes != 2 && work_.precision.activations == Format::bf16;
  return error / (finer ? 1e-4 : tolerance(work_.precision.activations));
}

uint64_t TaskJudge::seed_of(const TaskRecord& r) const {
  return helix::combine(
      helix::combine(work_.seed, static_cast<uint64_t>(r.task - schedule_.tasks.data())),
      static_cast<uint64_t>(me_.rank()));
}
std::vector<int64_t> TaskJudge::rows(const TaskRecord& r, int64_t count) const {
  return spread(count, sampled_rows, seed_of(r));
}
std::vector<int64_t> TaskJudge::features(const TaskRecord& r, int64_t width,
                                         int64_t contraction) const {
  return spread(width,
                std::max(fewest_features, sampled_weights / std::max<int64_t>(1, contraction)),
                seed_of(r));
}

double TaskJudge::embed(const TaskRecord& r) {
  const Content& tokens = *r.reads[0];
  const Slice words = schedule_[r.task->reads[1]].dims[0].mine;
  Sample sample;
  for (int64_t row = 0; row < tokens.rows; ++row) {  // few of them stand in this rank's part
    const auto token = static_cast<int64_t>(tokens.at(row, 0));
    const bool mine = token >= words.first && token < words.first + words.count;
    sample.expect_row(row, mine ? tensors_.values(W::embed, 0, token)
                                : Vector(static_cast<size_t>(model_.hidden)));
  }
  return off(sample, r);
}

// As many vectors of the weight's width as the task takes from the row's beginning; what stands
// behind them stays.
double TaskJudge::norm(const TaskRecord& r) {
  const Id w = r.task->reads[1];
  const W which = schedule_[w].weight;
  const int64_t vectors = which == W::q_norm   ? extent_of(r.task->reads[0], 1)
                          : which == W::k_norm ? extent_of(r.task->reads[0], 2)
                                               : 1;
  const Vector weight = tensors_.values(which, weight_layer(r, w));
  Sample sample;
  for (const int64_t row : rows(r, r.reads[0]->rows)) {
    Vector x = vector_of(r.reads[0]->row(row));
    for (int64_t i = 0; i < vectors; ++i)
      rms_norm(std::span(x).subspan(static_cast<size_t>(i) * weight.size(), weight.size()), weight,
               model_.norm_eps);
    sample.expect_row(row, x);
  }
  return off(sample, r);
}

double TaskJudge::add_norm(const TaskRecord& r) {
  const Id w = r.task->reads[2];
  const Vector weight = tensors_.values(schedule_[w].weight, weight_layer(r, w));
  Sample normed, hidden;
  for (const int64_t row : rows(r, r.reads[0]->rows)) {
    Vector x = vector_of(r.reads[0]->row(row));
    for (size_t i = 0; i < x.size(); ++i) x[i] += static_cast<double>(r.reads[1]->row(row)[i]);
    hidden.expect_row(row, x);
    rms_norm(x, weight, model_.norm_eps);
    normed.expect_row(row, x);
  }
  return std::max(off(normed, r, 0), off(hidden, r, 1));
}

// The weight's leading axes are those of a row of the result.
double TaskJudge::product(const TaskRecord& r) {
  const Id w = r.task->reads[1];
  const Part whole_part = part_of(schedule_[w]);
  size_t axes = 0;
  for (size_t axis = 1; axis < 4; ++axis)
    axes += schedule_[r.task->writes[0]].dims[axis].fill != Fill::absent ? 1 : 0;
  int64_t width = 1;
  for (size_t axis = 0; axis < axes; ++axis) width *= whole_part[axis].count;
  Sample sample;
  for (const int64_t feature : features(r, width, r.reads[0]->width)) {
    Part one = whole_part;
    int64_t index = feature;
    for (size_t axis = axes; axis-- > 0; index /= whole_part[axis].count)
      one[axis] = {whole_part[axis].first + index % whole_part[axis].count, 1};
    const Vector weights = tensors_.values(schedule_[w].weight, weight_layer(r, w), one);
    for (const int64_t row : rows(r, r.reads[0]->rows))
      sample.expect(row, feature, dot(weights, r.reads[0]->row(row)));
  }
  return off(sample, r);
}

// A matrix a head; what the input's heads have behind the contraction follows the result.
double TaskJudge::per_head(const TaskRecord& r) {
  const Id w = r.task->reads[1];
  const Part part = part_of(schedule_[w]);
  const int64_t made = part[1].count;
  const int64_t contracted = part[2].count;
  const int64_t in_width = extent_of(r.task->reads[0], 2);
  const int64_t out_width = extent_of(r.task->writes[0], 2);
  Sample sample;
  for (const int64_t feature : features(r, part[0].count * out_width, contracted)) {
    const int64_t head = feature / out_width;
    const int64_t number = feature % out_width;
    Vector weights(static_cast<size_t>(in_width));
    if (number < made) {
      const Part one = {{{part[0].first + head, 1}, {part[1].first + number, 1}, part[2], part[3]}};
      weights = tensors_.values(schedule_[w].weight, weight_layer(r, w), one);
    } else {
      weights[static_cast<size_t>(contracted + number - made)] = 1;
    }
    for (const int64_t row : rows(r, r.reads[0]->rows)) {
      const auto all = r.reads[0]->row(row).subspan(static_cast<size_t>(head * in_width));
      sample.expect(row, feature, dot(weights, all));
    }
  }
  double worst = off(sample, r);
  if (r.writes.size() < 2) return worst;
  Sample lses;  // travel with what is exchanged
  for (int64_t row = 0; row < r.reads[2]->rows; ++row)
    lses.expect_row(row, vector_of(r.reads[2]->row(row)));
  return std::max(worst, off(lses, r, 1));
}

double TaskJudge::angles(const TaskRecord& r) {
  const Vector frequencies = rope_frequencies(model_);
  Sample sample;
  for (const int64_t row : rows(r, std::ssize(requests_.lengths))) {
    const auto position = static_cast<double>(requests_.lengths[static_cast<size_t>(row)]);
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const auto pair = static_cast<int64_t>(i);
      sample.expect(row, pair, std::cos(position * frequencies[i]));
      sample.expect(row, pair + std::ssize(frequencies), std::sin(position * frequencies[i]));
    }
  }
  return off(sample, r);
}

// Queries [heads][size] whole; of keys and values [2][heads][size] the keys; of a latent row its
// end.
double TaskJudge::rope(const TaskRecord& r) {
  const Tensor& x = schedule_[r.task->reads[0]];
  const size_t last = x.dims[3].fill != Fill::absent ? 3 : x.dims[2].fill != Fill::absent ? 2 : 1;
  const int64_t size = x.dims[last].mine.count;
  const int64_t heads = last == 1 ? 1 : x.dims[last - 1].mine.count;
  const int64_t pairs = r.reads[1]->width / 2;
  const bool interleaved = model_.rope.interleaved;
  Sample sample;
  for (const int64_t row : rows(r, r.reads[0]->rows)) {
    Vector values = vector_of(r.reads[0]->row(row));
    for (int64_t head = 0; head < heads; ++head) {
      double* turned = values.data() + (head + 1) * size - 2 * pairs;
      for (int64_t i = 0; i < pairs; ++i) {
        double& a = turned[interleaved ? 2 * i : i];
        double& b = turned[interleaved ? 2 * i + 1 : i + pairs];
        const double cosine = r.reads[1]->at(row, i);
        const double sine = r.reads[1]->at(row, pairs + i);
        const double before = a;
        a = before * cosine - b * sine;
        b = b * cosine + before * sine;
      }
    }
    sample.expect_row(row, values);
  }
  return off(sample, r);
}

// What it put into the cache is seen by the attention that follows.
double TaskJudge::append(const TaskRecord& r) {
  appended_ = r.reads[0];
  return 0;
}

double TaskJudge::attend(const TaskRecord& r) {
  const Attention& a = model_.attention;
  const Slice heads = me_.heads(a.query_heads);
  const Slice kv_heads = me_.kv_heads(a.kv_heads);
  const Slice chunk = r.task->chunk == all_chunks
                          ? whole(std::ssize(requests_.lengths))
                          : requests_.chunks[static_cast<size_t>(r.task->chunk)];
  const int kvp = me_.l.kvp;
  Sample outputs, lses;
  for (const int64_t row : rows(r, r.reads[0]->rows)) {
    const int64_t in_replica = chunk.first + row;
    const int64_t length = requests_.lengths[static_cast<size_t>(in_replica)];
    for (const int64_t kv : spread(kv_heads.count, sampled_kv_heads, seed_of(r))) {
      PartialAttention part{.layer = r.layer,
                            .request = requests_.first + in_replica,
                            .history = length,
                            .kv_head = kv_heads.first + kv,
                            .positions = {global_position(0, work_.interval, kvp, me_.kvp),
                                          local_length(length, work_.interval, kvp, me_.kvp),
                                          work_.interval, kvp * work_.interval}};
      if (owner(length, work_.interval, kvp) == me_.kvp) {
        const auto newest = appended_->row(in_replica);
        part.newest_key = part_of(newest, kv * a.head_size, a.head_size);
        if (!a.mla())
          part.newest_value =
              part_of(newest, kv_heads.count * a.head_size + kv * a.value_size, a.value_size);
      }
      std::vector<int64_t> sharing;  // heads of this rank
      for (int64_t head = 0; head < heads.count; ++head)
        if ((heads.first + head) * a.kv_heads / a.query_heads == part.kv_head)
          sharing.push_back(head);
      std::vector<int64_t> seen;
      std::vector<Vector> queries;
      for (const int64_t i : spread(std::ssize(sharing), sampled_heads, seed_of(r))) {
        seen.push_back(sharing[static_cast<size_t>(i)]);
        queries.push_back(part_of(r.reads[0]->row(row), seen.back() * a.head_size, a.head_size));
      }
      const std::vector<PartialOutput> judged = part.outputs(tensors_, queries);
      for (size_t i = 0; i < seen.size(); ++i) {
        outputs.expect_row(row, judged[i].output, seen[i] * a.value_size);
        lses.expect(row, seen[i], judged[i].log_sum_exp);
      }
    }
  }
  return std::max(off(outputs, r, 0), off(lses, r, 1));
}

// [peers][heads][Dv] and [peers][heads] of each row to [heads][Dv].
double TaskJudge::merge(const TaskRecord& r) {
  const int64_t peers = extent_of(r.task->reads[0], 1);
  const int64_t heads = extent_of(r.task->reads[0], 2);
  const int64_t size = extent_of(r.task->reads[0], 3);
  Sample sample;
  for (const int64_t row : rows(r, r.reads[0]->rows))
    for (int64_t head = 0; head < heads; ++head) {
      Vector lses;
      for (int64_t peer = 0; peer < peers; ++peer)
        lses.push_back(r.reads[1]->at(row, peer * heads + head));
      const Vector weights = weights_of(lses);
      Vector sum(static_cast<size_t>(size));
      for (int64_t peer = 0; peer < peers; ++peer)
        for (int64_t i = 0; i < size; ++i)
          sum[static_cast<size_t>(i)] += weights[static_cast<size_t>(peer)] *
                                         r.reads[0]->at(row, (peer * heads + head) * size + i);
      sample.expect_row(row, sum, head * size);
    }
  return off(sample, r);
}

// This rank's outputs by their weight among all: the log-sum-exps are [ranks][rows][heads].
double TaskJudge::rescale(const TaskRecord& r) {
  const int64_t heads = extent_of(r.task->reads[0], 1);
  const int64_t size = extent_of(r.task->reads[0], 2);
  Sample sample;
  for (const int64_t row : rows(r, r.reads[0]->rows))
    for (int64_t head = 0; head < heads; ++head) {
      Vector lses;
      for (int64_t rank = 0; rank < r.reads[1]->rows; ++rank)
        lses.push_back(r.reads[1]->at(rank, row * heads + head));
      const double weight = weights_of(lses)[static_cast<size_t>(me_.kvp)];
      Vector mine = part_of(r.reads[0]->row(row), head * size, size);
      for (double& x : mine) x *= weight;
      sample.expect_row(row, mine, head * size);
    }
  return off(sample, r);
}

double TaskJudge::swiglu(const TaskRecord& r) {
  const bool routed = schedule_[r.task->reads[0]].dims[0].fill == Fill::routed;
  Sample sample;
  for (const int64_t row : rows(r, routed ? std::ssize(pairs_) : r.reads[0]->rows))
    sample.expect_row(row, helix::swiglu(vector_of(r.reads[0]->row(row))));
  return off(sample, r);
}

double TaskJudge::add(const TaskRecord& r) {
  Sample sample;
  for (const int64_t row : rows(r, r.reads[0]->rows)) {
    Vector x = vector_of(r.reads[0]->row(row));
    for (size_t i = 0; i < x.size(); ++i) x[i] += static_cast<double>(r.reads[1]->row(row)[i]);
    sample.expect_row(row, x);
  }
  return off(sample, r);
}

// The largest logit, and its word; the lowest of equals.
double TaskJudge::pick(const TaskRecord& r) {
  const int64_t first = schedule_[r.task->reads[0]].dims[1].mine.first;
  for (int64_t row = 0; row < r.reads[0]->rows; ++row) {
    const auto logits = r.reads[0]->row(row);
    const auto best = std::ranges::max_element(logits);
    const bool same =
        r.writes[0]->at(row, 0) == static_cast<double>(*best) &&
        r.writes[0]->at(row, 1) == static_cast<double>(first + (best - logits.begin()));
    if (!same) return infinite;
  }
  return 0;
}

// The words of all ranks stand in ascending order: equals go to the lowest rank.
double TaskJudge::advance(const TaskRecord& r) {
  const size_t positions = r.writes.size() - 1;
  bool right = true;
  for (int64_t row = 0; row < r.writes[positions]->rows; ++row) {
    right = right && r.writes[positions]->at(row, 0) == r.reads[positions]->at(row, 0) + 1;
    if (positions == 0) continue;  // only the last stage has tokens
    int64_t best = 0;
    for (int64_t rank = 1; rank < me_.l.stage_ranks(); ++rank)
      if (r.reads[0]->at(rank, 2 * row) > r.reads[0]->at(best, 2 * row)) best = rank;
    right = right && r.writes[0]->at(row, 0) == r.reads[0]->at(best, 2 * row + 1);
  }
  return right ? 0 : infinite;
}

}  // namespace helix
