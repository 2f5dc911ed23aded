// A passage as CUDA graphs. It is recorded before the first step, for each micro-batch with and
// without the judge's choices; what the exchange cannot do in a graph stands between two of them.
#include <numeric>

#include "execute/cuda/executor.h"
#include "execute/issue.h"

namespace helix::cuda {

namespace {

std::vector<int> listed_order(const Segment& segment) {
  std::vector<int> order(static_cast<size_t>(segment.end - segment.begin));
  std::iota(order.begin(), order.end(), segment.begin);
  return order;
}

}  // namespace

bool CudaExecutor::replayable() const {
  return graph_ && spans_ == nullptr && !hooks_.after && hooks_.newest == Newest::by_owner &&
         !hooks_.pages_swapped && recorded_.contains(passage_key());
}

void CudaExecutor::replay(const std::vector<Piece>& pieces) {
  for (const Piece& piece : pieces) {
    if (piece.task == nullptr)
      HELIX_CUDA(cudaGraphLaunch(piece.graph.get(), stream(Lane::compute)));
    else issue(*piece.task, layer_);
  }
}

void CudaExecutor::record_passages() {
  recorded_.clear();
  watched_passages_.clear();
  record_missing();
}

void CudaExecutor::record_missing() {
  for (int i = 0; graph_ && i < work_.layout.pp; ++i) {
    store_.turn_to(i);
    requests_ = store_.replicas()[static_cast<size_t>(schedule_.place.dp)];
    for (const bool forced : {false, true}) {
      if (forced && left_out_) continue;  // only timed
      forcing_ = forced_.count() > 0 && (forced || !work_.choices.empty());
      forcing_codes_ = forced && forced_codes_.count() > 0;
      if (!recorded_.contains(passage_key())) recorded_.emplace(passage_key(), record());
    }
  }
  forcing_ = forcing_codes_ = false;
}

std::vector<CudaExecutor::Piece> CudaExecutor::record() {
  std::vector<Piece> pieces;
  const bool exchanges_alone = watching(Watch::exchanges);
  const auto captured = [&](const auto& body) {
    capturing_ = true;
    for (LaneState& lane : lanes_) lane.after_kernel = false;
    pieces.push_back({capture(stream(Lane::compute), body), nullptr});
    HELIX_CUDA(cudaGraphUpload(pieces.back().graph.get(), stream(Lane::compute)));
    capturing_ = false;
  };
  // Layer by layer, the tasks up to the next that cannot stand in a graph.
  std::vector<std::pair<const Task*, int>> waiting;
  bool begun = false;
  const auto flush = [&] {
    if (waiting.empty() && begun) return;
    captured([&] {
      if (!std::exchange(begun, true)) begin_passage();
      if (watched_ != nullptr) stamp_stamps();
      for (const auto& [task, layer] : waiting) {
        layer_ = layer;
        issue(*task, layer);
        if (exchanges_alone ? task == waiting.back().first && layer == waiting.back().second
                            : watching(Watch::covers) && !folds_next(*task))
          stamp(static_cast<int>(task - schedule_.tasks.data()));
      }
    });
    waiting.clear();
  };
  for (const Segment& segment : schedule_.segments)
    for (int layer = segment.first_layer; layer < segment.first_layer + segment.layers; ++layer)
      for (const int i : one_lane() ? listed_order(segment) : issue_order(schedule_, segment)) {
        const Task& task = schedule_.tasks[static_cast<size_t>(i)];
        if (exchanges_alone && !communicates(task.op) && !folded(task)) continue;
        const bool fits = !communicates(task.op) || exchange_->captures(task);
        if (fits) {
          waiting.emplace_back(&task, layer);
          continue;
        }
        flush();
        pieces.push_back({{}, &task});
      }
  flush();
  return pieces;
}

}  // namespace helix::cuda
