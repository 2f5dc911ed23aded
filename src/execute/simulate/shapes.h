// Times between the shapes of a task that were timed.
//
// What a kernel takes is no share of a peak that holds for all shapes: it is flat in its rows and
// then jumps to the next tile, it waits for latencies where little is read. So it is times that are
// interpolated, between the two nearest numbers of requests (the rows of one product, the requests
// of one context) and then between the two nearest sizes of one request (other contexts, other
// weights). As far as the machine's factors (rates.h: fixed time, and the longest of reading,
// computing and sending) see why one takes longer than the other, a shape takes its part by them;
// the rest is a straight line. At a shape that was timed this is its time; between, it lies between
// its neighbours; beyond, it grows as the factors do; and nowhere does it jump. Where the factors
// are right it is what they say, and where a kernel is flat it is flat.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "execute/simulate/terms.h"
#include "machine/machine.h"

namespace helix::simulated {

using Shape = Machine::Shape;

// Of a cover in a step: one request's is of the requests' mean history, and of one expert.
Shape shape_of(const Terms& terms, double value_bytes, const Symbols& symbols);
// A step of `times` as many such requests.
Symbols scaled(Symbols symbols, double times);

class TimedShapes {
 public:
  TimedShapes() = default;
  explicit TimedShapes(std::span<const Machine::TimedShape> timed);
  bool empty() const { return kernels_.empty(); }

  // `factors`: what the machine's factors make of a shape. Needs one shape that was timed.
  double us(const Shape& shape, const std::function<double(const Shape&)>& factors) const;

 private:
  struct Knot {  // where a line bends
    double count, us;
  };
  struct Series {  // one request's bytes, and times by the number of requests
    double bytes;
    std::vector<Knot> knots;
  };
  struct Kernel {  // of another format, or another number of heads that share a history
    double value_bytes, flops_a_byte;
    std::vector<Series> series;
  };
  const Kernel& nearest(const Shape& shape) const;

  std::vector<Kernel> kernels_;
};

}  // namespace helix::simulated
