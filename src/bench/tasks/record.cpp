#include "bench/tasks/record.h"

#include <algorithm>
#include <cstring>

namespace helix {

namespace {

template <class T>
T read_at(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// The numbers of one value of a tensor: two of a choice (expert, gate) or a best (value, index).
void append_numbers(const Tensor& t, const std::byte* from, std::vector<float>& to) {
  if (t.kind == Kind::state)
    return to.push_back(t.bytes == 8 ? static_cast<float>(read_at<int64_t>(from))
                                     : static_cast<float>(read_at<int32_t>(from)));
  if (t.bytes == 2) return to.push_back(to_float(read_at<bf16>(from)));
  if (t.bytes == 4) return to.push_back(read_at<float>(from));
  const bool choice = t.name.find("choice") != std::string_view::npos;
  const auto whole = static_cast<float>(read_at<int32_t>(from + (choice ? 0 : 4)));
  const auto real = read_at<float>(from + (choice ? 4 : 0));
  to.insert(to.end(), {choice ? whole : real, choice ? real : whole});
}

Seen of_whole_numbers(std::span<const int64_t> values) {
  Content content{std::ssize(values), 1, {}};
  for (const int64_t value : values) content.numbers.push_back(static_cast<float>(value));
  return std::make_shared<const Content>(std::move(content));
}

Seen some_rows(const Content& all, const Slice& rows) {
  Content some{rows.count, all.width, {}};
  const auto begin = all.numbers.begin() + rows.first * all.width;
  some.numbers.assign(begin, begin + rows.count * all.width);
  return std::make_shared<const Content>(std::move(some));
}

std::vector<int64_t> slice_of(std::span<const int64_t> all, const Slice& part) {
  const auto mine = all.subspan(static_cast<size_t>(part.first), static_cast<size_t>(part.count));
  return {mine.begin(), mine.end()};
}

}  // namespace

OwnRequests::OwnRequests(const Assignment& work, const Schedule& schedule) {
  const Place& me = schedule.place;
  const Slice batch = cut(work.lengths, me.l.pp).front();
  stage_first = batch.first;
  stage_lengths = slice_of(work.lengths, batch);
  replicas = cut(stage_lengths, me.l.dp);
  const Slice mine = replicas[static_cast<size_t>(me.dp)];
  first = batch.first + mine.first;
  lengths = slice_of(stage_lengths, mine);
  chunks = cut(lengths, schedule.chunks);
}

Recorder::Recorder(Executor& executor, const Assignment& work, Change change)
    : executor_(executor),
      schedule_(executor.schedule()),
      requests_(work, schedule_),
      before_(executor.hooks().after),
      change_(std::move(change)) {
  const Generator generator(*work.model, work.precision, work.seed);
  std::vector<int64_t> tokens;
  for (int64_t i = 0; i < std::ssize(requests_.stage_lengths); ++i)
    tokens.push_back(generator.first_token(requests_.stage_first + i));
  put(0, all_chunks, of_whole_numbers(tokens));
  put(1, all_chunks, of_whole_numbers(requests_.stage_lengths));
  executor.hooks().after = [this](const Task& task, int layer) {
    if (before_) before_(task, layer);
    note(task, layer);
  };
}

int Recorder::distance(const Task& task, int layer) const {
  const auto at = static_cast<int>(&task - schedule_.tasks.data());
  const auto in = [&](const Segment& segment) { return at >= segment.begin && at < segment.end; };
  const Segment& segment = *std::ranges::find_if(schedule_.segments, in);
  return segment.first_layer + segment.layers - 1 - layer;
}

// A stage that has nothing to do yet only shifts: the last time, its first input comes.
void Recorder::note(const Task& task, int layer) {
  if (ended_ || distance(task, layer) > 1) return;
  if (task.op != Op::shift) passing_ = true;
  TaskRecord record{&task, layer, {}, {}};
  for (const Id id : task.reads) record.reads.push_back(find(id, task.chunk));
  for (const Id id : task.writes) {
    if (schedule_[id].kind == Kind::newest) continue;
    put(id, task.chunk, std::make_shared<const Content>(content(id, task.chunk)));
    record.writes.push_back(find(id, task.chunk));
  }
  if (distance(task, layer) == 0 && passing_) {
    records_.push_back(std::move(record));
    if (const Id id = change_ ? change_(task, layer) : -1; id >= 0)
      put(id, all_chunks, std::make_shared<const Content>(content(id, all_chunks)));
  }
  ended_ = passing_ && &task == &schedule_.tasks.back();
}

void Recorder::put(Id id, int chunk, Seen content) {
  Present& now = present_[id];
  if (chunk == all_chunks) {
    now = {std::move(content), {}};
  } else {
    now.whole = nullptr;
    now.pieces.resize(static_cast<size_t>(schedule_.chunks));
    now.pieces[static_cast<size_t>(chunk)] = std::move(content);
  }
}

Seen Recorder::find(Id id, int chunk) const {
  const auto known = present_.find(id);
  if (known == present_.end()) return nullptr;
  const auto& [whole, pieces] = known->second;
  if (whole != nullptr) {
    const bool cut = chunk != all_chunks && schedule_[id].dims[0].fill == Fill::rows &&
                     schedule_[id].kind == Kind::activation;
    return cut ? some_rows(*whole, requests_.chunks[static_cast<size_t>(chunk)]) : whole;
  }
  if (chunk != all_chunks) return pieces[static_cast<size_t>(chunk)];
  if (pieces.size() == 1) return pieces.front();
  Content all;
  for (const Seen& piece : pieces) {
    if (piece == nullptr) return nullptr;
    all.rows += piece->rows;
    all.width = piece->width;
    all.numbers.insert(all.numbers.end(), piece->numbers.begin(), piece->numbers.end());
  }
  return std::make_shared<const Content>(std::move(all));
}

Content Recorder::content(Id id, int chunk) {
  const Tensor& t = schedule_[id];
  const TensorView view = executor_.view(id, chunk);
  Content content{view.rows, 0, {}};
  const auto bytes = static_cast<int64_t>(t.bytes);
  for (int64_t row = 0; row < view.rows; ++row)
    for (int part = 0; part < view.parts; ++part) {
      const std::byte* from = view.data + part * view.part_stride + row * view.values * bytes;
      for (int64_t i = 0; i < view.values; ++i)
        append_numbers(t, from + i * bytes, content.numbers);
    }
  if (view.rows > 0) content.width = std::ssize(content.numbers) / view.rows;
  return content;
}

std::vector<TaskRecord> Recorder::take() {
  std::ranges::stable_sort(records_, {}, [](const TaskRecord& r) { return r.task; });
  return std::move(records_);
}

}  // namespace helix
