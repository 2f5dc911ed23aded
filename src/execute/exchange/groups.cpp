#include "execute/exchange/groups.h"

namespace helix {

Groups::Groups(MPI_Comm ranks, const Place& me) {
  for (const Group& g : {me.kvp_group(), me.tpa_group(), me.replica(), me.dp_group(), me.stage()}) {
    // A group is named by its first rank.
    Communicator made = Communicator::split(ranks, g.first, g.index);
    if (g.size > 1) made_.try_emplace({g.size, g.first, g.stride}, std::move(made));
  }
}

}  // namespace helix
