// The safetensors format, in which checkpoints are published: eight bytes with the header's length,
// a JSON header {name: {"dtype", "shape", "data_offsets": [begin, end]}}, then the data of all
// tensors, without gaps (github.com/huggingface/safetensors, "Format").
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace helix {

enum class Dtype : uint8_t {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
};
struct DtypeRow {
  std::string_view name;
  int64_t bytes;
};
inline constexpr DtypeRow dtypes[] = {{"F64", 8},     {"F32", 4},     {"F16", 2}, {"BF16", 2},
                                      {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I64", 8}, {"I32", 4},
                                      {"I16", 2},     {"I8", 1},      {"U64", 8}, {"U32", 4},
                                      {"U16", 2},     {"U8", 1},      {"BOOL", 1}};
constexpr const DtypeRow& row_of(Dtype dtype) { return dtypes[static_cast<int>(dtype)]; }

using Shape = std::vector<int64_t>;       // row-major
std::string text_of(const Shape& shape);  // "[2, 3]"

// A tensor in a mapped file.
struct StoredTensor {
  Dtype dtype;
  Shape shape;
  const std::byte* data;  // of no alignment
  int64_t bytes;
};
using StoredTensors = std::map<std::string, StoredTensor, std::less<>>;

// Reads a whole file's bytes; `data` of the tensors points into them. Throws InputError, naming
// `file` and the tensor: a text that ends early, a header that is no such JSON, an unknown dtype,
// bytes that are not those of the shape, tensors that overlap, leave gaps or reach beyond the end.
StoredTensors parse_safetensors(const std::string& file, std::span<const std::byte> bytes);

// A file in memory, read-only; pages are read when they are touched.
class Mapping {
 public:
  explicit Mapping(const std::string& path);  // throws InputError
  ~Mapping();
  Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Mapping& operator=(Mapping&&) = delete;
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

// The tensors of a Hugging Face folder: those of model.safetensors, or of the shards that
// model.safetensors.index.json names. Files are opened and their headers checked when it is made.
class TensorFolder {
 public:
  explicit TensorFolder(const std::string& folder);

  bool has(std::string_view name) const { return where_.contains(name); }
  // Of all tensors whose names begin so.
  void each_name(std::string_view prefix, const std::function<void(const std::string&)>& see) const;
  // An InputError with the tensor's file and name.
  [[noreturn]] void fail(std::string_view name, const std::string& text) const;
  // Throws InputError where it is missing, or has another shape or none of these dtypes.
  const StoredTensor& tensor(std::string_view name, const Shape& shape,
                             std::span<const Dtype> allowed) const;

 private:
  struct File {
    std::string path;
    Mapping mapping;
    StoredTensors tensors;
  };
  void open(const std::string& path);
  void open_shards(const Node& index);

  std::string folder_;
  std::vector<File> files_;
  std::map<std::string, std::pair<size_t, const StoredTensor*>, std::less<>> where_;
};

// Writes a file tensor by tensor, none of which has to fit in memory; it is there when it is whole.
class SafetensorsWriter {
 public:
  struct Entry {
    std::string name;
    Dtype dtype;
    Shape shape;
  };
  // `metadata`: an object of strings. Throws InputError where the path cannot be written.
  SafetensorsWriter(std::string path, const std::vector<Entry>& entries, const Json& metadata);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // The next bytes of the data: the entries' in order, in pieces of any size.
  void write(std::span<const std::byte> bytes);
  // Throws RunError when the disk is full, or when too few or too many bytes came.
  void finish();

 private:
  std::string path_;
  std::ofstream file_;
  int64_t missing_ = 0;  // bytes
  bool finished_ = false;
};

}  // namespace helix
