// Exchanges: what a rank has got, against what all ranks of the group had read.
#include <algorithm>
#include <numeric>

#include "bench/tasks/judge.h"

namespace helix {

namespace {

Sample of_rows(const Content& all, const std::vector<int64_t>& rows) {
  Sample sample;
  for (const int64_t row : rows) {
    const auto numbers = all.row(row);
    sample.expect_row(row, {numbers.begin(), numbers.end()});
  }
  return sample;
}

// In double; of contents of one shape.
std::vector<double> sum_of(const std::vector<Content>& parts, int64_t row) {
  std::vector<double> sum(static_cast<size_t>(parts.front().width));
  for (const Content& part : parts)
    for (int64_t i = 0; i < part.width; ++i) sum[static_cast<size_t>(i)] += part.at(row, i);
  return sum;
}

std::vector<double> slice_of(const std::vector<double>& all, int64_t first, int64_t count) {
  return {all.begin() + first, all.begin() + first + count};
}

}  // namespace

double TaskJudge::exchange(const TaskRecord& r) {
  switch (r.task->op) {
    case Op::all_to_all: return all_to_all(r);
    case Op::all_reduce: return all_reduce(r);
    case Op::all_gather: return all_gather(r);
    case Op::reduce_scatter: return reduce_scatter(r);
    case Op::dispatch: return dispatch(r);
    case Op::combine: return combine(r);
    default: return 0;  // not judged here: a shift between stages, whose result is taken as it came
  }
}

// What each rank of the group had read, in order of the ranks.
std::vector<Content> TaskJudge::gather(const TaskRecord& r, int read) const {
  const Content& mine = *r.reads[static_cast<size_t>(read)];
  const MPI_Comm group = groups_->of(r.task->group);
  const auto size = static_cast<size_t>(r.task->group.size);
  std::vector<int64_t> shape = {mine.rows, mine.width};
  std::vector<int64_t> shapes(2 * size);
  HELIX_MPI(MPI_Allgather(shape.data(), 2, MPI_INT64_T, shapes.data(), 2, MPI_INT64_T, group));
  std::vector<int> counts, begins;
  int64_t total = 0;
  for (size_t i = 0; i < size; ++i) {
    counts.push_back(count_of(shapes[2 * i] * shapes[2 * i + 1]));
    begins.push_back(count_of(total));
    total += counts.back();
  }
  std::vector<float> all(static_cast<size_t>(total));
  HELIX_MPI(MPI_Allgatherv(mine.numbers.data(), count_of(std::ssize(mine.numbers)), MPI_FLOAT,
                           all.data(), counts.data(), begins.data(), MPI_FLOAT, group));
  std::vector<Content> contents;
  for (size_t i = 0; i < size; ++i)
    contents.push_back({shapes[2 * i],
                        shapes[2 * i + 1],
                        {all.begin() + begins[i], all.begin() + begins[i] + counts[i]}});
  return contents;
}

// Part p of a row: peer p's outputs of the heads that are mine after the exchange, and their
// log-sum-exps.
double TaskJudge::all_to_all(const TaskRecord& r) {
  double worst = 0;
  for (const int which : {0, 1}) {
    const std::vector<Content> parts = gather(r, which);
    Content got{parts.front().rows, 0, {}};
    for (int64_t row = 0; row < got.rows; ++row)
      for (const Content& part : parts) {
        const int64_t mine = part.width / r.task->group.size;
        const auto from = part.row(row).subspan(static_cast<size_t>(r.task->group.index * mine),
                                                static_cast<size_t>(mine));
        got.numbers.insert(got.numbers.end(), from.begin(), from.end());
      }
    if (got.rows > 0) got.width = std::ssize(got.numbers) / got.rows;
    worst = std::max(worst, off(of_rows(got, rows(r, got.rows)), r, which));
  }
  return worst;
}

double TaskJudge::all_reduce(const TaskRecord& r) {
  const std::vector<Content> parts = gather(r, 0);
  Sample sample;
  for (const int64_t row : rows(r, parts.front().rows)) sample.expect_row(row, sum_of(parts, row));
  return off(sample, r);
}

// Ranks are a new leading axis; or rows of replicas follow each other; or heads do, in each row.
double TaskJudge::all_gather(const TaskRecord& r) {
  const std::vector<Content> parts = gather(r, 0);
  const Fill in = schedule_[r.task->reads[0]].dims[0].fill;
  const Fill out = schedule_[r.task->writes[0]].dims[0].fill;
  Sample sample;
  int64_t rank = 0, begin = 0;
  for (const Content& part : parts) {
    for (const int64_t row : rows(r, part.rows)) {
      const auto numbers = part.row(row);
      const std::vector<double> values(numbers.begin(), numbers.end());
      if (out == Fill::fixed) sample.expect_row(rank, values, row * part.width);
      else if (in == out) sample.expect_row(row, values, begin);
      else sample.expect_row(begin + row, values);
    }
    ++rank;
    begin += in == out ? part.width : part.rows;
  }
  return off(sample, r);
}

// The sum's rows of this replica, or in each row its heads.
double TaskJudge::reduce_scatter(const TaskRecord& r) {
  const std::vector<Content> parts = gather(r, 0);
  const bool of_replicas = schedule_[r.task->reads[0]].dims[0].fill == Fill::stage_rows;
  const int64_t first = of_replicas ? requests_.replicas[static_cast<size_t>(me_.dp)].first : 0;
  const int64_t width = parts.front().width / (of_replicas ? 1 : r.task->group.size);
  Sample sample;
  for (const int64_t row : rows(r, r.writes[0]->rows))
    sample.expect_row(row, slice_of(sum_of(parts, first + row),
                                    of_replicas ? 0 : width * r.task->group.index, width));
  return off(sample, r);
}

// The experts of which the rank of replica `dp` with my place in it holds a slice.
Slice TaskJudge::experts_of(int dp) const {
  const int rank = dp * me_.l.replica_ranks() + me_.in_replica();
  return share(model_.experts.count, me_.l.ep, rank / me_.l.tpf);
}

namespace {

bool chooses(const Content& choice, int64_t row, const Slice& experts) {
  for (int64_t i = 0; i < choice.width; i += 2)
    if (choice.at(row, i) >= static_cast<double>(experts.first) &&
        choice.at(row, i) < static_cast<double>(experts.first + experts.count))
      return true;
  return false;
}

}  // namespace

// Rows of each replica that chose an expert of mine, replica after replica.
double TaskJudge::dispatch(const TaskRecord& r) {
  const std::vector<Content> hidden = gather(r, 0);
  const std::vector<Content> choices = gather(r, 1);
  Sample arriving, choice;
  int64_t arrived = 0;
  for (size_t dp = 0; dp < hidden.size(); ++dp)
    for (int64_t row = 0; row < hidden[dp].rows; ++row) {
      if (!chooses(choices[dp], row, experts_of(me_.dp))) continue;
      const auto values = hidden[dp].row(row);
      const auto chosen = choices[dp].row(row);
      arriving.expect_row(arrived, {values.begin(), values.end()});
      choice.expect_row(arrived++, {chosen.begin(), chosen.end()});
    }
  return std::max(off(arriving, r, 0), off(choice, r, 1));
}

// Each of my rows: the sum of what the ranks that it went to made of it. Where it stands there
// follows from everyone's choices.
double TaskJudge::combine(const TaskRecord& r) {
  const std::vector<Content> made = gather(r, 0);
  const std::vector<Content> choices = gather(r, 1);
  const Content& mine = choices[static_cast<size_t>(me_.dp)];
  std::vector<std::vector<double>> sums(static_cast<size_t>(mine.rows),
                                        std::vector<double>(static_cast<size_t>(model_.hidden)));
  for (size_t peer = 0; peer < made.size(); ++peer) {
    int64_t at = 0;
    for (size_t dp = 0; dp < choices.size(); ++dp)
      for (int64_t row = 0; row < choices[dp].rows; ++row) {
        if (!chooses(choices[dp], row, experts_of(static_cast<int>(peer)))) continue;
        if (static_cast<int>(dp) == me_.dp)
          for (int64_t i = 0; i < model_.hidden; ++i)
            sums[static_cast<size_t>(row)][static_cast<size_t>(i)] += made[peer].at(at, i);
        ++at;
      }
  }
  Sample sample;
  for (size_t row = 0; row < sums.size(); ++row)
    sample.expect_row(static_cast<int64_t>(row), sums[row]);
  return off(sample, r);
}

}  // namespace helix
