// Rounds of messages: every layout's collectives, carried out between all ranks of one process,
// give what the collective means.
#include "execute/exchange/rounds.h"

#include <gtest/gtest.h>

#include <cstring>

#include "execute/cpu/generate.h"
#include "execute/issue.h"
#include "layout/strategy.h"

namespace helix {
namespace {

struct Rank {
  Schedule schedule;
  std::unique_ptr<Store> store;
  const Task& task(size_t i) const { return schedule.tasks[i]; }
};

std::vector<Rank> ranks_of(const Model& model, const Layout& layout, int chunks) {
  Assignment work{.model = &model,
                  .layout = layout,
                  .precision = {Format::fp32, Format::fp32, Format::fp32, Format::fp32,
                                Format::fp32, Format::fp32},
                  .chunks = chunks,
                  .lengths = {40, 7, 90, 3, 33, 64, 1, 12}};
  std::vector<Rank> ranks(static_cast<size_t>(layout.ranks()));
  for (size_t i = 0; i < ranks.size(); ++i) {
    ranks[i].schedule =
        build_schedule({&model, layout, work.precision, chunks}, static_cast<int>(i));
    ranks[i].store = std::make_unique<Store>(ranks[i].schedule, work, cpu::allocate);
  }
  return ranks;
}

// Small whole numbers: their sums are exact in any order, and tell ranks and places apart.
void fill(const Rank& rank, const Task& task) {
  for (const Id id : task.reads) {
    const auto bytes = rank.store->bytes(id, task.chunk);
    auto* values = reinterpret_cast<float*>(bytes.data());
    for (size_t i = 0; i < bytes.size() / sizeof(float); ++i)
      values[i] =
          static_cast<float>(rank.schedule.place.rank() * 4096 + static_cast<int>(i % 4093));
  }
}

// Messages meet as a library matches them: in order, between each two ranks.
void exchange(const std::vector<Rank>& ranks, size_t task) {
  std::vector<std::vector<Round>> rounds;
  for (const Rank& rank : ranks)
    rounds.push_back(rounds_of(rank.schedule, *rank.store, rank.task(task)));
  for (size_t round = 0; round < rounds.front().size(); ++round) {
    for (size_t from = 0; from < ranks.size(); ++from)
      for (size_t to = 0; to < ranks.size(); ++to) {
        std::vector<const Message*> sent, received;
        for (const Message& m : rounds[from][round].messages)
          if (m.peer == static_cast<int>(to)) sent.push_back(&m);
        for (const Message& m : rounds[to][round].messages)
          if (m.peer == static_cast<int>(from)) received.push_back(&m);
        ASSERT_EQ(sent.size(), received.size()) << ranks[from].task(task).name;
        for (size_t i = 0; i < sent.size(); ++i) {
          ASSERT_EQ(sent[i]->from_bytes, received[i]->to_bytes);
          std::memcpy(received[i]->to, sent[i]->from, static_cast<size_t>(sent[i]->from_bytes));
        }
      }
    for (const auto& of_rank : rounds)
      if (const auto& sum = of_rank[round].sum) {
        const auto* in = reinterpret_cast<const float*>(sum->from);
        for (int64_t i = 0; i < sum->count; ++i) {
          float total = 0;
          for (int part = 0; part < sum->parts; ++part) total += in[part * sum->count + i];
          reinterpret_cast<float*>(sum->out)[i] = total;
        }
      }
  }
}

std::vector<float> content(const Rank& rank, Id id, int chunk) {
  const auto bytes = rank.store->bytes(id, chunk);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

// What each member of the group holds before, in order.
std::vector<std::vector<float>> inputs(const std::vector<Rank>& ranks, const Rank& of,
                                       size_t task) {
  const Group& group = of.task(task).group;
  std::vector<std::vector<float>> all;
  for (int i = 0; i < group.size; ++i) {
    const int rank = group.first + i * group.stride;
    const Rank& member = ranks[static_cast<size_t>(rank)];
    all.push_back(content(member, member.task(task).reads[0], member.task(task).chunk));
  }
  return all;
}

void check_reduce(const std::vector<Rank>& ranks, const std::vector<std::vector<float>>& before,
                  const Rank& rank, size_t task) {
  const std::vector<float> after = content(rank, rank.task(task).writes[0], rank.task(task).chunk);
  ASSERT_EQ(after.size(), before.front().size()) << ranks.size();
  for (size_t i = 0; i < after.size(); ++i) {
    float total = 0;
    for (const auto& one : before) total += one[i];
    ASSERT_EQ(after[i], total) << rank.task(task).name << " value " << i;
  }
}

TEST(Rounds, GiveWhatEveryCollectiveMeans) {
  int64_t reduced = 0, gathered = 0, scattered = 0, exchanged = 0;
  for (const char* name : {"tiny-llama", "tiny-qwen3-moe", "tiny-deepseek"}) {
    const Model model = read_model(preset_path(name));
    for (const Strategy& strategy : strategies()) {
      LayoutQuery query;
      query.dp = {};
      query.query = strategy.query;
      query.merge = strategy.merge;
      for (const Layout& layout : layouts(model, {}, strategy, 4, query)) {
        const std::vector<Rank> ranks =
            ranks_of(model, layout, layout.kvp > 1 && layout.dp == 1 ? 2 : 1);
        for (size_t t = 0; t < ranks.front().schedule.tasks.size(); ++t) {
          const Op op = ranks.front().task(t).op;
          if (op != Op::all_reduce && op != Op::all_gather && op != Op::reduce_scatter &&
              op != Op::all_to_all)
            continue;
          for (const Rank& rank : ranks) fill(rank, rank.task(t));
          std::vector<std::vector<std::vector<float>>> before;
          for (const Rank& rank : ranks) before.push_back(inputs(ranks, rank, t));
          exchange(ranks, t);
          if (HasFatalFailure()) return;
          for (size_t r = 0; r < ranks.size(); ++r) {
            const Task& task = ranks[r].task(t);
            const auto after = content(ranks[r], task.writes[0], task.chunk);
            const auto index = static_cast<size_t>(task.group.index);
            if (op == Op::all_reduce) {
              check_reduce(ranks, before[r], ranks[r], t);
              ++reduced;
            } else if (op == Op::all_to_all) {
              const size_t part = after.size() / before[r].size();
              for (size_t i = 0; i < after.size(); ++i)
                ASSERT_EQ(after[i], before[r][i / part][index * part + i % part]) << task.name;
              ++exchanged;
            } else {  // as many values in all as came in, or one share of the sum of them
              double sum_before = 0, sum_after = 0;
              for (const auto& one : before[r])
                for (const float value : one) sum_before += value;
              for (const float value : after) sum_after += value;
              if (op == Op::all_gather) {
                EXPECT_EQ(sum_after, sum_before) << task.name;
                ++gathered;
              } else {
                EXPECT_LT(sum_after, sum_before);
                ++scattered;
              }
            }
          }
          if (HasFatalFailure()) return;
        }
      }
    }
  }
  EXPECT_GT(reduced, 100);
  EXPECT_GT(gathered, 100);
  EXPECT_GT(scattered, 10);
  EXPECT_GT(exchanged, 10);
}

// Under HOP-B attention of the next chunk is handed over before the exchange of this one.
TEST(IssueOrder, KeepsLanesAndWaitsAndLetsAttentionLead) {
  const Model model = read_model(preset_path("tiny-llama"));
  const Layout layout{
      .strategy = "helix", .kvp = 4, .tpf = 4, .query = Query::replicate, .merge = Merge::a2a};
  const Schedule s = build_schedule({&model, layout, {}, 3}, 1);
  for (const Segment& segment : s.segments) {
    const std::vector<int> order = issue_order(s, segment);
    std::vector<int> place(s.tasks.size(), -1);
    for (size_t i = 0; i < order.size(); ++i)
      place[static_cast<size_t>(order[i])] = static_cast<int>(i);
    ASSERT_EQ(std::ssize(order), segment.end - segment.begin);
    std::array<int, 2> last = {-1, -1};
    for (const int i : order) {
      const Task& task = s.tasks[static_cast<size_t>(i)];
      const auto lane = static_cast<size_t>(task.lane);
      EXPECT_GT(i, last.at(lane)) << "a lane keeps its order";
      last.at(lane) = i;
      for (const int after : task.after)
        EXPECT_LT(after < 0 ? -1 : place[static_cast<size_t>(after)],
                  place[static_cast<size_t>(i)]);
    }
    int last_attention = -1;
    int first_exchange = segment.end;
    for (int i = segment.begin; i < segment.end; ++i) {
      const Op op = s.tasks[static_cast<size_t>(i)].op;
      if (op == Op::attend)
        last_attention = std::max(last_attention, place[static_cast<size_t>(i)]);
      if (op == Op::all_to_all)
        first_exchange = std::min(first_exchange, place[static_cast<size_t>(i)]);
    }
    EXPECT_LE(last_attention, first_exchange);
  }
}

}  // namespace
}  // namespace helix
