#include "base/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <system_error>
#include <utility>

namespace helix {

namespace {

constexpr uint64_t largest_header = 100'000'000;  // as the format's own readers have it
constexpr int64_t most = std::numeric_limits<int64_t>::max();

std::span<const std::string_view> dtype_names() {
  static const auto names = [] {
    std::vector<std::string_view> all;
    for (const DtypeRow& row : dtypes) all.push_back(row.name);
    return all;
  }();
  return names;
}

Shape read_shape(const Node& node, int64_t most_values) {
  if (!node.is_array()) node.fail("allowed is a list of extents");
  if (node.json().size() > 16) node.fail("over 16 extents");
  Shape shape;
  if (node.json().empty()) return shape;
  int64_t values = 1;
  for (const Node& item : node.items()) {
    shape.push_back(item.integer(0, most));
    if (shape.back() > 0 && values > most_values / shape.back())
      node.fail("has more values than the file has bytes");
    values *= shape.back();
  }
  return shape;
}

struct Place {  // in the data
  int64_t begin, end;
  std::string_view name;
  Node node;
};

void check_places(std::vector<Place>& places, int64_t bytes, const std::string& file) {
  std::ranges::sort(places, {}, [](const Place& p) { return std::pair(p.begin, p.end); });
  int64_t end = 0;
  for (size_t i = 0; i < places.size(); end = places[i++].end) {
    if (places[i].begin < end)
      places[i].node.fail(fmt::format("begins at byte {} and overlaps {}, which ends at {}",
                                      places[i].begin, in_quotes(places[i - 1].name), end));
    if (places[i].begin > end)
      places[i].node.fail(fmt::format(
          "begins at byte {}, but the tensors before it end at {}: a gap", places[i].begin, end));
  }
  if (end != bytes)
    throw InputError(file, "",
                     fmt::format("has {} bytes behind the last tensor's data", bytes - end));
}

[[noreturn]] void fail_to_read(const std::string& path, int code) {
  throw InputError(path, "", "cannot be read: " + std::generic_category().message(code));
}

int64_t values_of(const Shape& shape) {
  int64_t values = 1;
  for (const int64_t extent : shape) values *= extent;
  return values;
}

}  // namespace

std::string text_of(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

StoredTensors parse_safetensors(const std::string& file, std::span<const std::byte> bytes) {
  uint64_t length = 0;
  if (bytes.size() < sizeof length)
    throw InputError(file, "",
                     fmt::format("has {} bytes, no safetensors file is as short", bytes.size()));
  for (size_t i = 0; i < sizeof length; ++i)
    length |= static_cast<uint64_t>(bytes[i]) << (8 * i);  // little-endian anywhere
  if (length > largest_header || length > bytes.size() - sizeof length)
    throw InputError(file, "",
                     fmt::format("says that its header has {} bytes, but has {} in all: cut short, "
                                 "or no safetensors file",
                                 length, bytes.size()));
  const auto header = bytes.subspan(sizeof length, length);
  const auto data = bytes.subspan(sizeof length + length);
  const auto end = static_cast<int64_t>(data.size());
  const Node root = parse_json(
      file, std::string_view(reinterpret_cast<const char*>(header.data()), header.size()));
  StoredTensors tensors;
  std::vector<Place> places;
  for (const auto& [name, node] : root.members()) {
    if (name == "__metadata__") continue;
    node.only({"dtype", "shape", "data_offsets"});
    const auto dtype = static_cast<Dtype>(node["dtype"].choice(dtype_names()));
    const Shape shape = read_shape(node["shape"], end);
    const Node offsets = node["data_offsets"];
    if (!offsets.is_array() || offsets.json().size() != 2)
      offsets.fail("allowed is [begin, end], in bytes of the data");
    const std::vector<Node> ends = offsets.items();
    const int64_t from = ends[0].integer(0, most);
    const int64_t to = ends[1].integer(from, most);
    if (to > end)
      offsets.fail(fmt::format("ends at byte {} of the data, which has {}: cut short", to, end));
    if (to - from != values_of(shape) * row_of(dtype).bytes)
      offsets.fail(fmt::format("has {} bytes, but {} of shape {} has {}", to - from,
                               row_of(dtype).name, text_of(shape),
                               values_of(shape) * row_of(dtype).bytes));
    const auto at =
        tensors.emplace(name, StoredTensor{dtype, shape, data.data() + from, to - from});
    places.push_back({from, to, at.first->first, node});
  }
  check_places(places, end, file);
  return tensors;
}

Mapping::Mapping(const std::string& path) {
  struct Descriptor {
    int value;
    ~Descriptor() {
      if (value >= 0) ::close(value);
    }
  };
  if (path.find('\0') != std::string::npos) fail_to_read(path, EINVAL);
  const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  struct stat status {};
  if (file.value < 0 || fstat(file.value, &status) != 0) fail_to_read(path, errno);
  if (!S_ISREG(status.st_mode)) fail_to_read(path, S_ISDIR(status.st_mode) ? EISDIR : EINVAL);
  if (status.st_size == 0) return;
  const auto size = static_cast<size_t>(status.st_size);
  void* memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.value, 0);
  if (memory == MAP_FAILED) fail_to_read(path, errno);
  bytes_ = {static_cast<const std::byte*>(memory), size};
}

Mapping::~Mapping() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

TensorFolder::TensorFolder(const std::string& folder) : folder_(folder) {
  const std::string index = folder + "/model.safetensors.index.json";
  std::error_code error;
  if (std::filesystem::exists(index, error)) open_shards(read_json(index));
  else open(folder + "/model.safetensors");
  for (size_t i = 0; i < files_.size(); ++i)
    for (const auto& [name, tensor] : files_[i].tensors)
      if (const auto [at, added] = where_.try_emplace(name, i, &tensor); !added)
        throw InputError(files_[i].path, "/" + name,
                         "is in " + files_[at->second.first].path + " too");
}

void TensorFolder::open(const std::string& path) {
  Mapping mapping(path);
  StoredTensors tensors = parse_safetensors(path, mapping.bytes());
  files_.push_back({path, std::move(mapping), std::move(tensors)});
}

void TensorFolder::open_shards(const Node& index) {
  std::map<std::string, size_t, std::less<>> opened;
  for (const auto& [tensor, shard] : index["weight_map"].members()) {
    const std::string& name = shard.text();
    if (name.empty() || name.find('/') != std::string::npos)
      shard.fail("found " + in_quotes(name) + ", allowed are names of files of this folder");
    const auto [at, added] = opened.try_emplace(name, files_.size());
    if (added) open(folder_ + "/" + name);
    if (!files_[at->second].tensors.contains(tensor))
      shard.fail("the tensor is not in " + files_[at->second].path);
  }
  if (files_.empty()) index["weight_map"].fail("names no file");
}

void TensorFolder::each_name(std::string_view prefix,
                             const std::function<void(const std::string&)>& see) const {
  for (auto at = where_.lower_bound(prefix); at != where_.end() && at->first.starts_with(prefix);
       ++at)
    see(at->first);
}

void TensorFolder::fail(std::string_view name, const std::string& text) const {
  throw InputError(files_[where_.find(name)->second.first].path, "/" + std::string(name), text);
}

const StoredTensor& TensorFolder::tensor(std::string_view name, const Shape& shape,
                                         std::span<const Dtype> allowed) const {
  const auto found = where_.find(name);
  if (found == where_.end())
    throw InputError(folder_, "", fmt::format("tensor {} is missing", in_quotes(name, 200)));
  const StoredTensor& tensor = *found->second.second;
  if (tensor.shape != shape)
    fail(name, fmt::format("has the shape {}, config.json makes it {}", text_of(tensor.shape),
                           text_of(shape)));
  if (std::ranges::find(allowed, tensor.dtype) == allowed.end()) {
    std::vector<std::string_view> names;
    for (const Dtype dtype : allowed) names.push_back(row_of(dtype).name);
    fail(name,
         fmt::format("is {}, allowed are {}", row_of(tensor.dtype).name, fmt::join(names, ", ")));
  }
  return tensor;
}

SafetensorsWriter::SafetensorsWriter(std::string path, const std::vector<Entry>& entries,
                                     const Json& metadata)
    : path_(std::move(path)) {
  Json header = {{"__metadata__", metadata}};
  for (const Entry& entry : entries) {
    const int64_t end = missing_ + values_of(entry.shape) * row_of(entry.dtype).bytes;
    header[entry.name] = {{"dtype", row_of(entry.dtype).name},
                          {"shape", entry.shape},
                          {"data_offsets", {missing_, end}}};
    missing_ = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // the data is aligned
  errno = 0;
  file_.open(path_ + ".new", std::ios::binary | std::ios::trunc);
  if (!file_)
    throw InputError(path_, "",
                     "cannot be written: " + std::generic_category().message(errno ? errno : EIO));
  std::array<char, 8> length{};
  for (size_t i = 0; i < length.size(); ++i)
    length[i] = static_cast<char>(text.size() >> (8 * i) & 0xffU);
  file_.write(length.data(), length.size());
  file_.write(text.data(), static_cast<std::streamsize>(text.size()));
}

SafetensorsWriter::~SafetensorsWriter() {
  if (finished_) return;
  file_.close();
  std::error_code error;
  std::filesystem::remove(path_ + ".new", error);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  missing_ -= static_cast<int64_t>(bytes.size());
  file_.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
}

void SafetensorsWriter::finish() {
  if (missing_ != 0)
    throw RunError(fmt::format("{}: {} bytes of its tensors are missing", path_, missing_));
  errno = 0;
  file_.close();
  std::error_code error;
  if (file_) std::filesystem::rename(path_ + ".new", path_, error);
  if (!file_ || error)
    throw RunError(path_ + ": cannot be written: " +
                   (error ? error.message() : std::generic_category().message(errno)));
  finished_ = true;
}

}  // namespace helix
