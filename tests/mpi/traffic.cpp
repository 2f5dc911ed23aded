// ranks: 8 timeout: 240
// No strategy is a renamed other: what each rank hands to MPI in a step, and what it allocates,
// equal the schedule's counts exactly. The calls are counted by interposing on MPI's profiling
// interface.
#include <gtest/gtest.h>

#include <map>

#include "base/random.h"
#include "bench/world.h"
#include "execute/cpu/executor.h"
#include "layout/strategy.h"

namespace {

struct Traffic {
  int messages = 0;
  int64_t bytes = 0;
  friend bool operator==(const Traffic&, const Traffic&) = default;
};
bool counting = false;
std::map<int, Traffic> by_group;  // the size of the communicator; 0: point to point

int64_t size_of(MPI_Datatype type) {
  int size = 0;
  PMPI_Type_size(type, &size);
  return size;
}

void count(MPI_Comm comm, int messages, int64_t bytes) {
  if (!counting) return;
  int size = 0;
  PMPI_Comm_size(comm, &size);
  by_group[size].messages += messages;
  by_group[size].bytes += bytes;
}

}  // namespace

extern "C" {

int MPI_Ialltoallv(const void* send, const int counts[], const int at[], MPI_Datatype type,
                   void* receive, const int receive_counts[], const int receive_at[],
                   MPI_Datatype receive_type, MPI_Comm comm, MPI_Request* request) {
  int rank = 0;
  int size = 0;
  PMPI_Comm_rank(comm, &rank);
  PMPI_Comm_size(comm, &size);
  int64_t bytes = 0;
  for (int i = 0; i < size; ++i) bytes += i == rank ? 0 : counts[i] * size_of(type);
  count(comm, size - 1, bytes);
  return PMPI_Ialltoallv(send, counts, at, type, receive, receive_counts, receive_at, receive_type,
                         comm, request);
}

int MPI_Iallgatherv(const void* send, int send_count, MPI_Datatype type, void* receive,
                    const int counts[], const int at[], MPI_Datatype receive_type, MPI_Comm comm,
                    MPI_Request* request) {
  int rank = 0;
  int size = 0;
  PMPI_Comm_rank(comm, &rank);
  PMPI_Comm_size(comm, &size);
  const int64_t mine =
      send == MPI_IN_PLACE ? counts[rank] * size_of(receive_type) : send_count * size_of(type);
  count(comm, size - 1, mine * (size - 1));
  return PMPI_Iallgatherv(send, send_count, type, receive, counts, at, receive_type, comm, request);
}

int MPI_Isend(const void* data, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm,
              MPI_Request* request) {
  if (counting) by_group[0].messages += 1, by_group[0].bytes += n * size_of(type);
  return PMPI_Isend(data, n, type, to, tag, comm, request);
}

}  // extern "C"

