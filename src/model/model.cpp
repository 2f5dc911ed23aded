#include "model/model.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numbers>

#include "model/weights.h"

namespace helix {

namespace fs = std::filesystem;

namespace {

constexpr int64_t most = int64_t{1} << 40;

Attention read_attention(const Node& node) {
  Attention a;
  if (node["kind"].choice({"gqa", "mla"}) == 0) {
    node.only({"kind", "query_heads", "kv_heads", "head_size", "qk_norm"});
    a.query_heads = node["query_heads"].integer(1, 65536);
    a.kv_heads = node["kv_heads"].integer(1, a.query_heads);
    a.head_size = a.value_size = node["head_size"].integer(2, 65536);
    a.qk_norm = node.has("qk_norm") && node["qk_norm"].boolean();
    if (a.query_heads % a.kv_heads != 0)
      node["kv_heads"].fail("must divide query_heads (" + std::to_string(a.query_heads) + ")");
    if (a.head_size % 2 != 0) node["head_size"].fail("must be even, RoPE turns pairs");
    return a;
  }
  node.only({"kind", "query_heads", "q_lora", "kv_lora", "nope", "rope", "v"});
  a.query_heads = node["query_heads"].integer(1, 65536);
  a.q_lora = node["q_lora"].is_null() ? 0 : node["q_lora"].integer(1, 65536);
  a.kv_lora = node["kv_lora"].integer(1, 65536);
  a.nope = node["nope"].integer(1, 65536);
  a.rope = node["rope"].integer(2, 65536);
  a.v = node["v"].integer(1, 65536);
  if (a.rope % 2 != 0) node["rope"].fail("must be even, RoPE turns pairs");
  a.kv_heads = 1;
  a.head_size = a.kv_lora + a.rope;
  a.value_size = a.kv_lora;
  return a;
}

Rope read_rope(const Node& node) {
  node.only({"theta", "interleaved", "scaling"});
  Rope r;
  r.theta = node["theta"].number(1, 1e12);
  r.interleaved = node.has("interleaved") && node["interleaved"].boolean();
  if (!node.has("scaling") || node["scaling"].is_null()) return r;
  const Node s = node["scaling"];
  r.factor = s["factor"].number(1, 1e6);
  r.original_positions = s["original_positions"].number(1, 1e12);
  if (s["kind"].choice({"llama3", "yarn"}) == 0) {
    s.only({"kind", "factor", "original_positions", "low", "high"});
    r.scaling = RopeScaling::llama3;
    r.low = s["low"].number(1e-6, 1e6);
    r.high = s["high"].number(1e-6, 1e6);
    if (r.high <= r.low) s["high"].fail("must be greater than low");
    return r;
  }
  s.only({"kind", "factor", "original_positions", "beta_fast", "beta_slow", "mscale_all_dim"});
  r.scaling = RopeScaling::yarn;
  r.beta_fast = s["beta_fast"].number(1e-6, 1e6);
  r.beta_slow = s["beta_slow"].number(1e-6, 1e6);
  r.mscale_all_dim = s["mscale_all_dim"].number(0, 1e3);
  return r;
}

Experts read_experts(const Node& node) {
  node.only({"count", "chosen", "width", "shared", "groups", "chosen_groups", "scoring", "bias",
             "renormalise", "scale"});
  Experts e;
  e.count = node["count"].integer(1, 65536);
  e.chosen = node["chosen"].integer(1, e.count);
  e.width = node["width"].integer(1, most);
  e.shared = node.has("shared") ? node["shared"].integer(0, 1024) : 0;
  e.groups = node.has("groups") ? node["groups"].integer(1, e.count) : 1;
  e.chosen_groups =
      node.has("chosen_groups") ? node["chosen_groups"].integer(1, e.groups) : e.groups;
  e.scoring =
      node["scoring"].choice({"softmax", "sigmoid"}) == 0 ? Scoring::softmax : Scoring::sigmoid;
  e.bias = node.has("bias") && node["bias"].boolean();
  e.renormalise = node["renormalise"].boolean();
  e.scale = node.has("scale") ? node["scale"].number(1e-6, 1e6) : 1;
  if (e.count % e.groups != 0)
    node["groups"].fail("must divide count (" + std::to_string(e.count) + ")");
  if (e.groups > 1 && e.count / e.groups < 2)
    node["groups"].fail("a group needs at least two experts");
  if (e.count / e.groups * e.chosen_groups < e.chosen)
    node["chosen_groups"].fail("the chosen groups hold fewer experts than a token chooses");
  return e;
}

// An upper bound, in numbers that do not overflow.
double most_parameters(const Model& m) {
  double sum = 0;
  for (int i = 0; i < weight_count; ++i) {
    auto values = static_cast<double>(m.layers);
    for (const int64_t extent : extents_of(m, static_cast<W>(i)))
      values *= static_cast<double>(extent);
    sum += values;
  }
  return sum;
}

}  // namespace

Model read_model(const std::string& path) {
  const Node node = read_json(path);
  node.only({"schema", "name", "layers", "dense_layers", "hidden", "ffn", "vocabulary",
             "max_positions", "norm_eps", "tied_embeddings", "marked", "attention", "rope",
             "experts"});
  node["schema"].choice({"helix-bench/model/1"});
  Model m;
  m.name = node["name"].text();
  if (m.name.empty() || m.name.find_first_of("/\\\n\r\t") != std::string::npos ||
      m.name.size() > 100)
    node["name"].fail("a model's name has 1 to 100 characters and no path in it");
  m.layers = node["layers"].integer(1, 10000);
  m.hidden = node["hidden"].integer(1, 1 << 24);
  m.vocabulary = node["vocabulary"].integer(2, 1 << 30);
  m.max_positions = node["max_positions"].integer(1, most);
  m.norm_eps = node["norm_eps"].number(0, 1);
  m.tied = node["tied_embeddings"].boolean();
  m.marked = node.has("marked") && node["marked"].boolean();
  m.attention = read_attention(node["attention"]);
  m.rope = read_rope(node["rope"]);
  const bool moe = node.has("experts") && !node["experts"].is_null();
  if (moe) m.experts = read_experts(node["experts"]);
  m.dense_layers = !moe                       ? m.layers
                   : node.has("dense_layers") ? node["dense_layers"].integer(0, m.layers)
                                              : 0;
  if (!moe && node.has("dense_layers"))
    node["dense_layers"].fail("has a meaning only with experts");
  if (m.dense_layers > 0 || node.has("ffn")) m.ffn = node["ffn"].integer(1, most);
  if (most_parameters(m) > 1e15) node.fail("has over 10^15 parameters");
  return m;
}

Model at_depth(const Model& model, int64_t layers) {
  Model cut = model;
  cut.layers = layers;
  if (cut.experts.count == 0) cut.dense_layers = layers;
  return cut;
}

std::string configs_folder() {
  if (const char* folder = std::getenv("HELIX_BENCH_CONFIGS")) return folder;
  std::error_code error;
  fs::path folder = fs::read_symlink("/proc/self/exe", error).parent_path();
  // build/helix-bench stands one folder below the repository, test programs two or three.
  for (int up = 0; up < 5 && !folder.empty(); ++up, folder = folder.parent_path())
    if (fs::is_directory(folder / "configs" / "models", error)) return folder / "configs";
  return "configs";
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(configs_folder() + "/models", error))
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem());
  std::sort(names.begin(), names.end());
  return names;
}

