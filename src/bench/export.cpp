#include "bench/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/heartbeat.h"
#include "base/safetensors.h"
#include "bench/cards.h"
#include "bench/file.h"
#include "bench/point_run.h"
#include "bench/sweep.h"
#include "bench/watchdog.h"
#include "execute/factory.h"
#include "model/published.h"

namespace helix {

namespace {

namespace fs = std::filesystem;

constexpr int64_t block_values = int64_t{1} << 22;

Dtype dtype_of(Format format) { return format == Format::bf16 ? Dtype::bf16 : Dtype::f32; }

template <class T>
void write_array(SafetensorsWriter& writer, const std::vector<T>& values) {
  writer.write(std::as_bytes(std::span(values)));
}

void write_values(SafetensorsWriter& writer, Format format, const std::vector<float>& values) {
  if (dtype_of(format) == Dtype::f32) return write_array(writer, values);
  std::vector<bf16> rounded(values.size());
  std::ranges::transform(values, rounded.begin(), to_bf16);
  write_array(writer, rounded);
}

// Head after head, W_UK turned over and W_UV.
void write_latent_heads(SafetensorsWriter& writer, const Generator& generator, int64_t layer) {
  const Attention& a = generator.model().attention;
  std::vector<float> drawn(static_cast<size_t>(a.kv_lora * std::max(a.nope, a.v)));
  std::vector<float> head(static_cast<size_t>((a.nope + a.v) * a.kv_lora));
  for (int64_t q = 0; q < a.query_heads; ++q) {
    generator.weights(W::uk, layer, {Slice{q, 1}, whole(a.kv_lora), whole(a.nope)}, drawn.data());
    for (int64_t c = 0; c < a.kv_lora; ++c)
      for (int64_t n = 0; n < a.nope; ++n) head[n * a.kv_lora + c] = drawn[c * a.nope + n];
    generator.weights(W::uv, layer, {Slice{q, 1}, whole(a.v), whole(a.kv_lora)},
                      head.data() + a.nope * a.kv_lora);
    write_values(writer, format_of(generator.precision(), W::uk), head);
  }
}

void write_tensor(SafetensorsWriter& writer, const Generator& generator, const Published& tensor) {
  if (tensor.weight == W::uk) return write_latent_heads(writer, generator, tensor.layer);
  Part part = published_part(generator.model(), tensor.weight, tensor.part);
  int axis = 0;  // the outermost that is not one part's place
  while (axis < 3 && part[axis].count == 1) ++axis;
  const int64_t rows = part[axis].count;
  int64_t row = 1;
  for (int behind = axis + 1; behind < 4; ++behind) row *= part[behind].count;
  const int64_t block = std::clamp<int64_t>(block_values / row, 1, rows);
  for (int64_t first = 0; first < rows; first += block) {
    part[axis] = {first, std::min(block, rows - first)};
    std::vector<float> values(static_cast<size_t>(part[axis].count * row));
    generator.weights(tensor.weight, tensor.layer, part, values.data());
    write_values(writer, format_of(generator.precision(), tensor.weight), values);
    beat();
  }
}

void write_model(const Generator& generator, const std::string& folder) {
  const std::vector<Published> tensors = published_tensors(generator.model());
  std::vector<SafetensorsWriter::Entry> entries;
  for (const Published& t : tensors)
    entries.push_back({t.name, dtype_of(format_of(generator.precision(), t.weight)), t.shape});
  SafetensorsWriter writer(folder + "/model.safetensors", entries, {{"format", "pt"}});
  for (const Published& tensor : tensors) write_tensor(writer, generator, tensor);
  writer.finish();
  replace_file(folder + "/config.json",
               published_config(generator.model(), generator.precision()).dump(2) + "\n");
}

// What the ranks of a point decoded, put together on rank 0.
struct Decoded {
  std::vector<int32_t> input_ids;  // [steps][batch]
  std::vector<int32_t> tokens;     // [steps][batch]
  std::vector<float> logits;       // [steps][batch][vocabulary]
};

// Adds up parts of which each value is on one rank.
std::vector<float> whole_logits(MPI_Comm ranks, const Executor& executor, int64_t batch) {
  const Place& me = executor.schedule().place;
  const int64_t vocabulary = executor.model().vocabulary;
  const Slice words = rows_of(vocabulary, me.l.stage_ranks(), me.in_stage());
  const std::vector<float> mine = executor.logits();
  std::vector<float> all(static_cast<size_t>(batch * vocabulary));
  if (!mine.empty())
    for (int64_t row = 0; row < batch; ++row)
      std::copy_n(mine.begin() + row * words.count, words.count,
                  all.begin() + row * vocabulary + words.first);
  HELIX_MPI(MPI_Allreduce(MPI_IN_PLACE, all.data(), count_of(std::ssize(all)), MPI_FLOAT, MPI_SUM,
                          ranks));
  return all;
}

// The last stage knows the tokens.
std::vector<int32_t> sampled(MPI_Comm ranks, const Executor& executor, int64_t batch) {
  std::vector<int32_t> tokens(static_cast<size_t>(batch), -1);
  std::ranges::copy(executor.sampled(), tokens.begin());
  HELIX_MPI(
      MPI_Allreduce(MPI_IN_PLACE, tokens.data(), count_of(batch), MPI_INT32_T, MPI_MAX, ranks));
  return tokens;
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& what) {
  to.insert(to.end(), what.begin(), what.end());
}

// Free-running first, then taught the same tokens: executors keep logits of taught steps.
Decoded decode(MPI_Comm ranks, Executor& executor, const Assignment& work) {
  const auto batch = static_cast<int64_t>(work.lengths.size());
  const Generator generator(*work.model, work.precision, work.seed);
  Decoded d;
  std::vector<int32_t> tokens;
  for (int64_t request = 0; request < batch; ++request)
    tokens.push_back(work.prompt.empty() ? generator.first_token(request) : work.prompt.back());
  executor.read_prompt();
  for (int64_t step = 0; step < work.steps; ++step) {
    append(d.input_ids, tokens);
    executor.step();
    append(d.tokens, tokens = sampled(ranks, executor, batch));
  }
  executor.rewind();
  for (int64_t step = 0; step < work.steps; ++step) {
    const auto at = d.tokens.begin() + step * batch;
    executor.teach({at, at + batch});
    executor.step();
    append(d.logits, whole_logits(ranks, executor, batch));
    if (!std::equal(at, at + batch, sampled(ranks, executor, batch).begin()))
      throw RunError(fmt::format("step {} chose other tokens when it was repeated", step));
  }
  return d;
}

// The history of each layer and request, head after head.
class History {
 public:
  History(const Generator& generator, const std::vector<int64_t>& lengths)
      : generator_(generator), a_(generator.model().attention), lengths_(lengths) {}

