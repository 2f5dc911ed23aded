#include "judge/tensors.h"

#include <omp.h>

#include <algorithm>
#include <utility>

#include "judge/stored.h"

namespace helix {

namespace {

constexpr int64_t block_values = 1 << 16;  // generated at a time: stays in a core's cache

int64_t volume(const Part& part) {
  int64_t product = 1;
  for (const Slice& slice : part) product *= slice.count;
  return product;
}

// Leading axes that are outputs; the others are contracted.
int row_axes(W weight) {
  switch (weight) {
    case W::kv:
    case W::experts_up: return 3;
    case W::q:
    case W::uk:
    case W::uv:
    case W::up:
    case W::shared_up:
    case W::experts_down: return 2;
    default: return 1;
  }
}

// Where a part begins in its whole tensor.
int64_t offset_of(const Extents& e, const Part& part) {
  int64_t offset = 0;
  for (int axis = 0; axis < 4; ++axis) offset = offset * e[axis] + part[axis].first;
  return offset;
}

// The rows of a part in blocks: index `block` of the last row axis's blocks, then of the axes
// before it.
struct RowBlocks {
  const Part& part;
  int axis;         // the last row axis
  int64_t columns;  // of the contraction
  int64_t rows;     // of a block
  int64_t along;    // blocks along the last row axis
  int64_t count;    // of all blocks

  RowBlocks(const Part& part, int axes) : part(part), axis(axes - 1), columns(1), count(1) {
    for (int i = axes; i < 4; ++i) columns *= part[i].count;
    rows = std::clamp<int64_t>(block_values / columns, 1, part[axis].count);
    along = (part[axis].count + rows - 1) / rows;
    count = along;
    for (int i = 0; i < axis; ++i) count *= part[i].count;
  }

  Part at(int64_t block) const {
    Part here = part;
    const int64_t first = block % along * rows;
    here[axis] = {part[axis].first + first, std::min(rows, part[axis].count - first)};
    block /= along;
    for (int i = axis - 1; i >= 0; block /= part[i].count, --i)
      here[i] = {part[i].first + block % part[i].count, 1};
    return here;
  }

  // The block's first row among the part's.
  int64_t row(int64_t block) const {
    return block / along * part[axis].count + block % along * rows;
  }
};

}  // namespace

double dot(const float* a, const double* b, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

Tensors::Tensors(const Generator& generator, int64_t cached_values, Beat beat)
    : generator_(generator),
      beat_(std::move(beat)),
      keep_(parameters(generator.model()) <= cached_values) {
  if (!beat_) beat_ = [] {};
}

Part Tensors::whole_part(W weight) const {
  const Extents e = extents_of(model(), weight);
  return {whole(e[0]), whole(e[1]), whole(e[2]), whole(e[3])};
}

void Tensors::draw(W weight, int64_t layer, const Part& part, float* out) const {
  if (!model().checkpoint) return generator_.weights(weight, layer, part, out);
  read_stored(model(), generator_.precision(), weight, layer, part, out);
  generator_.round(weight, layer, volume(part), out);
}

const float* Tensors::kept(W weight, int64_t layer) const {
  if (!keep_) return nullptr;
  const auto [entry, is_new] = memory_.try_emplace({weight, layer});
  std::vector<float>& values = entry->second;
  if (!is_new) return values.data();
  const Part part = whole_part(weight);
  values.resize(static_cast<size_t>(volume(part)));
  draw(weight, layer, part, values.data());
  beat_();
  return values.data();
}

Vector Tensors::times(W weight, int64_t layer, const Part& part, std::span<const double> x) const {
  const float* tensor = kept(weight, layer);
  const Extents extents = extents_of(model(), weight);
  const RowBlocks blocks(part, row_axes(weight));
  Vector y(static_cast<size_t>(volume(part) / blocks.columns));
#pragma omp parallel if (volume(part) > parallel_products)
  {
    std::vector<float> drawn(tensor ? 0 : static_cast<size_t>(blocks.rows * blocks.columns));
#pragma omp for schedule(static)
    for (int64_t block = 0; block < blocks.count; ++block) {
      const Part here = blocks.at(block);
      const float* rows = tensor ? tensor + offset_of(extents, here) : drawn.data();
      if (!tensor) draw(weight, layer, here, drawn.data());
      for (int64_t i = 0; i < here[blocks.axis].count; ++i)
        y[blocks.row(block) + i] = dot(rows + i * blocks.columns, x.data(), blocks.columns);
      if (omp_get_thread_num() == 0) beat_();
    }
  }
  return y;
}

Vector Tensors::values(W weight, int64_t layer, const Part& part) const {
  std::vector<float> drawn(static_cast<size_t>(volume(part)));
  draw(weight, layer, part, drawn.data());
  if (omp_get_thread_num() == 0) beat_();
  return {drawn.begin(), drawn.end()};
}

Vector Tensors::times(W weight, int64_t layer, std::span<const double> x) const {
  return times(weight, layer, whole_part(weight), x);
}

Vector Tensors::times(W weight, int64_t layer, int64_t first, std::span<const double> x) const {
  Part part = whole_part(weight);
  part[0] = {first, 1};
  return times(weight, layer, part, x);
}

Vector Tensors::values(W weight, int64_t layer) const {
  const Part all = whole_part(weight);
  if (const float* tensor = kept(weight, layer)) return {tensor, tensor + volume(all)};
  return values(weight, layer, all);
}

Vector Tensors::values(W weight, int64_t layer, int64_t first) const {
  Part part = whole_part(weight);
  part[0] = {first, 1};
  return values(weight, layer, part);
}

}  // namespace helix
