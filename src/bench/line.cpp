#include "bench/line.h"

#include <cmath>
#include <limits>
#include <string_view>

#include "execute/factory.h"

namespace helix {

namespace {

constexpr int64_t no_limit = std::numeric_limits<int64_t>::max();

// Nanoseconds are the end of any clock here, and their digits double the size of a line.
double to_ns(double us) { return std::round(us * 1e3) / 1e3; }

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}
Json or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

// What all lines begin with, and every other field as null, in the order of README.md.
Json blank(const Point& point, const Setting& setting) {
  Json line = {{"schema", line_schema},
               {"key", key_of(point)},
               {"point", to_json(point)},
               {"steps", point.steps},
               {"warmup", point.warmup},
               {"executor", setting.executor},
               {"exchange", or_null(setting.exchange)},
               {"machine", or_null(setting.machine)},
               {"shard", or_null(setting.shard)},
               {"repeat", setting.repeat},
               {"ranks", point.layout.ranks()},
               {"gpus", or_null(setting.gpus)},
               {"ranks_per_gpu", or_null(setting.ranks_per_gpu)},
               {"threads", setting.threads},
               {"oversubscribed", setting.oversubscribed}};
  line["status"] = nullptr;
  line["reason"] = nullptr;
  for (const char* name : {"ttl_us",
                           "samples_us",
                           "tokens_per_s_per_user",
                           "tokens_per_s_per_user_p90",
                           "tokens_per_s_per_gpu",
                           "tokens_per_s_per_rank",
                           "tasks_us",
                           "shared_cores",
                           "overhead_us",
                           "exchange_us",
                           "not_executed",
                           "bytes_per_rank",
                           "peak_resident_bytes",
                           "experts_touched",
                           "roofline",
                           "noise",
                           "card",
                           "device_bytes",
                           "peer_memory",
                           "verified"})
    line[name] = nullptr;
  line["environment"] = setting.environment;
  line["started"] = nullptr;
  return line;
}

Json to_json(const Statistics& ttl) {
  return {{"median", ttl.median},    {"p05", ttl.p05}, {"p90", ttl.p90}, {"p95", ttl.p95},
          {"p99", or_null(ttl.p99)}, {"min", ttl.min}, {"max", ttl.max}};
}

void set_times(Json& line, const Point& point, const Setting& setting, const Measured& measured) {
  const bool priced = measured.not_executed && !measured.not_executed->machine.empty();
  const double exposed_us = priced ? measured.not_executed->exposed_us : 0;
  std::vector<double> samples;
  for (const double sample : measured.samples_us) samples.push_back(to_ns(sample + exposed_us));
  const Statistics ttl = statistics(samples);
  const double tokens_per_s = 1e6 / ttl.median * static_cast<double>(point.batch);
  line["ttl_us"] = to_json(ttl);
  line["samples_us"] = samples;
  line["tokens_per_s_per_user"] = 1e6 / ttl.median;
  line["tokens_per_s_per_user_p90"] = 1e6 / ttl.p90;
  if (setting.gpus)
    line["tokens_per_s_per_gpu"] = tokens_per_s / static_cast<double>(*setting.gpus);
  line["tokens_per_s_per_rank"] = tokens_per_s / point.layout.ranks();
  line["noise"] = to_json(point.noise);
  if (point.noise.percent > 0)
    line["noise"]["reached_percent"] = or_null(median_error_percent(samples));
  if (!measured.roofline) return;
  Json floors = Json::object();
  Json computing = Json::array();
  for (const Roofline::Task& task : measured.roofline->tasks) {
    floors[task.name] = to_ns(task.floor_us);
    if (task.computes) computing.push_back(task.name);
  }
  line["roofline"] = {{"bytes", measured.roofline->bytes},
                      {"flops", measured.roofline->flops},
                      {"floor_us", measured.roofline->floor_us},
                      {"share", measured.roofline->floor_us / ttl.median},
                      {"tasks_us", std::move(floors)},
                      {"computing", std::move(computing)}};
}

// Overhead: what a step takes beyond its tasks, as for launches. Below 0 where kernels begin before
// those ahead of them have ended.
void set_tasks(Json& line, const Measured& measured) {
  Json tasks = Json::object();
  double sum_us = 0;
  for (const auto& [cover, us] : measured.tasks_us) {
    tasks[cover] = to_ns(us);
    sum_us += us;
  }
  line["tasks_us"] = std::move(tasks);
  if (const auto& cores = measured.shared_cores)
    line["shared_cores"] = {
        {"waited_us", to_ns(cores->waited_us)}, {"runs", cores->runs}, {"shared", cores->shared}};
  if (const auto& left_out = measured.not_executed) {
    Json priced = Json::object();
    for (const auto& [cover, us] : left_out->tasks_us) priced[cover] = to_ns(us);
    Json experts;
    if (const auto& e = left_out->experts)
      experts = {{"first", e->held.first}, {"count", e->held.count}, {"busiest_of", e->busiest_of}};
    line["not_executed"] = {{"tasks_us", std::move(priced)},
                            {"priced_on", or_null(left_out->machine)},
                            {"exposed_us", to_ns(left_out->exposed_us)},
                            {"hidden_us", to_ns(left_out->hidden_us)},
                            {"step_us", statistics(measured.samples_us).median},
                            {"experts", std::move(experts)}};
  }
  const double hidden_us = measured.exchange ? measured.exchange->hidden : 0;
  if (line["executor"] != "simulate")
    line["overhead_us"] = to_ns(statistics(measured.samples_us).median - (sum_us - hidden_us));
  if (!measured.exchange) return;
  line["exchange_us"] = {{"alone", to_ns(measured.exchange->alone)},
                         {"back_to_back", to_ns(measured.exchange->back_to_back)},
                         {"exposed", to_ns(measured.exchange->exposed)},
                         {"hidden", to_ns(measured.exchange->hidden)}};
}

void set_card(Json& line, const Measured& measured) {
  if (const auto& card = measured.card)
    line["card"] = {{"throttled", card->known ? Json(card->throttled) : Json()},
                    {"sm_clock_mhz", or_null(card->sm_clock_mhz)},
                    {"energy_j_per_token", or_null(card->energy_j_per_token)}};
  if (const auto& bytes = measured.device_bytes)
    line["device_bytes"] = {{"tensors", bytes->tensors},
                            {"workspaces", bytes->workspaces},
                            {"context", or_null(bytes->context)},
                            {"libraries", bytes->libraries}};
  line["peer_memory"] = or_null(measured.peer_memory);
}

// A string, or "" for null.
std::string text_or_null(const Node& node) { return node.is_null() ? "" : node.text(); }

}  // namespace

