// From formats of a schedule to types of a kernel.
#pragma once

#include "base/format.h"

namespace helix::cpu {

// Calls f with null pointers of the types that the formats name.
template <class F>
void with_type(Format format, F&& f) {
  format == Format::bf16 ? f(static_cast<bf16*>(nullptr)) : f(static_cast<float*>(nullptr));
}
template <class F>
void with_types(Format first, Format second, F&& f) {
  with_type(first, [&]<class A>(A* a) { with_type(second, [&]<class B>(B* b) { f(a, b); }); });
}

}  // namespace helix::cpu
