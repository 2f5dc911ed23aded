#include "bench/recommend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "bench/frontier.h"
#include "layout/strategy.h"

namespace helix {

namespace {

constexpr int64_t most_batch = 1 << 16;

// The largest number from 1 on that is good, where good ones come first; 0: none.
template <class Good>
int64_t last_good(int64_t limit, Good good) {
  if (limit < 1 || !good(1)) return 0;
  int64_t low = 1;
  while (low * 2 <= limit && good(low * 2)) low *= 2;
  int64_t high = std::min(limit + 1, low * 2);  // not good, or not allowed
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (good(middle) ? low : high) = middle;
  }
  return low;
}

class Search {
 public:
  Search(const Question& question, Pricer& pricer) : question_(question), pricer_(pricer) {}

  // With its best batch; nullopt: it cannot answer.
  std::optional<Answer> answer(Point point) {
    const int64_t copies = question_.gpus / point.layout.ranks();
    if (question_.users) {
      if (copies > *question_.users) return std::nullopt;
      point.batch = (*question_.users + copies - 1) / copies;
      return priced(point, copies);
    }
    const auto in_time = [&](int64_t batch) {
      point.batch = batch;
      const Priced& price = pricer_.price(with_chunks(point));
      return price.fits() && price.ttl_us <= *question_.ttl_us;
    };
    // Where requests go evenly over replicas and micro-batches; fewer only where that is too many.
    const int64_t even = int64_t{point.layout.pp} * point.layout.dp;
    const int64_t times =
        last_good(most_batch / even, [&](int64_t n) { return in_time(n * even); });
    point.batch = times > 0 ? times * even : last_good(even - 1, in_time);
    if (point.batch == 0) return std::nullopt;
    return priced(point, copies);
  }

 private:
  // Chunks are never more than requests.
  static Point with_chunks(Point point) {
    point.chunks = std::min(point.chunks, most_requests(point));
    point.hop_b = point.chunks > 1;
    return point;
  }
  std::optional<Answer> priced(const Point& point, int64_t copies) {
    const Point whole = with_chunks(point);
    const Priced& price = pricer_.price(whole);
    if (!price.fits()) return std::nullopt;
    return Answer{whole, copies, price.ttl_us, price.memory};
  }

  const Question& question_;
  Pricer& pricer_;
};

}  // namespace

bool better(const Question& question, const Answer& a, const Answer& b) {
  const bool by_ttl = question.users.has_value();
  const auto worth = [&](const Answer& x) { return by_ttl ? -x.ttl_us : x.per_gpu(); };
  if (worth(a) != worth(b)) return worth(a) > worth(b);
  return a.memory.total() < b.memory.total();
}

std::vector<Point> candidates(const Question& q) {
  std::vector<Point> points;
  for (const int64_t ranks : divisors(q.gpus)) {
    LayoutQuery query;
    query.pp = query.dp = divisors(ranks);
    if (q.model->attention.mla()) query.tpa = {1, 2};
    query.mla = {Mla::latent, Mla::value};
    if (q.model->experts.count > 0) query.moe = {Moe::gather, Moe::dispatch};
    for (const Strategy& strategy : strategies()) {
      query.query = strategy.query;
      query.merge = strategy.merge;
      for (const Layout& layout : layouts(*q.model, q.precision, strategy, ranks, query))
        for (const int64_t chunks : {1, 2, 4}) {
          if (chunks > 1 && strategy.name != "helix") continue;
          Point point;
          point.model = q.model;
          point.precision = q.precision;
          point.layout = layout;
          point.context = {q.context, q.context};
          point.chunks = chunks;
          points.push_back(point);
        }
    }
  }
  return points;
}

std::vector<Answer> answers(const Question& question, Pricer& pricer) {
  std::vector<Answer> found;
  Search search(question, pricer);
  const std::vector<Point> points = candidates(question);
  for (size_t i = 0; i < points.size(); ++i) {
    const bool same = i > 0 && points[i].layout == points[i - 1].layout;
    if (!same) pricer.forget_layouts();
    std::optional<Answer> answer = search.answer(points[i]);
    if (!answer) continue;
    const bool again = same && !found.empty() && found.back().point.layout == points[i].layout;
    if (!again) found.push_back(*std::move(answer));
    else if (better(question, *answer, found.back())) found.back() = *std::move(answer);
  }
  std::ranges::stable_sort(
      found, [&](const Answer& a, const Answer& b) { return better(question, a, b); });
  return found;
}

}  // namespace helix
