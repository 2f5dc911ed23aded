#include "bench/point.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/random.h"
#include "model/checkpoint.h"

namespace helix {

namespace {

constexpr uint64_t lengths_stream = 1100;  // apart from those of model/weights.cpp

Json null_or(std::string_view name) { return name == "null" ? Json() : Json(name); }

uint64_t hash_of(std::string_view text) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
  return mix(hash);
}

}  // namespace

Json to_json(const Layout& l) {
  return {{"strategy", l.strategy},
          {"pp", l.pp},
          {"dp", l.dp},
          {"kvp", l.kvp},
          {"tpa", l.tpa},
          {"tpf", l.tpf},
          {"ep", l.ep},
          {"query", null_or(name_of(l.query))},
          {"merge", null_or(name_of(l.merge))},
          {"mla", null_or(name_of(l.mla))},
          {"ffn", name_of(l.ffn)},
          {"moe", null_or(name_of(l.moe))}};
}

Json to_json(const Precision& p) {
  Json json = {{"weights", name_of(p.weights)},
               {"kv", name_of(p.kv)},
               {"activations", name_of(p.activations)}};
  if (p.attention != p.weights) json["attention"] = name_of(p.attention);
  if (p.experts != p.weights) json["experts"] = name_of(p.experts);
  if (p.lm_head != p.weights) json["lm_head"] = name_of(p.lm_head);
  return json;
}

Json to_json(const Context& context) {
  if (context.low == context.high) return context.low;
  return {{"uniform", {context.low, context.high}}};
}

Json to_json(const Point& p) {
  Json json = {{"model", p.model->name},
               {"layout", to_json(p.layout)},
               {"batch", p.batch},
               {"context", to_json(p.context)},
               {"precision", to_json(p.precision)},
               {"hop_b", p.hop_b},
               {"chunks", p.chunks},
               {"interval", p.interval},
               {"depths", p.depths ? Json{p.depths->first, p.depths->second} : Json()},
               {"query_tokens", 1},
               {"kv_layout", name_of(p.kv_layout)},
               {"routing", p.zipf ? Json{{"zipf", *p.zipf}} : Json()},
               {"seed", p.seed}};
  if (p.model->checkpoint) json["weights"] = p.model->checkpoint->folder();
  if (p.prompt) json["prompt"] = *p.prompt;
  return json;
}

// The text of to_json(point).dump(), several times as fast: a plan makes a key for each of 100 000
// points.
std::string canonical_text(const Point& p) {
  const Layout& l = p.layout;
  const Precision& f = p.precision;
  fmt::memory_buffer text;
  const auto out = std::back_inserter(text);
  const auto choice = [](std::string_view name) {
    return name == "null" ? std::string(name) : fmt::format("\"{}\"", name);
  };
  fmt::format_to(out, R"({{"model":{},"layout":{{"strategy":"{}")", Json(p.model->name).dump(),
                 l.strategy);
  fmt::format_to(out, R"(,"pp":{},"dp":{},"kvp":{},"tpa":{},"tpf":{},"ep":{})", l.pp, l.dp, l.kvp,
                 l.tpa, l.tpf, l.ep);
  fmt::format_to(out, R"(,"query":{},"merge":{},"mla":{},"ffn":"{}","moe":{}}})",
                 choice(name_of(l.query)), choice(name_of(l.merge)), choice(name_of(l.mla)),
                 name_of(l.ffn), choice(name_of(l.moe)));
  fmt::format_to(out, R"(,"batch":{},"context":)", p.batch);
  if (p.context.low == p.context.high) fmt::format_to(out, "{}", p.context.low);
  else fmt::format_to(out, R"({{"uniform":[{},{}]}})", p.context.low, p.context.high);
  fmt::format_to(out, R"(,"precision":{{"weights":"{}","kv":"{}","activations":"{}")",
                 name_of(f.weights), name_of(f.kv), name_of(f.activations));
  const auto differs = [&](std::string_view part, Format format) {
    if (format != f.weights) fmt::format_to(out, R"(,"{}":"{}")", part, name_of(format));
  };
  differs("attention", f.attention);
  differs("experts", f.experts);
  differs("lm_head", f.lm_head);
  fmt::format_to(out, R"(}},"hop_b":{},"chunks":{},"interval":{},"depths":)", p.hop_b, p.chunks,
                 p.interval);
  if (p.depths) fmt::format_to(out, "[{},{}]", p.depths->first, p.depths->second);
  else fmt::format_to(out, "null");
  fmt::format_to(out, R"(,"query_tokens":1,"kv_layout":"{}","routing":{},"seed":{})",
                 name_of(p.kv_layout),
                 p.zipf ? fmt::format(R"({{"zipf":{}}})", Json(*p.zipf).dump()) : "null", p.seed);
  if (p.model->checkpoint)
    fmt::format_to(out, R"(,"weights":{})", Json(p.model->checkpoint->folder()).dump());
  if (p.prompt) fmt::format_to(out, R"(,"prompt":[{}])", fmt::join(*p.prompt, ","));
  fmt::format_to(out, "}}");
  return fmt::to_string(text);
}

std::string key_of(const Point& point) {
  return fmt::format("{:016x}", hash_of(canonical_text(point)));
}

std::vector<int64_t> lengths_of(const Point& p) {
  std::vector<int64_t> lengths(static_cast<size_t>(p.batch), p.context.low);
  if (p.context.low == p.context.high) return lengths;
  const uint64_t stream = combine(p.seed, lengths_stream);
  const auto count = static_cast<unsigned __int128>(p.context.high - p.context.low) + 1;
  for (size_t i = 0; i < lengths.size(); ++i)
    lengths[i] += static_cast<int64_t>(combine(stream, i) * count >> 64);
  return lengths;
}

int64_t most_requests(const Point& p) {
  const auto part = [](int64_t n, int64_t parts) { return (n + parts - 1) / parts; };
  if (p.context.low == p.context.high) return part(part(p.batch, p.layout.pp), p.layout.dp);
  const std::vector<int64_t> lengths = lengths_of(p);
  int64_t most = 0;
  for (const Slice& batch : cut(lengths, p.layout.pp)) {
    const auto first = static_cast<size_t>(batch.first);
    const auto mine = std::span(lengths).subspan(first, static_cast<size_t>(batch.count));
    for (const Slice& replica : cut(mine, p.layout.dp)) most = std::max(most, replica.count);
  }
  return most;
}

}  // namespace helix
