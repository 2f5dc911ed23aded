// Any bytes are a safetensors file whose tensors share out its data, or one clear line.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/safetensors.h"

namespace safetensors_fuzz {

using namespace helix;

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "safetensors_fuzz: %s\n", what);
  std::abort();
}

inline void check_line(std::string_view line) {
  require(line.starts_with("fuzzed"), "the message names the file");
  require(line.size() < 20000, "the message is short");
  for (const char c : line) require(static_cast<uint8_t>(c) >= 0x20 && c != 0x7f, "one line");
}

// Each byte of the data belongs to one tensor; it is read, for the sanitizers.
inline void check_tensors(const StoredTensors& tensors, std::span<const std::byte> bytes) {
  int64_t sum = 0;
  unsigned seen = 0;
  for (const auto& [name, tensor] : tensors) {
    int64_t wanted = row_of(tensor.dtype).bytes;
    for (const int64_t extent : tensor.shape) wanted *= extent;
    require(wanted == tensor.bytes, "as many bytes as the shape has");
    require(
        tensor.data >= bytes.data() && tensor.data + tensor.bytes <= bytes.data() + bytes.size(),
        "a tensor lies in the file");
    for (int64_t i = 0; i < tensor.bytes; ++i) seen += static_cast<unsigned>(tensor.data[i]);
    sum += tensor.bytes;
  }
  require(seen <= 255U * bytes.size(), "bytes are counted once");
  uint64_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | static_cast<uint64_t>(bytes[i]);
  require(sum == static_cast<int64_t>(bytes.size() - 8 - header), "no gap and no overlap");
}

}  // namespace safetensors_fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace safetensors_fuzz;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  StoredTensors tensors;
  try {
    tensors = parse_safetensors("fuzzed", bytes);
  } catch (const InputError& error) {
    check_line(error.what());
    return 0;
  }
  check_tensors(tensors, bytes);
  return 0;
}