namespace helix {
namespace {

void expect(const Schedule& s, const StepState& state, std::map<int, Traffic>& sum) {
  for (const Segment& g : s.segments)
    for (int i = g.begin; i < g.end; ++i) {
      const Task& task = s.tasks[static_cast<size_t>(i)];
      if (!communicates(task.op)) continue;
      const Cost c = cost(s, task, state);
      const bool pairwise =
          task.op == Op::shift || task.op == Op::dispatch || task.op == Op::combine;
      Traffic& t = sum[pairwise ? 0 : task.group.size];
      t.messages += c.messages * g.layers;
      t.bytes += std::llround(c.sent * g.layers);  // what is routed is a mean over the layers
    }
}
// A step is the passage of each micro-batch. What is routed is known when it is over; all else but
// lookups does not change from step to step.
std::map<int, Traffic> expected(const Executor& executor) {
  std::map<int, Traffic> sum;
  for (int i = 0; i < executor.schedule().place.l.pp; ++i)
    expect(executor.schedule(), executor.state(i), sum);
  return sum;
}

std::string text(const std::map<int, Traffic>& traffic) {
  std::string out;
  for (const auto& [size, t] : traffic)
    out += "group of " + std::to_string(size) + ": " + std::to_string(t.messages) + " messages, " +
           std::to_string(t.bytes) + " bytes; ";
  return out;
}

constexpr Format formats_to_run[] = {Format::fp32, Format::bf16, Format::fp8, Format::nvfp4};
Precision stored_in(Format f) {
  return {f, f, f == Format::fp32 ? Format::fp32 : Format::bf16, f, f, f};
}

void check_point(World& world, const Model& model, const Layout& layout, Format f, int chunks) {
  Assignment work;
  work.model = &model;
  work.layout = layout;
  work.precision = stored_in(f);
  work.chunks = chunks;
  work.interval = 16;
  work.lengths = {40, 0, 129, 16, 17};
  work.kv_layout = layout.tpf % 2 == 0 ? KvLayout::paged : KvLayout::dense;
  work.steps = 2;
  const Communicator& ranks = world.first(layout.ranks());
  if (ranks) {
    cpu::CpuExecutor executor(ranks.get(), work);
    const Schedule& s = executor.schedule();
    by_group.clear();
    executor.fill();
    counting = true;
    executor.step();
    counting = false;
    const auto wanted = expected(executor);
    EXPECT_EQ(by_group, wanted) << model.name << " " << describe(layout) << " chunks " << chunks
                                << "\n  sent     " << text(by_group) << "\n  schedule "
                                << text(wanted);
    const Memory planned = memory(
        s, capacities_of(s, model, {work.lengths, work.interval, 0, work.kv_layout}, work.steps));
    const Memory taken = executor.allocated();
    EXPECT_EQ(taken.weights, planned.weights) << describe(layout);
    EXPECT_EQ(taken.kv, planned.kv) << describe(layout);
    EXPECT_EQ(taken.buffers, planned.buffers) << describe(layout);
  }
  world.meet();
}

TEST(Traffic, EqualsTheSchedule) {
  World world;
  for (const char* name : {"tiny-llama", "tiny-deepseek", "tiny-qwen3-moe"}) {
    const Model model = read_model(preset_path(name));
    LayoutQuery query;
    query.pp = query.dp = {};
    for (const Strategy& strategy : strategies())
      for (const int n : {2, 4, 6, 8})
        for (const Layout& l : layouts(model, {}, strategy, n, query)) {
          if (combine(static_cast<uint64_t>(n), uint64_t{64} * l.tpa + uint64_t{8} * l.kvp + l.ep) %
                      3 !=
                  0 &&
              n > 4)
            continue;
          Format f = formats_to_run[(l.kvp + l.tpf + l.tpa) % 4];
          if (refuse(model, stored_in(f), l)) f = Format::bf16;
          check_point(world, model, l, f, 1);
          if (l.kvp > 1 && l.dp == 1 && l.pp == 1) check_point(world, model, l, f, 3);
        }
  }
}

// Bytes that are really resident grow as planned: a KV cache of about 1 GB.
TEST(Traffic, ResidentMemoryGrowsAsPlanned) {
  World world;
  const Model model = read_model(preset_path("tiny-llama"));
  const auto resident = [] {
    std::FILE* file = std::fopen("/proc/self/statm", "r");
    long pages = 0;
    long in_memory = 0;
    if (std::fscanf(file, "%ld %ld", &pages, &in_memory) != 2) in_memory = 0;
    std::fclose(file);
    return static_cast<double>(in_memory) * 4096;
  };
  Assignment work;
  work.model = &model;
  work.layout = {
      .strategy = "helix", .kvp = 2, .tpf = 2, .query = Query::replicate, .merge = Merge::a2a};
  work.precision = {Format::fp32, Format::fp32, Format::fp32,
                    Format::fp32, Format::fp32, Format::fp32};
  work.lengths.assign(4, 250'000);
  const Communicator& ranks = world.first(2);
  if (ranks) {
    const double before = resident();
    const cpu::CpuExecutor executor(ranks.get(), work);
    const double grown = resident() - before;
    const double planned = executor.allocated().total();
    EXPECT_GE(planned, 1e9);
    EXPECT_NEAR(grown, planned, 0.03 * planned);
  }
  world.meet();
}

}  // namespace
}  // namespace helix
