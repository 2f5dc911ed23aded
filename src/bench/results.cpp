#include "bench/results.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <set>
#include <system_error>

namespace helix {

namespace {

namespace fs = std::filesystem;

std::string dumped(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

bool has_bytes(const std::string& path) {
  std::error_code none;
  return fs::file_size(path, none) > 0 && !none;
}

void make_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error && fs::is_directory(folder, error)) return;
  errno = error ? error.value() : ENOTDIR;
  fail_to_write(folder);
}

// A line that is not ours, or that means what this program cannot know, ends the reading.
void check_schema(const Node& line) {
  const Node schema = line["schema"];
  std::string_view text = schema.text();
  const std::string_view ours = line_schema.substr(0, line_schema.find('/') + 1);
  int major = 0;
  if (text.starts_with(ours)) {
    text.remove_prefix(ours.size());
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), major);
    if (error != std::errc{} || end == text.data() + text.size() || *end != '.') major = 0;
  }
  if (major == 0) schema.fail(fmt::format("{} is no result line", in_quotes(schema.text())));
  if (major > 1)
    schema.fail(fmt::format("{} is newer than this program, which reads {}1.x",
                            in_quotes(schema.text()), ours));
}

// How far a results file is whole.
struct Extent {
  int64_t bytes = 0;      // of the lines that are heard and end with a line break
  std::string torn_note;  // "" when nothing is left out
};

Extent read_lines(LineReader& reader, const std::function<void(const Node&)>& on_line) {
  Extent whole;
  while (reader.next()) {
    const std::string place = fmt::format("{}:{}", reader.path(), reader.number());
    std::optional<Node> line;
    try {
      line = parse_json(place, reader.line());
    } catch (const InputError&) {
      if (!reader.last()) throw;
      whole.torn_note = place + ": the last line was cut off in writing";
      return whole;
    }
    check_schema(*line);
    on_line(*line);
    if (reader.ended()) whole.bytes += static_cast<int64_t>(reader.line().size()) + 1;
  }
  return whole;
}

bool failed_verification(const Node& line) {
  const Node verified = line["verified"];
  if (verified.is_null()) return false;
  const Node error = verified["max_rel_err"];
  const Node tolerance = verified["tolerance"];
  return !(error.is_number() && tolerance.is_number() &&
           error.json().get<double>() <= tolerance.json().get<double>());
}

}  // namespace

ResultsFolder::ResultsFolder(const std::string& folder, const Json& resolved_sweep,
                             const Environment& now, Resume resume, int64_t lines_a_sync,
                             double lock_wait_s)
    : folder_(folder), lines_a_sync_(lines_a_sync) {
  make_folder(folder_);
  lock_.emplace(folder_, lock_wait_s);
  if (!lock_->note().empty()) notes_.push_back(lock_->note());
  if (resume == Resume::no && has_bytes(path()))
    throw InputError(path(), "",
                     "holds results already: --resume goes on with them, -o DIR writes elsewhere");
  check_sweep(resolved_sweep);
  const Json known = environments(now, resume);
  take_up_lines();
  replace_file(folder_ + "/sweep.json", dumped(resolved_sweep, 2) + "\n");
  replace_file(folder_ + "/environment.json", dumped(known, 2) + "\n");
  open_lines();
}

void ResultsFolder::check_sweep(const Json& resolved) const {
  const std::string file = folder_ + "/sweep.json";
  if (!fs::exists(file)) {
    if (has_bytes(path())) throw InputError(path(), "", "its sweep.json is missing");
    return;
  }
  // Sorted, as the order of keys says nothing; and as read back, as a file holds it.
  const nlohmann::json there = nlohmann::json::parse(dumped(read_json(file).json()));
  const nlohmann::json ours = nlohmann::json::parse(dumped(resolved));
  if (there == ours) return;
  const std::string first = nlohmann::json::diff(there, ours).at(0).at("path");
  throw InputError(file, first,
                   "another sweep: its results are not mixed, give another folder with -o");
}

// The environment.json that is there, with this launch added.
Json ResultsFolder::environments(const Environment& now, Resume resume) const {
  const std::string file = folder_ + "/environment.json";
  const bool lines = has_bytes(path());
  Json known = Json::object();
  if (fs::exists(file)) {
    const Node there = read_json(file);
    if (!there.is_object()) there.fail("is no map of environments");
    known = there.json();
  }
  for (const auto& [hash, facts] : known.items()) {
    const std::string difference = differs(facts, now.facts);
    if (lines && resume != Resume::mixed && !difference.empty())
      throw InputError(path(), "",
                       fmt::format("was made by {}: --resume=mixed goes on with it, "
                                   "-o DIR writes elsewhere",
                                   difference));
  }
  Json& mine = known[now.hash];
  Json launches = mine.is_object() ? mine.value("launches", Json::array()) : Json::array();
  if (!launches.is_array()) launches = Json::array();
  launches.push_back(now.launch);
  mine = now.facts;
  mine["launches"] = std::move(launches);
  return known;
}

