#include "execute/exchange/groups.h"

namespace helix {

Groups::Groups(MPI_Comm ranks, const Place& me) {
  for (const Group& g : {me.kvp_group(), me.tpa_group(), me.replica(), me.dp_group(), me.stage()}) {
    // Of one rank, or the same as another: on every rank of the layout alike.
    if (g.size == 1 || made_.contains({g.size, g.first, g.stride})) continue;
    // A group is named by its first rank.
    made_[{g.size, g.first, g.stride}] = Communicator::split(ranks, g.first, g.index);
  }
}

}  // namespace helix
