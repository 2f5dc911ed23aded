// What the kernel tests share: random data, and comparisons that fail on NaN.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/format.h"

namespace helix::cpu {

// Numbers of a format in memory of their own, as the program stores them.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(const std::vector<float>& from) : count_(std::ssize(from)) {
    memory_.resize(static_cast<size_t>(bytes_for<T>(count_)));
    encode(from.data(), count_, values());
  }
  Values<const T> view() const { return values_at<const T>(memory_.data(), count_, scale); }
  float operator[](int64_t i) const { return value_at(view(), i); }
  void make_nan(int64_t i) {  // of nvfp4 its whole block
    if constexpr (std::is_same_v<T, nvfp4>) values().scales[i / nvfp4_block] = {0xff};
    else encode(&nan, 1, values().at(i));
  }

 private:
  // Not a power of two: forgetting it is seen.
  static constexpr float scale = std::is_same_v<T, fp8> || std::is_same_v<T, nvfp4> ? 0.3F : 1.0F;
  static constexpr float nan = NAN;
  Values<T> values() { return values_at<T>(memory_.data(), count_, scale); }
  std::vector<std::byte> memory_;
  int64_t count_ = 0;
};

// What rows of a format are multiples of.
template <class T>
constexpr int64_t granule = std::is_same_v<T, nvfp4> ? nvfp4_block : 1;
constexpr int64_t up_to(int64_t granule, int64_t count) {
  return (count + granule - 1) / granule * granule;
}

// One generator for a test: a failure is repeated by running the test again.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[integer(0, std::ssize(values) - 1)];
  }
  float normal() { return std::normal_distribution<float>()(engine_); }
  template <class T>
  std::vector<T> normals(int64_t count, float deviation = 1) {
    std::vector<T> values(static_cast<size_t>(count));
    for (T& value : values) value = from_float<T>(deviation * normal());
    return values;
  }
  template <class T>
  Array<T> stored(int64_t count) {
    return Array<T>(normals<float>(count));
  }

 private:
  std::mt19937_64 engine_;
};

// max |a - b| / max |b|; NaN when any a is NaN, so that `!(error <= tolerance)` fails on it.
template <class T>
double relative_error(const std::vector<T>& actual, const std::vector<T>& expected) {
  EXPECT_EQ(actual.size(), expected.size());
  double difference = 0;
  double largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double a = to_float(actual[i]);
    const double b = to_float(expected[i]);
    if (std::isnan(a) || std::isnan(b)) return NAN;
    difference = std::max(difference, std::abs(a - b));
    largest = std::max(largest, std::abs(b));
  }
  return difference == 0 ? 0 : difference / largest;
}

template <class T>
void expect_close(const std::vector<T>& actual, const std::vector<T>& expected, double tolerance,
                  const char* what = "") {
  const double error = relative_error(actual, expected);
  if (!(error <= tolerance))
    ADD_FAILURE() << what << ": error " << error << ", tolerance " << tolerance;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(static_cast<const void*>(a.data()),
                                                           b.data(), a.size() * sizeof(T)) == 0);
}

// bf16 values stand 2^-7 of their power of two apart, and two almost equal values may be rounded to
// neighbours.
template <class T>
constexpr double rounding_of = std::is_same_v<T, bf16> ? 1.0 / 128 : 0.0;

template <class Body>
void with_threads(int threads, Body&& body) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  body();
  omp_set_num_threads(before);
}

}  // namespace helix::cpu
