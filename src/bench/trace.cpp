#include "bench/trace.h"

#include <vector>

#include "base/json.h"
#include "execute/exchange/mpi.h"

namespace helix {

namespace {

Json named(const char* what, int rank, int lane, const std::string& name) {
  return {{"name", what}, {"ph", "M"}, {"pid", rank}, {"tid", lane}, {"args", {{"name", name}}}};
}

// This rank's events, one a line, with a comma before each but rank 0's first.
std::string events_of(int rank, const std::vector<Span>& spans) {
  std::vector<Json> events = {named("process_name", rank, 0, "rank " + std::to_string(rank)),
                              named("thread_name", rank, 0, "compute"),
                              named("thread_name", rank, 1, "exchange")};
  for (const Span& span : spans) {
    const Task& task = *span.task;
    Json chunk = task.chunk == all_chunks ? Json() : Json(task.chunk);
    const std::string together = span.with_next ? "+" + std::string((&task + 1)->name) : "";
    events.push_back({{"name", std::string(task.name) + together},
                      {"ph", "X"},
                      {"ts", span.begin_us},
                      {"dur", span.end_us - span.begin_us},
                      {"pid", rank},
                      {"tid", static_cast<int>(task.lane)},
                      {"args", {{"layer", span.layer}, {"chunk", std::move(chunk)}}}});
  }
  std::string text;
  for (const Json& event : events) text += (rank == 0 && text.empty() ? "" : ",\n") + event.dump();
  return text;
}

}  // namespace

std::string trace_step(MPI_Comm ranks, Executor& executor, const std::string& key) {
  int rank = 0;
  int size = 0;
  HELIX_MPI(MPI_Comm_rank(ranks, &rank));
  HELIX_MPI(MPI_Comm_size(ranks, &size));
  executor.rewind();
  const std::string mine = events_of(rank, executor.traced_step());
  const int bytes = count_of(static_cast<int64_t>(mine.size()));
  Counts counts;
  counts.receive.resize(static_cast<size_t>(size));
  HELIX_MPI(MPI_Gather(&bytes, 1, MPI_INT, counts.receive.data(), 1, MPI_INT, 0, ranks));
  int64_t total = 0;
  for (const int part : counts.receive) {
    counts.receive_at.push_back(count_of(total));
    total += part;
  }
  std::string all(rank == 0 ? static_cast<size_t>(total) : 0, ' ');
  HELIX_MPI(MPI_Gatherv(mine.data(), bytes, MPI_CHAR, all.data(), counts.receive.data(),
                        counts.receive_at.data(), MPI_CHAR, 0, ranks));
  if (rank != 0) return "";
  return "{\"displayTimeUnit\": \"ms\", \"otherData\": " + Json{{"key", key}}.dump() +
         ", \"traceEvents\": [\n" + all + "\n]}\n";
}

}  // namespace helix