Identity identity_of(const Node& line) {
  return {.key = line["key"].text(),
          .executor = line["executor"].text(),
          .exchange = text_or_null(line["exchange"]),
          .machine = text_or_null(line["machine"]),
          .shard = text_or_null(line["shard"]),
          .repeat = line["repeat"].integer(1, no_limit)};
}

Identity identity_of(const Point& point, const Setting& setting) {
  return {.key = key_of(point),
          .executor = setting.executor,
          .exchange = setting.exchange,
          .machine = setting.machine,
          .shard = setting.shard,
          .repeat = setting.repeat};
}

std::span<const Fusion> fusions_of(const Node& line) {
  const std::string& executor = line["executor"].text();
  if (executor == "simulate") return line["gpus"].is_null() ? cpu_fusions() : gpu_fusions();
  return fusions_of(
      executor == name_of(ExecutorKind::cuda) ? ExecutorKind::cuda : ExecutorKind::cpu,
      line["exchange"].json() == name_of(ExchangeKind::fused) ? ExchangeKind::fused
                                                              : ExchangeKind::mpi);
}

Json ok_line(const Point& point, const Setting& setting, const Measured& measured) {
  Json line = blank(point, setting);
  line["status"] = "ok";
  set_times(line, point, setting, measured);
  set_tasks(line, measured);
  line["bytes_per_rank"] = {{"weights", measured.weight_bytes},
                            {"kv", measured.kv_bytes},
                            {"buffers", measured.buffer_bytes}};
  set_card(line, measured);
  line["peak_resident_bytes"] = or_null(measured.peak_resident_bytes);
  line["experts_touched"] = measured.experts_touched;
  for (const MeasuredDepth& depth : measured.depths) {
    std::vector<double> samples;
    for (const double sample : depth.samples_us) samples.push_back(to_ns(sample));
    line["measured_depths"].push_back({{"layers", depth.layers},
                                       {"ttl_us", to_json(statistics(samples))},
                                       {"samples_us", samples}});
  }
  if (measured.verified)
    line["verified"] = {{"scope", measured.verified->scope},
                        {"max_rel_err", measured.verified->max_rel_err},
                        {"tolerance", measured.verified->tolerance},
                        {"forced", measured.verified->forced}};
  line["started"] = or_null(measured.started);
  return line;
}

Json skipped_line(const Point& point, const Setting& setting, const std::string& reason) {
  Json line = blank(point, setting);
  line["status"] = "skipped";
  line["reason"] = reason;
  return line;
}

Json failed_line(const Point& point, const Setting& setting, const std::string& reason,
                 const std::string& started) {
  Json line = blank(point, setting);
  line["status"] = "failed";
  line["reason"] = reason;
  line["started"] = or_null(started);
  return line;
}

}  // namespace helix
