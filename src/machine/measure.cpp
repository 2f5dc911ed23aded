#include "machine/measure.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace helix {

namespace {

volatile uint64_t sink;  // keeps the compiler from leaving out what nobody reads

double size_of(size_t index) { return static_cast<double>(1 << 20) * std::pow(4.0, index); }

uint64_t sum_of(const uint64_t* from, int64_t words) {
  uint64_t sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < words; ++i) sum += from[i];
  return sum;
}

// 128 independent chains: enough for two units of 16 lanes and 4 cycles of latency.
float multiply_add(int64_t rounds) {
  constexpr int chains = 128;
  std::array<float, chains> sums;
  for (int i = 0; i < chains; ++i) sums[static_cast<size_t>(i)] = static_cast<float>(i);
  for (int64_t round = 0; round < rounds; ++round)
#pragma omp simd
    for (int i = 0; i < chains; ++i)
      sums[static_cast<size_t>(i)] = sums[static_cast<size_t>(i)] * 0.999F + 0.001F;
  float total = 0;
  for (const float sum : sums) total += sum;
  return total;
}

// One of `threads` threads, which reads its part of each size again and again.
HostRates measure_thread(int threads) {
  constexpr int64_t rounds = 20000;
  HostRates rates;
  const auto most = static_cast<int64_t>(size_of(rates.read_bytes_per_s.size() - 1)) / 8 / threads;
  const std::vector<uint64_t> data(static_cast<size_t>(most), 1);
  for (size_t i = 0; i < rates.read_bytes_per_s.size(); ++i) {
    const int64_t words = static_cast<int64_t>(size_of(i)) / 8 / threads;
#pragma omp barrier
    rates.read_bytes_per_s[i] =
        best_rate(0.05, static_cast<double>(words) * 8, [&] { sink = sum_of(data.data(), words); });
  }
#pragma omp barrier
  rates.flops_per_s = best_rate(0.1, 2.0 * 128 * rounds,
                                [&] { sink = static_cast<uint64_t>(multiply_add(rounds)); });
  return rates;
}

// The number behind `name` in a file of lines "NAME 123"; `none` where there is no such thing.
double number_in(const char* path, std::string_view name, double none) {
  std::ifstream file(path);
  std::string word;
  double value = 0;
  while (file >> word)
    if (word == name && file >> value) return value;
  return none;
}

double only_number_in(const char* path, double none) {
  std::ifstream file(path);
  double value = 0;
  return file >> value ? value : none;  // "max" is no number
}

}  // namespace

// Each thread has a clock of its own, so that a thread that has to wait for its core spoils
// nothing.
HostRates measure_host(int threads) {
  HostRates all;
#pragma omp parallel num_threads(threads)
  {
    const HostRates mine = measure_thread(threads);
#pragma omp critical
    {
      for (size_t i = 0; i < mine.read_bytes_per_s.size(); ++i)
        all.read_bytes_per_s[i] += mine.read_bytes_per_s[i];
      all.flops_per_s += mine.flops_per_s;
    }
  }
  return all;
}

double HostRates::read_rate(double bytes) const {
  size_t index = 0;
  while (index + 1 < read_bytes_per_s.size() && size_of(index + 1) <= bytes) ++index;
  return read_bytes_per_s[index];
}

double available_memory() {
  constexpr double unlimited = std::numeric_limits<double>::infinity();
  const double host = 1024 * number_in("/proc/meminfo", "MemAvailable:", unlimited);
  const double limit = only_number_in("/sys/fs/cgroup/memory.max", unlimited);
  const double taken = only_number_in("/sys/fs/cgroup/memory.current", 0);
  const double cache = number_in("/sys/fs/cgroup/memory.stat", "inactive_file", 0);
  return std::min(host, limit - taken + cache);
}

int64_t peak_resident_bytes() {
  return static_cast<int64_t>(1024 * number_in("/proc/self/status", "VmHWM:", 0));
}

void reset_peak_resident() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace helix
