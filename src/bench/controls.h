// Negative controls: the errors of helix.md made on purpose in the executor, to show that
// verification fails on them.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "execute/executor.h"

namespace helix {

struct Control {
  std::string_view name;
  bool (*applies)(const Model& model, const Layout& layout);
  void (*inject)(Executor& executor, const Assignment& work);  // into its hooks
  // What the layout is changed to, where the error needs a choice that is not the strategy's own.
  Layout (*changed)(const Layout& layout) = [](const Layout& layout) { return layout; };
};
const std::vector<Control>& controls();

// The KV cache that controls need: every rank may append every token.
int64_t extra_steps(const Layout& layout, int64_t interval);

}  // namespace helix
