#include <fmt/format.h>

#include <string>
#include <vector>

#include "bench/calibrate.h"
#include "bench/table.h"

namespace helix {

std::string to_text(const Json& file) {
  std::vector<Row> rows = {
      {"task", "timed", "fixed us", "read", "compute", "worst error", "spread", "scatter"}};
  for (const auto& [name, cover] : file["calibration"]["covers"].items()) {
    const Json& factors = file["covers"][name]["value"];
    rows.push_back({name, cover["tasks"].dump(),
                    fmt::format("{:.2f}", factors["fixed_us"].get<double>()),
                    fmt::format("{:.3f}", factors["read_efficiency"].get<double>()),
                    fmt::format("{:.3f}", factors["compute_efficiency"].get<double>()),
                    fmt::format("{:.0f} %", 100 * cover["worst_error"].get<double>()),
                    fmt::format("{:.0f} %", 100 * cover["spread"].get<double>()),
                    fmt::format("{:.0f} %", 100 * cover["scatter"].get<double>())});
  }
  std::string text = table(rows);
  text +=
      "read, compute: shares of the peaks below; worst error: simulated against timed; spread: "
      "from pass to pass; scatter: from round to round, which no factor can tell\n";
  const Json& steps = file["calibration"]["steps"];
  text += fmt::format("whole steps of {} points: median error {:.0f} %, worst {:.0f} %\n",
                      steps["points"].dump(), 100 * steps["median_error"].get<double>(),
                      100 * steps["worst_error"].get<double>());
  const Json& peaks = file["peaks"];
  text += fmt::format("reading {:.1f} GB/s, copying {:.1f} GB/s, exchanging {:.2f} GB/s",
                      peaks["read_gb_per_s"]["value"].get<double>(),
                      file["calibration"]["copy_gb_per_s"].get<double>(),
                      peaks["link_gb_per_s"]["value"].get<double>());
  for (const char* kernels : {"product_tflops", "attention_tflops"})
    text += fmt::format("; {} bf16 {:.3f}, fp8 {:.3f}, nvfp4 {:.3f}", kernels,
                        peaks[kernels]["value"]["bf16"].get<double>(),
                        peaks[kernels]["value"]["fp8"].get<double>(),
                        peaks[kernels]["value"]["nvfp4"].get<double>());
  return text + "\n";
}

}  // namespace helix