  void add_entries(std::vector<SafetensorsWriter::Entry>& entries) const {
    const Dtype dtype = dtype_of(generator_.precision().kv);
    each([&](int64_t layer, int64_t request, int64_t length) {
      const std::string name = fmt::format("history.{}.{}.", layer, request);
      if (a_.mla()) {
        entries.push_back({name + "latent", dtype, {length, a_.kv_lora}});
        entries.push_back({name + "rotated_key", dtype, {length, a_.rope}});
      } else {
        entries.push_back({name + "key", dtype, {a_.kv_heads, length, a_.head_size}});
        entries.push_back({name + "value", dtype, {a_.kv_heads, length, a_.value_size}});
      }
    });
  }

  void write(SafetensorsWriter& writer) const {
    each([&](int64_t layer, int64_t request, int64_t length) {
      std::vector<float> first, second;  // keys and values, or latents and rotated keys
      for (int64_t head = 0; head < a_.kv_heads; ++head) {
        std::vector<float> keys(static_cast<size_t>(length * a_.head_size));
        std::vector<float> values(a_.mla() ? 0 : static_cast<size_t>(length * a_.value_size));
        if (length > 0)
          generator_.history(layer, request, length, head, {0, length}, keys.data(),
                             a_.mla() ? nullptr : values.data());
        append(second, values);
        if (!a_.mla()) append(first, keys);
        for (auto key = keys.begin(); a_.mla() && key != keys.end(); key += a_.head_size) {
          first.insert(first.end(), key, key + a_.kv_lora);
          second.insert(second.end(), key + a_.kv_lora, key + a_.head_size);
        }
        beat();
      }
      write_values(writer, generator_.precision().kv, first);
      write_values(writer, generator_.precision().kv, second);
    });
  }

