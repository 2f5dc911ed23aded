#include "execute/simulate/shapes.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace helix::simulated {

namespace {

// Shapes of one kernel, and of one request: what rounding and the newest token make of them.
constexpr double same_kernel = 1.1;
constexpr double same_bytes = 1 + 1e-6;

bool alike(double a, double b, double times) { return std::max(a, b) <= times * std::min(a, b); }

// Formats are other kernels, and lie far apart.
double distance(const Shape& a, double value_bytes, double flops_a_byte) {
  const auto octaves = [](double x, double y) {
    return std::abs(std::log2(std::max(x, 1e-3) / std::max(y, 1e-3)));
  };
  return 4 * octaves(a.value_bytes, value_bytes) + octaves(a.flops_a_byte, flops_a_byte);
}

template <class Item, class Same>
Item& known_or_new(std::vector<Item>& items, const Same& same, Item anew) {
  const auto known = std::ranges::find_if(items, same);
  return known != items.end() ? *known : items.emplace_back(std::move(anew));
}

// Of items in order of `place`: the two between which `x` lies, which are one beyond the ends.
template <class Item>
auto around(const std::vector<Item>& items, double x, double Item::*place) {
  const auto above = std::ranges::lower_bound(items, x, {}, place);
  const auto high = above == items.end() ? above - 1 : above;
  const auto low = above == items.begin() || above == items.end() ? high : above - 1;
  return std::pair(low, high);
}

struct End {  // of a line: a size, its time, and what the factors make of it
  double size, us, made;
};

// The rise that the factors see, in proportion to the low end's time, and what is left of it in
// proportion to the size. Beyond an end, which is then both: as the factors grow.
double between(const End& low, const End& high, double size, double made) {
  if (low.size == high.size) return low.us * made / low.made;
  const double rise = high.us - low.us, seen = high.made - low.made;
  const double scale = rise > 0 && seen > 0 ? std::min(low.us / low.made, rise / seen) : 0;
  return low.us + scale * (made - low.made) +
         (rise - scale * seen) * (size - low.size) / (high.size - low.size);
}

}  // namespace

Symbols scaled(Symbols symbols, double times) {
  for (size_t i = 1; i < symbol_count; ++i) symbols[i] *= times;
  return symbols;
}

Shape shape_of(const Terms& terms, double value_bytes, const Symbols& symbols) {
  Symbols one = symbols;
  if (symbols[rows_symbol] > 0) one = scaled(symbols, 1 / symbols[rows_symbol]);
  for (const size_t counted : {newest_symbol, looked_up_symbol, touched_symbol, routed_symbol})
    one[counted] = 1;
  const double early = dot(terms.early, one), late = dot(terms.late, one);
  const double flops = dot(terms.flops, one);
  const double shared = terms.early[0];  // by all requests, as a product's weights
  const double count = early > shared ? (dot(terms.early, symbols) - shared) / (early - shared)
                       : flops > 0    ? dot(terms.flops, symbols) / flops
                       : late > 0     ? dot(terms.late, symbols) / late
                                      : 1;
  return {.value_bytes = value_bytes,
          .flops_a_byte = early > 0 ? flops / early : 0,
          .bytes = early + late,
          .count = count};
}

TimedShapes::TimedShapes(std::span<const Machine::TimedShape> timed) {
  for (const Machine::TimedShape& one : timed) {
    const Shape& s = one.shape;
    Kernel& kernel =
        known_or_new(kernels_,
                     [&](const Kernel& k) {
                       return k.value_bytes == s.value_bytes &&
                              alike(k.flops_a_byte, s.flops_a_byte, same_kernel);
                     },
                     {.value_bytes = s.value_bytes, .flops_a_byte = s.flops_a_byte, .series = {}});
    Series& series = known_or_new(
        kernel.series, [&](const Series& known) { return alike(known.bytes, s.bytes, same_bytes); },
        {.bytes = s.bytes, .knots = {}});
    series.knots.push_back({.count = s.count, .us = one.us});
  }
  for (Kernel& kernel : kernels_) {
    std::ranges::sort(kernel.series, {}, &Series::bytes);
    for (Series& series : kernel.series) std::ranges::sort(series.knots, {}, &Knot::count);
  }
}

const TimedShapes::Kernel& TimedShapes::nearest(const Shape& shape) const {
  return *std::ranges::min_element(kernels_, {}, [&](const Kernel& kernel) {
    return distance(shape, kernel.value_bytes, kernel.flops_a_byte);
  });
}

double TimedShapes::us(const Shape& shape,
                       const std::function<double(const Shape&)>& factors) const {
  const Kernel& kernel = nearest(shape);
  Shape known = shape;  // as near as was timed
  if (!alike(shape.flops_a_byte, kernel.flops_a_byte, same_kernel))
    known.flops_a_byte = kernel.flops_a_byte;
  const auto made = [&](double bytes, double count) {
    return factors({known.value_bytes, known.flops_a_byte, bytes, count});
  };
  const auto along = [&](const Series& series) {
    const auto end = [&](const Knot& k) { return End{k.count, k.us, made(series.bytes, k.count)}; };
    const auto [low, high] = around(series.knots, shape.count, &Knot::count);
    return between(end(*low), end(*high), shape.count, made(series.bytes, shape.count));
  };
  const auto end = [&](const Series& s) {
    return End{s.bytes, along(s), made(s.bytes, shape.count)};
  };
  const auto [low, high] = around(kernel.series, shape.bytes, &Series::bytes);
  const double here = made(shape.bytes, shape.count);
  return between(end(*low), end(*high), shape.bytes, here) * factors(shape) / here;
}

}  // namespace helix::simulated
