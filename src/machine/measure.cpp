#include "machine/measure.h"

#include <omp.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <string_view>

namespace helix {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point began) {
  return std::chrono::duration<double>(Clock::now() - began).count();
}

// The best of the passes that fit in `budget_s`, at least two.
template <class Pass>
double best_seconds(double budget_s, const Pass& pass) {
  double best = std::numeric_limits<double>::infinity();
  const auto began = Clock::now();
  for (int done = 0; done < 2 || seconds_since(began) < budget_s; ++done) {
    const auto start = Clock::now();
    pass();
    best = std::min(best, seconds_since(start));
  }
  return best;
}

volatile uint64_t sink;  // keeps the compiler from leaving out what nobody reads

double measure_read(int threads) {
  const auto wanted = static_cast<int64_t>(std::min(available_memory() / 8, 256.0 * (1 << 20)));
  const int64_t words = std::max<int64_t>(wanted, 1 << 20) / 8;
  const std::unique_ptr<uint64_t[]> data(new uint64_t[static_cast<size_t>(words)]);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < words; ++i) data[static_cast<size_t>(i)] = static_cast<uint64_t>(i);
  const uint64_t* const from = data.get();
  const double seconds = best_seconds(0.2, [&] {
    uint64_t sum = 0;
#pragma omp parallel for simd schedule(static) num_threads(threads) reduction(+ : sum)
    for (int64_t i = 0; i < words; ++i) sum += from[i];
    sink = sum;
  });
  return static_cast<double>(words) * 8 / seconds;
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

double measure_flops(int threads) {
  constexpr int64_t rounds = 100000;
  const double seconds = best_seconds(0.1, [&] {
    float total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    total += multiply_add(rounds);
    sink = static_cast<uint64_t>(total);
  });
  return 2.0 * 128 * rounds * threads / seconds;
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

HostRates measure_host(int threads) { return {measure_read(threads), measure_flops(threads)}; }

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