 private:
  template <class Work>
  void each(const Work& work) const {
    for (int64_t layer = 0; layer < generator_.model().layers; ++layer)
      for (size_t request = 0; request < lengths_.size(); ++request)
        work(layer, static_cast<int64_t>(request), lengths_[request]);
  }

  const Generator& generator_;
  const Attention& a_;
  const std::vector<int64_t>& lengths_;
};

void write_decode(const Point& point, const Assignment& work, const Decoded& d,
                  const std::string& folder) {
  const Generator generator(*work.model, work.precision, work.seed);
  const History history(generator, work.lengths);
  const auto batch = static_cast<int64_t>(work.lengths.size());
  std::vector<SafetensorsWriter::Entry> entries = {
      {"lengths", Dtype::i64, {batch}},
      {"input_ids", Dtype::i32, {work.steps, batch}},
      {"tokens", Dtype::i32, {work.steps, batch}},
      {"logits", Dtype::f32, {work.steps, batch, work.model->vocabulary}}};
  if (point.prompt) entries.push_back({"prompt", Dtype::i32, {std::ssize(work.prompt)}});
  else history.add_entries(entries);
  SafetensorsWriter writer(
      folder + "/decode.safetensors", entries,
      {{"model", point.model->name}, {"key", key_of(point)}, {"layout", describe(point.layout)}});
  write_array(writer, work.lengths);
  write_array(writer, d.input_ids);
  write_array(writer, d.tokens);
  write_array(writer, d.logits);
  if (point.prompt) write_array(writer, work.prompt);
  else history.write(writer);
  writer.finish();
}

Point only_point(const ExportOptions& options, const World& world) {
  const Sweep sweep = read_sweep(options.point);
  const auto refuse = [&](const std::string& why) { throw InputError(options.point, "", why); };
  if (sweep.points.size() != 1)
    refuse(fmt::format("has {} points, allowed is one", sweep.points.size()));
  const Point& point = sweep.points.front();
  if (point.layout.ranks() > world.size())
    refuse(fmt::format("needs {} ranks, {} started", point.layout.ranks(), world.size()));
  if (point.zipf) refuse("a checkpoint has no place for skewed routing");
  if (point.depths) refuse("a checkpoint has all layers, not depths");
  const std::string unable = refusal(options.how, point.precision);
  if (!unable.empty()) refuse(unable);
  if (!point.model->checkpoint) static_cast<void>(published_config(*point.model, point.precision));
  return point;
}

// A folder of somebody else's files stays as it is.
void make_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw InputError(folder, "", "cannot be made: " + error.message());
  const bool empty = fs::is_empty(folder, error);
  if (error) throw InputError(folder, "", "cannot be read: " + error.message());
  if (!empty) throw InputError(folder, "", "is not empty");
}

}  // namespace

int export_point(World& world, const ExportOptions& options) {
  const Point point = only_point(options, world);
  ExecutorChoice how = options.how;
  std::optional<Cards> cards;
  if (how.kind == ExecutorKind::cuda) {
    cards.emplace(world);
    how = choose_exchange(how, *cards, world, options.exchange);
  }
  world.lead([&] { make_folder(options.folder); });
  const Assignment work = assignment_of(point, *point.model);
  const Communicator& ranks = world.first(point.layout.ranks());
  std::unique_ptr<Executor> executor;
  doing("loading");
  if (const auto failed = world.agree([&] {
        if (ranks) executor = make_executor(how, ranks.get(), work);
      }))
    throw AgreedError(*failed);
  doing("decoding");
  Decoded decoded;
  if (executor) decoded = decode(ranks.get(), *executor, work);
  executor.reset();
  world.meet();
  doing("writing");
  world.lead([&] {
    if (options.model && !work.model->checkpoint)
      write_model(Generator(*work.model, work.precision, work.seed), options.folder);
    write_decode(point, work, decoded, options.folder);
  });
  return static_cast<int>(Exit::done);
}

}  // namespace helix
