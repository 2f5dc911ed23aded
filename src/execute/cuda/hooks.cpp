// What verification looks at and changes: tensors after each task, and the judge's choices of
// experts and its codes of the newest tokens.
#include <algorithm>

#include "base/heartbeat.h"
#include "execute/cuda/copies.h"
#include "execute/cuda/executor.h"
#include "execute/forced_codes.h"
#include "execute/types.h"

namespace helix::cuda {

// What a hook has looked at goes back to the card, as it may have been changed.
void CudaExecutor::after(const Task& task, int layer) {
  if (!hooks_.after) return;
  hooks_.after(task, layer);
  for (auto& [at, staged] : staged_)
    write(std::span<const std::byte>(staged.bytes), staged.on_card.data());
  if (!staged_.empty()) lane_of(task).after_kernel = false;
  staged_.clear();
  beat();
}

TensorView CudaExecutor::view(Id tensor, int chunk) {
  const Id outputs = store_.holder(tensor);
  const std::span<std::byte> on_card = store_.bytes(outputs, chunk);
  const auto [at, made] = staged_.try_emplace(on_card.data());
  Staged& staged = at->second;
  if (made) {
    staged = {on_card, std::vector<std::byte>(on_card.size())};
    synchronise();
    read(on_card.data(), std::span(staged.bytes));
  }
  return view_at(staged.bytes.data(), tensor, chunk, store_.capacity());
}

// What the work gives is on the card from the beginning.
void CudaExecutor::force_choices() {
  forcing_ = forced_.count() > 0 && (hooks_.routing.judged || !work_.choices.empty());
  if (forcing_ && hooks_.routing.judged) write_choices();
}

// The choices for the passage in hand, a layer after another; what is left open is negative.
void CudaExecutor::write_choices() {
  forced_on_host_.assign(static_cast<size_t>(forced_.count() / work_.layout.pp), -1);
  const int first_layer = schedule_.segments.front().first_layer;
  const auto chosen = static_cast<size_t>(work_.model->experts.chosen);
  for (const Segment& segment : schedule_.segments)
    for (int t = segment.begin; t < segment.end; ++t) {
      const Task& task = schedule_.tasks[static_cast<size_t>(t)];
      if (task.op != Op::route) continue;
      const auto rows = static_cast<size_t>(array(task.reads[0], all_chunks).rows);
      for (int layer = segment.first_layer; layer < segment.first_layer + segment.layers; ++layer)
        for (size_t row = 0; row < rows; ++row) {
          const auto choice = forced_choice(layer, first_request(task) + static_cast<int64_t>(row));
          const auto at = (static_cast<size_t>(layer - first_layer) * rows + row) * chosen;
          std::ranges::copy(choice, forced_on_host_.begin() + static_cast<int64_t>(at));
        }
    }
  synchronise();
  write(std::span<const int32_t>(forced_on_host_), forced_now());
}

void CudaExecutor::note_choices(const Task& task, int layer) {
  synchronise();
  const auto experts = static_cast<size_t>(work_.model->experts.count);
  const auto chosen = static_cast<size_t>(work_.model->experts.chosen);
  const auto rows = static_cast<size_t>(array(task.reads[0], all_chunks).rows);
  std::vector<float> logits(rows * experts);
  std::vector<int32_t> own(rows * chosen);
  read(router_logits_.data(), std::span(logits));
  read(own_choice_.data(), std::span(own));
  const auto layers = static_cast<size_t>(layer - schedule_.segments.front().first_layer);
  for (size_t row = 0; row < rows; ++row) {
    if (forced_on_host_[(layers * rows + row) * chosen] < 0) continue;  // it was left open
    hooks_.routing.own(step_, layer, first_request(task) + static_cast<int64_t>(row),
                       std::span(logits).subspan(row * experts, experts),
                       std::span(own).subspan(row * chosen, chosen));
  }
}

int64_t CudaExecutor::codes_of_layer() const {
  return requests_.count * store_.cache().heads * store_.cache().token_bytes();
}

// The judge's codes for the passage in hand, a layer after another. It has none for the steps that
// the first stages of a pipeline are ahead: earlier ones stand, nobody looks at what follows.
void CudaExecutor::force_codes() {
  forcing_codes_ = hooks_.codes.judged && forced_codes_.count() > 0;
  judged_codes_ = false;
  if (!forcing_codes_) return;
  const KvCache& cache = store_.cache();
  const auto token = static_cast<size_t>(cache.token_bytes());
  forced_codes_on_host_.clear();
  for (int layer = schedule_.segments.front().first_layer;
       layer < schedule_.segments.back().first_layer; ++layer)
    for (int64_t row = 0; row < requests_.count; ++row) {
      const auto judged =
          hooks_.codes.judged(step_, layer, store_.now().requests.first + requests_.first + row);
      if (judged.empty()) return;
      const auto mine = judged.subspan(static_cast<size_t>(cache.first_head) * token,
                                       static_cast<size_t>(cache.heads) * token);
      forced_codes_on_host_.insert(forced_codes_on_host_.end(), mine.begin(), mine.end());
    }
  synchronise();
  write(std::span<const std::byte>(forced_codes_on_host_), forced_codes_.data());
  judged_codes_ = true;
}

void CudaExecutor::note_codes(int layer) {
  synchronise();
  const KvCache& cache = store_.cache();
  std::vector<std::byte> codes(static_cast<size_t>(codes_of_layer()));
  std::vector<int32_t> place(static_cast<size_t>(requests_.count));
  read(own_codes_.data(), std::span(codes));
  read(rows_now().append.data(), std::span(place));
  std::byte* own = codes.data();
  const std::byte* judged = forced_codes_on_host_.data() + layers_before(layer) * codes_of_layer();
  with_stored(cache.format, [&]<class K>(K*) {
    if constexpr (std::is_same_v<K, fp8> || std::is_same_v<K, nvfp4>)
      for (const int32_t at : place)
        for (int64_t head = cache.first_head; head < cache.first_head + cache.heads; ++head)
          for (const int64_t count : {cache.key_values, cache.value_values}) {
            const float scale = generator_.kv_scale(layer, head);
            if (at >= 0)
              helix::force_codes(values_at<const K>(judged, count, scale), count,
                                 values_at<K>(own, count, scale), hooks_.codes);
            judged += bytes_for<K>(count);
            own += bytes_for<K>(count);
          }
  });
}

}  // namespace helix::cuda