void ResultsFolder::note_line(const Node& line) {
  const Identity identity = identity_of(line);
  const Node reason = line["reason"];
  const auto [state, added] = states_.try_emplace(identity);
  replaced_ += added ? 0 : 1;
  state->second = {.line = ++lines_,
                   .done = line["status"].text() == "ok" && !failed_verification(line),
                   .outcome = line["status"].text() + dumped(reason.json())};
}

void ResultsFolder::take_up_lines() {
  if (!fs::exists(path())) return;
  LineReader reader(path());
  const Extent whole = read_lines(reader, [&](const Node& line) {
    if (reader.ended()) note_line(line);
  });
  size_ = whole.bytes;
  const auto there = static_cast<int64_t>(fs::file_size(path()));
  if (there == size_) return;
  notes_.push_back(fmt::format("{}: {} bytes of a line that was cut off in writing are removed",
                               path(), there - size_));
}

void ResultsFolder::open_lines() {
  file_ = File(open(path().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (file_.get() < 0 || ftruncate(file_.get(), size_) != 0) fail_to_write(path());
}

bool ResultsFolder::done(const Identity& identity) const {
  const auto state = states_.find(identity);
  return state != states_.end() && state->second.done;
}

void ResultsFolder::append(const Json& line) {
  const std::string text = dumped(line);
  // Read as its readers will, before it is there for good.
  const Node node = parse_json(path(), text);
  const auto state = states_.find(identity_of(node));
  if (state != states_.end() && node["status"].text() != "ok" &&
      state->second.outcome == node["status"].text() + dumped(node["reason"].json()))
    return;
  const bool due = (lines_ + 1) % lines_a_sync_ == 0;
  if (due) lock_->check_held();
  if (!write_all(file_.get(), text + "\n") || (due && fdatasync(file_.get()) != 0)) {
    const std::string reason = std::generic_category().message(errno);
    // Should even this fail, the next run finds half a line and cuts it off.
    const bool whole = ftruncate(file_.get(), size_) == 0;
    throw RunError(fmt::format("{}: line {} cannot be written: {}{}", path(), lines_ + 1, reason,
                               whole ? "; the lines before it are whole" : ""));
  }
  size_ += static_cast<int64_t>(text.size()) + 1;
  note_line(node);
}

// A copy without the lines that were replaced takes the place of the file at once.
void ResultsFolder::drop_replaced() {
  std::set<int64_t> kept;
  for (const auto& [identity, state] : states_) kept.insert(state.line);
  const std::string next = path() + ".new";
  const File copy(open(next.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  bool whole = copy.get() >= 0;
  for (LineReader reader(path()); whole && reader.next();)
    if (kept.contains(reader.number())) whole = write_all(copy.get(), reader.line() + "\n");
  whole = whole && fsync(copy.get()) == 0 && std::rename(next.c_str(), path().c_str()) == 0;
  // Not enough room for the copy: readers take the last line of an identity anyway.
  if (!whole) unlink(next.c_str());
}

void ResultsFolder::close() {
  if (lines_a_sync_ > 1 && fdatasync(file_.get()) != 0) fail_to_write(path());
  if (replaced_ > 0) {
    lock_->check_held();
    drop_replaced();
  }
  replaced_ = 0;
  file_.close();
  lock_.reset();
}

std::vector<std::string> read_results(const std::string& path,
                                      const std::function<void(const Node&)>& on_line) {
  LineReader reader(path);
  const Extent whole = read_lines(reader, on_line);
  if (whole.torn_note.empty()) return {};
  return {whole.torn_note + " and is left out"};
}

std::vector<Node> lines_of(const std::string& path, const std::string& key) {
  std::map<Identity, Node> found;
  std::set<std::string> keys;
  read_results(path, [&](const Node& line) {
    Identity identity = identity_of(line);
    keys.insert(identity.key);
    identity.repeat = 1;
    if (identity.key == key) found.insert_or_assign(identity, line);
  });
  if (found.empty()) {
    const std::vector<std::string_view> known(keys.begin(), keys.end());
    const std::string_view near = nearest(key, known);
    throw InputError(path, "",
                     "no line has the key " + in_quotes(key) +
                         (near.empty() ? "" : ", did you mean " + in_quotes(near) + "?"));
  }
  std::vector<Node> lines;
  for (const auto& [identity, line] : found) lines.push_back(line);
  return lines;
}

}  // namespace helix
