// Communicators of the groups of ranks in which a layout communicates.
#pragma once

#include <map>
#include <tuple>

#include "execute/exchange/mpi.h"

namespace helix {

class Groups {
 public:
  // Collective over `ranks`, the layout's: the same splits on every rank.
  Groups(MPI_Comm ranks, const Place& me);
  // A group of more than one rank of `me`'s.
  MPI_Comm of(const Group& group) const {
    return made_.at({group.size, group.first, group.stride}).get();
  }

 private:
  std::map<std::tuple<int, int, int>, Communicator> made_;  // size, first, stride
};

}  // namespace helix
