#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "bench/frontier.h"
#include "bench/recommend.h"
#include "layout/strategy.h"

namespace helix {

namespace {

constexpr size_t shown_answers = 3;

bool is_helix(const Answer& a) { return a.point.layout.strategy == "helix"; }
bool is_dcp(const Answer& a) { return a.point.layout.strategy == "dcp"; }
bool is_baseline(const Answer& a) { return find_strategy(a.point.layout.strategy)->baseline; }

// GPU time that a token costs, task by task.
struct Task {
  double us = 0;
  std::string_view bound;
};
using Tasks = std::map<std::string, Task>;
Tasks tasks_of(const Answer& answer, Pricer& pricer) {
  Tasks tasks;
  const double share = double(answer.gpus()) / double(answer.users());
  for (const CoverPrice& cover : pricer.price(answer.point).covers)
    tasks[std::string(cover.name)] = {cover.us * share, name_of(cover.bound)};
  return tasks;
}

std::string layout_of(const Answer& a) {
  const Layout& l = a.point.layout;
  std::string text = fmt::format("{} {}", l.strategy, layout_text(to_json(l)));
  if (l.mla == Mla::value) text += " value";
  if (l.moe == Moe::dispatch) text += " dispatch";
  if (a.point.hop_b) text += fmt::format(" HOP-B {}", a.point.chunks);
  if (a.copies > 1) text = fmt::format("{} x ({})", a.copies, text);
  return text;
}

std::string row(std::string_view head, const Answer& a) {
  return fmt::format("{:<9} {:<44} {:>7} {:>9.2f} {:>12.1f} {:>13.2f} {:>9.1f}\n", head,
                     layout_of(a), a.users(), a.ttl_us / 1e3, 1e6 / a.ttl_us, a.per_gpu(),
                     a.memory.total() / 1e9);
}

const Answer* first(const std::vector<Answer>& answers, bool (*wanted)(const Answer&)) {
  const auto at = std::ranges::find_if(answers, wanted);
  return at == answers.end() ? nullptr : &*at;
}

// The two tasks in which a loser spends most more than the best.
std::string why(const Tasks& best, const Tasks& other) {
  std::vector<std::pair<double, std::string>> more;
  for (const auto& [name, task] : other) {
    const auto known = best.find(name);
    const double by = task.us - (known == best.end() ? 0 : known->second.us);
    if (by > 0) more.emplace_back(by, fmt::format("{} +{:.1f} ({})", name, by, task.bound));
  }
  std::ranges::sort(more, std::ranges::greater());
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(2, more.size()); ++i)
    text += (i > 0 ? ", " : "") + more[i].second;
  return text.empty() ? "no task alone" : text;
}

std::string gain_text(const Question& q, const Answer& best, const Answer* rival,
                      std::string_view name) {
  if (rival == nullptr) return fmt::format("{}: no layout answers\n", name);
  const double gain = q.users ? rival->ttl_us / best.ttl_us : best.per_gpu() / rival->per_gpu();
  return fmt::format("against {:<9} {:.2f}x {}, users {} to {}, {:.2f} to {:.2f} tokens/s/GPU\n",
                     fmt::format("{}:", name), gain, q.users ? "as fast" : "tokens/s/GPU",
                     best.users(), rival->users(), best.per_gpu(), rival->per_gpu());
}

std::string verdict(const Question& q, const Answer* helix, const Answer* baseline) {
  if (helix == nullptr) return "Helix does not pay here: none of its layouts answers.\n";
  if (baseline != nullptr && !better(q, *helix, *baseline))
    return fmt::format(
        "Helix does not pay here: the Baseline's {} is {:.2f}x better than {}.\n",
        layout_of(*baseline),
        q.users ? helix->ttl_us / baseline->ttl_us : baseline->per_gpu() / helix->per_gpu(),
        layout_of(*helix));
  return "Helix pays here.\n";
}

void print(const Question& q, const std::vector<Answer>& found, Pricer& pricer) {
  const Answer& best = found.front();
  fmt::print("{} on {} GPUs of {}, {} tokens of context, {}\n{}\n\n", q.model->name, q.gpus,
             pricer.machine().name, q.context, to_json(q.precision).dump(),
             q.users ? fmt::format("least TTL for {} user{}", *q.users, *q.users == 1 ? "" : "s")
                     : fmt::format("most tokens/s/GPU within {:g} ms", *q.ttl_us / 1e3));
  fmt::print("{:<9} {:<44} {:>7} {:>9} {:>12} {:>13} {:>9}\n", "", "layout", "users", "TTL ms",
             "tok/s/user", "tok/s/GPU", "GB a GPU");
  for (size_t i = 0; i < std::min(shown_answers, found.size()); ++i)
    fmt::print("{}", row(fmt::format("{}.", i + 1), found[i]));
  const Answer* helix = first(found, is_helix);
  const Answer* baseline = first(found, is_baseline);
  const Answer* dcp = first(found, is_dcp);
  for (const auto& [name, answer] :
       {std::pair{"Helix", helix}, {"Baseline", baseline}, {"dcp", dcp}})
    if (answer != nullptr) fmt::print("{}", row(name, *answer));
  fmt::print("\n{}{}{}", verdict(q, helix, baseline), gain_text(q, best, baseline, "Baseline"),
             gain_text(q, best, dcp, "dcp"));
  const Tasks tasks = tasks_of(best, pricer);
  double total = 0;
  for (const auto& [name, task] : tasks) total += task.us;
  std::vector<std::pair<double, std::string>> shares;
  for (const auto& [name, task] : tasks)
    shares.emplace_back(task.us / total,
                        fmt::format("{} {:.0f} % ({})", name, task.us / total * 100, task.bound));
  std::ranges::sort(shares, std::ranges::greater());
  fmt::print("\nWhat a step of 1. takes, and what bounds it:\n");
  for (const auto& [share, text] : shares)
    if (share >= 0.02) fmt::print("  {}\n", text);
  fmt::print("\nWhy the next ones lose, in GPU µs a token:\n");
  std::vector<const Answer*> losers;
  for (size_t i = 1; i < std::min(shown_answers, found.size()); ++i) losers.push_back(&found[i]);
  for (const Answer* rival : {baseline, dcp, helix})
    if (rival != nullptr && rival != &best && std::ranges::find(losers, rival) == losers.end())
      losers.push_back(rival);
  for (const Answer* loser : losers)
    fmt::print("  {}: {}\n", layout_of(*loser), why(tasks, tasks_of(*loser, pricer)));
}

// "llama-3.1-405b needs 405.1 GB, gb200-nvl72 has 176.7 GB a GPU: 3 ranks at least, 2 were given".
std::string too_big(const Question& question, const Machine& machine) {
  Point one;
  one.model = question.model;
  one.precision = question.precision;
  one.context = {question.context, question.context};
  const double bytes = Planner().widest_rank(one).total();
  const auto least = static_cast<int64_t>(std::ceil(bytes / machine.usable_bytes()));
  std::string text = fmt::format(
      "{} with one request of {} tokens needs {:.0f} GB, {} has {:.0f} "
      "GB a GPU: {} ranks at least, {} {} given",
      question.model->name, question.context, bytes / 1e9, machine.name,
      machine.usable_bytes() / 1e9, least, question.gpus, question.gpus == 1 ? "was" : "were");
  if (least <= question.gpus) text += ", and no layout cuts it evenly enough";
  return text;
}

// Why nothing answers: the nearest that does.
[[noreturn]] void fail_unanswered(Question question, Pricer& pricer) {
  const auto asked = question;
  question.users = 1;
  question.ttl_us.reset();
  const std::vector<Answer> alone = answers(question, pricer);
  if (alone.empty()) throw InputError(too_big(question, pricer.machine()));
  if (asked.ttl_us)
    throw InputError(
        fmt::format("--ttl-ms {:g}: no layout is that fast; the nearest is {:.3f} ms, "
                    "{} with {} user{}",
                    *asked.ttl_us / 1e3, alone.front().ttl_us / 1e3, layout_of(alone.front()),
                    alone.front().users(), alone.front().users() == 1 ? "" : "s"));
  question.users.reset();
  question.ttl_us = 1e12;
  std::vector<Answer> most = answers(question, pricer);
  std::ranges::sort(most, std::ranges::greater(), &Answer::users);
  throw InputError(fmt::format("--users {}: so many do not fit on {} GPUs; the most are {}, {}",
                               *asked.users, asked.gpus, most.front().users(),
                               layout_of(most.front())));
}

Precision precision_of(const RecommendOptions& o, const Machine& machine) {
  const auto rate = [&](Format f) { return machine.product_tflops[static_cast<size_t>(f)]; };
  const std::string weights = !o.weights.empty()                        ? o.weights
                              : rate(Format::nvfp4) > rate(Format::fp8) ? "nvfp4"
                                                                        : "fp8";
  const Json json = {
      {"weights", weights}, {"kv", o.kv.empty() ? "fp8" : o.kv}, {"activations", "bf16"}};
  return read_precision(parse_json("--weights, --kv", json.dump()));
}

}  // namespace

int recommend(const RecommendOptions& options) {
  Pricer pricer(read_machine(options.machine));
  Question question;
  question.model = std::make_shared<const Model>(
      load_model(parse_json("--model", Json(options.model).dump()), "."));
  question.precision = precision_of(options, pricer.machine());
  question.gpus = options.gpus;
  question.context = options.context;
  question.users = options.users;
  if (options.ttl_ms) question.ttl_us = *options.ttl_ms * 1e3;
  const std::vector<Answer> found = answers(question, pricer);
  if (found.empty()) fail_unanswered(question, pricer);
  print(question, found, pricer);
  return static_cast<int>(Exit::done);
}

}  // namespace helix
