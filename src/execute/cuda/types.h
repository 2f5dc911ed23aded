// From formats of a schedule to types of a kernel.
#pragma once

#include "base/format.h"

namespace helix::cuda {

template <class F>
void with_type(Format format, F&& f) {
  format == Format::bf16 ? f(static_cast<bf16*>(nullptr)) : f(static_cast<float*>(nullptr));
}
// What is stored (a weight, the KV cache) beside activations: as precise, or bf16. The other
// combination is refused before an executor is made.
template <class F>
void with_types(Format stored, Format activations, F&& f) {
  if (activations == Format::bf16) f(static_cast<bf16*>(nullptr), static_cast<bf16*>(nullptr));
  else with_type(stored, [&]<class T>(T* t) { f(t, static_cast<float*>(nullptr)); });
}

}  // namespace helix::cuda