std::string preset_path(const std::string& name) {
  return configs_folder() + "/models/" + name + ".json";
}

Model load_model(const Node& where, const std::string& folder) {
  const std::string& name = where.text();
  if (name.find('/') != std::string::npos || name.ends_with(".json"))
    return read_model((fs::path(folder) / name).lexically_normal());
  const std::vector<std::string> names = preset_names();
  const std::vector<std::string_view> known(names.begin(), names.end());
  where.choice(known);
  return read_model(preset_path(name));
}

Precision read_precision(const Node& node) {
  node.only({"weights", "kv", "activations", "attention", "experts", "lm_head"});
  static constexpr std::string_view stored[] = {"fp32", "bf16", "fp8", "nvfp4", "fp4"};
  static constexpr std::string_view computed[] = {"fp32", "bf16"};
  const auto format = [&](const char* key) {
    return static_cast<Format>(node[key].choice(stored));
  };
  Precision p;
  p.weights = p.attention = p.experts = p.lm_head = format("weights");
  p.kv = format("kv");
  p.activations = static_cast<Format>(node["activations"].choice(computed));
  if (node.has("attention")) p.attention = format("attention");
  if (node.has("experts")) p.experts = format("experts");
  if (node.has("lm_head")) p.lm_head = format("lm_head");
  return p;
}

namespace {

// Llama 3: long waves are stretched by `factor`, short ones kept, those between blended.
double llama3_frequency(const Rope& r, double frequency) {
  const double turns = r.original_positions * frequency / (2 * std::numbers::pi);
  if (turns < r.low) return frequency / r.factor;
  if (turns > r.high) return frequency;
  const double kept = (turns - r.low) / (r.high - r.low);
  return (1 - kept) * frequency / r.factor + kept * frequency;
}

// YaRN (Peng et al. 2023): the dimension at which a wave makes `turns` turns over the original
// positions.
double yarn_dimension(const Rope& r, double size, double turns) {
  return size * std::log(r.original_positions / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(r.theta));
}

double yarn_frequency(const Rope& r, double size, double frequency, double pair) {
  const double low = std::max(0.0, std::floor(yarn_dimension(r, size, r.beta_fast)));
  const double high = std::min(size - 1, std::ceil(yarn_dimension(r, size, r.beta_slow)));
  const double ramp = std::clamp((pair - low) / std::max(high - low, 0.001), 0.0, 1.0);
  return frequency / r.factor * ramp + frequency * (1 - ramp);
}

}  // namespace

std::vector<double> rope_frequencies(const Model& model) {
  const Rope& r = model.rope;
  const int64_t size = model.attention.rotated();
  std::vector<double> frequencies;
  for (int64_t pair = 0; pair < size / 2; ++pair) {
    const double plain = std::pow(r.theta, -2.0 * double(pair) / double(size));
    frequencies.push_back(r.scaling == RopeScaling::llama3 ? llama3_frequency(r, plain)
                          : r.scaling == RopeScaling::yarn
                              ? yarn_frequency(r, double(size), plain, double(pair))
                              : plain);
  }
  return frequencies;
}

double softmax_scale(const Model& model) {
  const double plain = 1 / std::sqrt(double(model.attention.query_size()));
  if (model.rope.scaling != RopeScaling::yarn) return plain;
  const double m = 0.1 * model.rope.mscale_all_dim * std::log(model.rope.factor) + 1;
  return plain * m * m;
}

}  // namespace helix
