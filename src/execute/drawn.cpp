#include "execute/drawn.h"

namespace helix {

// Inner axes that are whole are one run of values with the next outer one; two further axes are
// rows and runs of rows. Each index of the first axis is apart where there are more, or where keys
// are drawn larger than values.
std::vector<DrawnPart> drawn_parts(const Generator& generator, W weight, int64_t layer,
                                   const Part& part) {
  const Extents e = extents_of(generator.model(), weight);
  const float gain = generator.key_gain(weight);
  const auto is_whole = [&](int a) { return part[a].first == 0 && part[a].count == e[a]; };
  int axis = 3;
  while (axis > 0 && e[axis] == 1) --axis;
  const int last = gain == 1 ? 0 : 1;
  DrawnPart drawn{
      .draw = generator.draw(weight, layer), .first = part[axis].first, .width = part[axis].count};
  int64_t inner = e[axis];  // values of one index of the next outer axis
  while (axis > last && is_whole(axis)) {
    --axis;
    drawn.width = part[axis].count * inner;
    drawn.first = part[axis].first * inner;
    inner *= e[axis];
  }
  drawn.stride = inner;
  const bool apart = axis > 0 && (gain != 1 || axis == 3);
  for (int outer = axis - 1; outer >= (apart ? 1 : 0); --outer) {
    if (outer < axis - 1) {
      drawn.run = drawn.rows;
      drawn.jump = e[outer + 1];
    }
    drawn.rows *= part[outer].count;
    drawn.first += part[outer].first * inner;
    inner *= e[outer];
  }
  if (!apart) return {drawn};
  std::vector<DrawnPart> parts;
  for (int64_t i = 0; i < part[0].count; ++i) {
    DrawnPart one = drawn;
    one.begins = i * drawn.rows * drawn.width;
    one.first += (part[0].first + i) * inner;
    if (part[0].first + i == 0) one.draw.scale *= gain;
    parts.push_back(one);
  }
  return parts;
}

namespace {

DrawnPart tokens(const Generator::Draw& draw, const Generator::Positions& p, int64_t width) {
  return {.draw = draw,
          .first = p.first * width,
          .rows = p.count,
          .width = width,
          .stride = width,
          .run = p.run,
          .jump = p.jump};
}

}  // namespace

DrawnPart drawn_keys(const Generator& generator, const HistoryPart& h) {
  return tokens(generator.key_draw(h.layer, h.request, h.kv_head), h.positions,
                generator.model().attention.head_size);
}
DrawnPart drawn_values(const Generator& generator, const HistoryPart& h) {
  return tokens(generator.value_draw(h.layer, h.request, h.kv_head), h.positions,
                generator.model().attention.value_size);
}

}  // namespace helix
