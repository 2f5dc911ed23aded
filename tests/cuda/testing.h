// What the GPU tests share: counted checks, random data, and comparisons that fail on NaN. No test
// framework: a GPU machine may have CUDA and nothing else.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/format.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/launch.h"

namespace helix::cuda {

inline constexpr float infinity = std::numeric_limits<float>::infinity();
inline constexpr float nan = std::numeric_limits<float>::quiet_NaN();

inline int failures = 0;
inline int checks = 0;
inline void expect(bool passed, const std::string& what) {
  ++checks;
  if (!passed) ++failures;
  std::printf("%s  %s\n", passed ? "ok  " : "FAIL", what.c_str());
}

inline std::mt19937_64 engine(7);
inline int integer(int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(engine);
}
template <class T>
std::vector<T> normals(int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) value = from_float<T>(normal(engine));
  return values;
}

// Plain numbers, as kernels take weights.
template <class T>
Stored stored(const Buffer<T>& values) {
  return {reinterpret_cast<const std::byte*>(values.data()), values.count(),
          std::is_same_v<T, bf16> ? Format::bf16 : Format::fp32};
}

// max |a - b| / max |b|; NaN and infinities must stand at the same places, else infinite.
template <class T>
double relative_error(const std::vector<T>& a, const std::vector<T>& b) {
  double difference = 0;
  double largest = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double x = to_float(a[i]);
    const double y = to_float(b[i]);
    if (std::isfinite(x) != std::isfinite(y) || std::isnan(x) != std::isnan(y)) return infinity;
    if (!std::isfinite(y)) {
      if (x != y && !std::isnan(y)) return infinity;
      continue;
    }
    difference = std::max(difference, std::abs(x - y));
    largest = std::max(largest, std::abs(y));
  }
  return difference == 0 ? 0 : difference / largest;
}
template <class T>
void expect_close(const std::vector<T>& a, const std::vector<T>& b, double tolerance,
                  const std::string& what) {
  const double error = relative_error(a, b);
  char text[64];
  std::snprintf(text, sizeof text, ": error %.2g, tolerance %.2g", error, tolerance);
  expect(error <= tolerance, what + text);
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         std::memcmp(static_cast<const void*>(a.data()), b.data(), a.size() * sizeof(T)) == 0;
}

template <class T>
inline constexpr Format format_of = std::is_same_v<T, float>  ? Format::fp32
                                    : std::is_same_v<T, bf16> ? Format::bf16
                                    : std::is_same_v<T, fp8>  ? Format::fp8
                                                              : Format::nvfp4;
template <class T>
inline constexpr const char* name_of = formats[static_cast<int>(format_of<T>)].name.data();

template <class T>
constexpr int64_t code_bytes(int64_t count) {
  return static_cast<int64_t>(static_cast<double>(count) * bytes_of(format_of<T>));
}
// What a format holds of values, as it stands in memory; and back.
template <class T>
std::vector<std::byte> encoded(const std::vector<float>& from, float scale) {
  const auto count = std::ssize(from);
  std::vector<std::byte> bytes(code_bytes<T>(count));
  encode(from.data(), count, values_at<T>(bytes.data(), count, scale));
  return bytes;
}
template <class T>
std::vector<float> decoded(const std::vector<std::byte>& from, int64_t count, float scale) {
  std::vector<float> values(count);
  decode(values_at<const T>(from.data(), count, scale), count, values.data());
  return values;
}

inline OwnedStream stream;
inline int sms = 0;
inline Launch how(bool dependent = true) { return {stream.get(), sms, dependent}; }

}  // namespace helix::cuda
