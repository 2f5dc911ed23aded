// A machine is found again from the times that it would take, and what cannot be is refused.
#include "bench/calibrate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "bench/pricer.h"
#include "tests/unit/lines.h"
#include "tests/unit/sweeps.h"

namespace helix {
namespace {

Peaks peaks_of(const Machine& m) {
  Peaks peaks{.memory_bytes = m.memory_gb * 1e9,
              .read_bytes_per_s = m.read_gb_per_s * 1e9,
              .copy_bytes_per_s = 1e10,
              .library_rows = static_cast<int>(m.library_rows)};
  for (size_t i = 0; i < std::size(formats); ++i) {
    peaks.product_flops_per_s[i] = m.product_tflops[i] * 1e12;
    peaks.attention_flops_per_s[i] = m.attention_tflops[i] * 1e12;
  }
  return peaks;
}

// Every task of the points, timed by the simulator in place of an executor.
Calibration timed_on(const Machine& truth, const std::vector<Point>& points) {
  Calibration c;
  c.name = "again";
  c.gpu = truth.gpu;
  c.place = "a test";
  c.peaks = peaks_of(truth);
  const Machine peaks = machine_at_peak(c.peaks, truth.gpu);
  Planner planner;
  for (const Point& point : points) {
    const Schedule& schedule = planner.schedule(point);
    const StepState state = planner.load(point);
    for (const Cover& cover : covers_of(schedule, cpu_fusions())) {
      SampledTask task = untimed_task(schedule, cover, state, peaks);
      const simulated::Rates rates = simulated::rates_of(schedule, cover, truth);
      const Cost cost = helix::cost(schedule, cover, state);
      task.timed.us = rates.fixed_us +
                      std::max({cost.early * rates.early_byte_us + cost.late * rates.late_byte_us,
                                cost.flops * rates.flop_us, cost.sent * rates.sent_byte_us});
      c.tasks.push_back(task);
    }
  }
  for (const double bytes : {8.0, 64.0, 4096.0, 1e6, 4e6})
    c.messages.push_back({.ranks = 2, .bytes = bytes, .us = 1 + bytes * 1e-3 / 4});
  return c;
}

Machine parsed(const Json& file) { return parse_machine(parse_json("again.json", file.dump())); }

TEST(Calibrate, FindsTheMachineAgain) {
  const Machine truth = read_machine("epyc-core");
  const Sweep sampled = read(with(
      R"({"model": ["tiny-llama", "tiny-deepseek"], "ranks": [1, 2], "batch": [1, 3, 12], "context": [1500, 6000]})"));
  const Machine found = parsed(machine_file(timed_on(truth, sampled.points)));
  EXPECT_FALSE(found.gpu);
  EXPECT_EQ(found.provenance.at("kernel_us").basis, Basis::measured);
  Pricer as_it_is(truth), as_found(found);
  // Other batches and contexts than were sampled.
  const Sweep other = read(with(
      R"({"model": ["tiny-llama", "tiny-deepseek"], "ranks": [1, 2], "batch": [2, 8], "context": 4096})"));
  for (const Point& point : other.points) {
    const Priced priced = as_it_is.price(point);
    const Priced again = as_found.price(point);
    for (size_t i = 0; i < priced.covers.size(); ++i) {
      const CoverPrice& cover = priced.covers[i];
      if (cover.us >= 0.05 * priced.ttl_us) {
        EXPECT_NEAR(again.covers[i].us / cover.us, 1, 0.06) << cover.name;
      }
    }
    EXPECT_NEAR(again.ttl_us / priced.ttl_us, 1, 0.04);
  }
}

TEST(Calibrate, AFasterTaskRaisesThePeak) {
  const Machine truth = read_machine("epyc-core");
  const Sweep sweep = read(with(R"({"ranks": 2, "batch": [1, 8]})"));
  Calibration c = timed_on(truth, sweep.points);
  const Machine before = parsed(machine_file(c));
  c.peaks.read_bytes_per_s /= 10;
  for (SampledTask& task : c.tasks) task.timed.read_us *= 10;
  const Machine after = parsed(machine_file(c));
  EXPECT_GT(after.read_gb_per_s, 2 * truth.read_gb_per_s / 10);
  EXPECT_NEAR(after.read_gb_per_s * after.weight_read_efficiency,
              before.read_gb_per_s * before.weight_read_efficiency,
              0.05 * before.read_gb_per_s * before.weight_read_efficiency);
}

// Products of bf16 may be another library's, and far quicker than those of codes.
TEST(Calibrate, AFasterTaskRaisesThePeakOfItsFormatAlone) {
  const Sweep sweep = read(with(R"({"ranks": 2, "batch": [1, 64], "precision": [
      {"weights": "bf16", "kv": "bf16", "activations": "bf16"},
      {"weights": "nvfp4", "kv": "fp8", "activations": "bf16"}]})"));
  const auto at = [](const Machine::Rates& rates, Format format) {
    return rates[static_cast<size_t>(format)];
  };
  Calibration c = timed_on(read_machine("epyc-core"), sweep.points);
  const Machine before = parsed(machine_file(c));
  const auto slower = [&](auto& flops_per_s, Format format, bool attends) {
    flops_per_s[static_cast<size_t>(format)] /= 10;
    for (SampledTask& task : c.tasks)
      if (task.attends == attends && task.shape.value_bytes == bytes_of(format))
        task.timed.compute_us *= 10;
  };
  slower(c.peaks.product_flops_per_s, Format::bf16, false);
  slower(c.peaks.attention_flops_per_s, Format::fp8, true);
  const Machine after = parsed(machine_file(c));
  EXPECT_GT(at(after.product_tflops, Format::bf16), at(before.product_tflops, Format::bf16) / 5);
  EXPECT_GT(at(after.attention_tflops, Format::fp8), at(before.attention_tflops, Format::fp8) / 5);
  for (const Format format : {Format::fp8, Format::nvfp4})
    EXPECT_EQ(at(after.product_tflops, format), at(before.product_tflops, format));
  for (const Format format : {Format::bf16, Format::nvfp4})
    EXPECT_EQ(at(after.attention_tflops, format), at(before.attention_tflops, format));
}

TEST(Calibrate, WhatCannotBeIsRefused) {
  const Sweep sweep = read(with(R"({"ranks": 2, "batch": 1})"));
  const Calibration good = timed_on(read_machine("epyc-core"), sweep.points);
  const auto refusal = [&](const auto& change) {
    Calibration c = good;
    change(c);
    return error_of<RunError>([&] { machine_file(c); });
  };
  EXPECT_EQ(refusal([](Calibration&) {}), "");
  for (const double wrong : {0.0, -1.0, std::nan(""), 1e300}) {
    EXPECT_THAT(refusal([&](Calibration& c) { c.tasks[3].timed.us = wrong; }),
                testing::HasSubstr("a time of " + good.tasks[3].name));
    EXPECT_THAT(refusal([&](Calibration& c) { c.peaks.memory_bytes = wrong; }),
                testing::HasSubstr("memory [GB]"));
    EXPECT_THAT(refusal([&](Calibration& c) { c.messages[0].us = wrong; }),
                testing::HasSubstr("a message's time"));
    EXPECT_THAT(error_of<RunError>([&] { machine_at_peak({.read_bytes_per_s = wrong}, false); }),
                testing::HasSubstr("reading [GB/s]"));
  }
}

TEST(Calibrate, StepsSayWhatIsReadAhead) {
  Machine truth = read_machine("epyc-core");
  truth.gpu = true;
  truth.kernel_us = 20;
  truth.covers.clear();
  truth.library_rows = 2;
  const Sweep sweep = read(with(R"({"model": ["tiny-llama", "tiny-deepseek"], "ranks": [1, 2],
      "batch": [1, 4], "context": [1500, 6000]})"));
  Calibration c = timed_on(truth, sweep.points);
  c.fusions = cpu_fusions();
  for (const auto& [mb, us] : {std::pair(0.0, 0.0), {64.0, 0.0}, {64.0, 2.0}}) {
    truth.read_ahead_mb = mb;
    truth.launch_ahead_us = us;
    Pricer pricer(truth);
    pricer.set_fusions(c.fusions);
    c.steps.clear();
    for (const Point& point : sweep.points)
      c.steps.push_back({point, false, pricer.price(point).ttl_us});
    const Json file = machine_file(c);
    const double found = parsed(file).read_ahead_mb;
    EXPECT_EQ(found > 0, mb > 0) << found;
    EXPECT_EQ(parsed(file).library_rows, truth.library_rows);
    EXPECT_NEAR(parsed(file).launch_ahead_us, us, 0.5);
    EXPECT_LT(file["calibration"]["steps"]["median_error"], 0.05);
    // Whoever takes a library's products for kernels that begin early meets the steps less well.
    Calibration unaware = c;
    unaware.peaks.library_rows = 0;
    if (us > 0) {
      EXPECT_GT(machine_file(unaware)["calibration"]["steps"]["worst_error"],
                2 * file["calibration"]["steps"]["worst_error"].get<double>());
    }
  }
}

// Kernels that are slow at some shapes: met where they were timed, and between them in between.
TEST(Calibrate, ShapesThatWereTimedTakeTheirTime) {
  const Machine truth = read_machine("epyc-core");
  const auto sweep_of = [](const std::string& batches) {
    const std::string text =
        R"({"model": "tiny-llama", "strategy": "tp", "ranks": 1, "context": 1500, "batch": )" +
        batches + "}";
    return read(with(text.c_str()));
  };
  Calibration c = timed_on(truth, sweep_of("[1, 8, 64]").points);
  const double slow[] = {1, 4, 2};
  const size_t tasks = c.tasks.size() / 3;
  for (size_t i = 0; i < c.tasks.size(); ++i) c.tasks[i].timed.us *= slow[i / tasks];
  Pricer as_it_is(truth), as_found(parsed(machine_file(c)));
  const auto times = [&](const std::string& batch) {
    const Point point = sweep_of(batch).points.front();
    const double us = as_it_is.price(point).ttl_us;
    return as_found.price(point).ttl_us / us;
  };
  for (int i = 0; i < 3; ++i)
    EXPECT_NEAR(times(std::to_string(1 << 3 * i)) / slow[i], 1, 0.01) << i;
  EXPECT_GT(times("12"), 2.2);
  EXPECT_LT(times("48"), 3.5);
  EXPECT_NEAR(times("9") / 4, 1, 0.15);
}

TEST(Calibrate, WhatWasNotTimedIsNotMeasured) {
  const Sweep sweep = read(with(R"({"strategy": "tp", "ranks": 1, "batch": [1, 8]})"));
  Calibration c = timed_on(read_machine("epyc-core"), sweep.points);
  c.messages.clear();
  const Machine found = parsed(machine_file(c));
  for (const char* key : {"link_gb_per_s", "link_efficiency", "all_reduce_us", "exchange_us"})
    EXPECT_EQ(found.provenance.at(key).basis, Basis::assumed) << key;
  EXPECT_EQ(found.provenance.at("kernel_us").basis, Basis::measured);
}

// One product in a step that keeps its weights in the caches, and in a longer one that does not.
TEST(Calibrate, OfOneShapeTheStepsCountThatSpendMostInIt) {
  const Sweep sweep = read(with(R"({"strategy": "tp", "ranks": 1, "batch": 8})"));
  const auto w_up_us = [&](double share_cached) {
    Calibration c = timed_on(read_machine("epyc-core"), sweep.points);
    const auto once = std::ranges::find(c.tasks, "W_UP", &SampledTask::name);
    SampledTask cached = *once, apart = *once;
    cached.timed.us = 60, cached.share = share_cached;
    apart.timed.us = 75, apart.share = 0.02;
    *once = cached;
    c.tasks.insert(c.tasks.end(), 3, apart);
    const Json shapes = machine_file(c)["covers"]["W_UP"]["value"]["shapes"];
    EXPECT_EQ(shapes.size(), 1);
    return shapes[0][4].get<double>();
  };
  EXPECT_EQ(w_up_us(0.1), 60);
  EXPECT_EQ(w_up_us(0.03), 75);
}

TEST(Calibrate, OfItsRoundsTheMedianCounts) {
  const auto round = [](double us, double ttl_us) {
    SampledTask a, b;
    a.timed.us = us;
    a.spread = us / 1000;
    b.timed.us = 2 * us;
    SampledPoint point;
    point.tasks = {a, b};
    point.ttl_us = ttl_us;
    return point;
  };
  const SampledPoint point = median_of({round(10, 40), round(16, 50), round(11, 90)});
  ASSERT_EQ(point.tasks.size(), 2);
  EXPECT_EQ(point.tasks[0].timed.us, 11);
  EXPECT_EQ(point.tasks[0].spread, 0.011);
  EXPECT_NEAR(point.tasks[0].scatter, 6.0 / 11, 1e-12);
  EXPECT_EQ(point.tasks[1].timed.us, 22);
  EXPECT_EQ(point.ttl_us, 50);
}

TEST(Calibrate, SaysHowWellEachCoverIsMet) {
  const Sweep sweep = read(with(R"({"ranks": 2, "batch": [1, 8]})"));
  Calibration c = timed_on(read_machine("epyc-core"), sweep.points);
  for (SampledTask& task : c.tasks) task.spread = task.name == "attention" ? 0.5 : 0.01;
  const Json file = machine_file(c);
  const Json& covers = file["calibration"]["covers"];
  EXPECT_EQ(covers["attention"]["spread"], 0.5);
  EXPECT_LT(covers["attention"]["worst_error"], 0.02);
  const std::string text = to_text(file);
  for (const SampledTask& task : c.tasks) EXPECT_THAT(text, testing::HasSubstr(task.name));
}

}  // namespace
}  // namespace helix
