// From formats of a schedule to types of a kernel.
#pragma once

#include "base/format.h"

namespace helix {

// Calls f with null pointers of the types that the formats name: of activations and of what stands
// in plain numbers (embedding, norms, router) …
template <class F>
void with_type(Format format, F&& f) {
  format == Format::bf16 ? f(static_cast<bf16*>(nullptr)) : f(static_cast<float*>(nullptr));
}
template <class F>
void with_types(Format first, Format second, F&& f) {
  with_type(first, [&]<class A>(A* a) { with_type(second, [&]<class B>(B* b) { f(a, b); }); });
}
// … and of what may be quantised: weights of products, the KV cache.
template <class F>
void with_stored(Format format, F&& f) {
  if (format == Format::fp8) f(static_cast<fp8*>(nullptr));
  else if (format == Format::nvfp4) f(static_cast<nvfp4*>(nullptr));
  else with_type(format, f);
}
template <class F>
void with_stored(Format stored, Format activations, F&& f) {
  with_stored(stored,
              [&]<class T>(T* t) { with_type(activations, [&]<class A>(A* a) { f(t, a); }); });
}

}  // namespace helix
