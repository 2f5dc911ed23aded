#include "execute/exchange/mpi.h"

#include <fmt/format.h>

#include <limits>

#include "base/error.h"

namespace helix {

void check_mpi(int code, const char* call, const char* file, int line) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  int rank = -1;
  MPI_Error_string(code, text, &length);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  throw RunError(fmt::format("rank {}: {}:{}: {}: {}", rank, file, line, call, text));
}

namespace {

bool finalized() {
  int flag = 0;
  return MPI_Finalized(&flag) != MPI_SUCCESS || flag != 0;
}

}  // namespace

Communicator::~Communicator() {
  if (comm_ != MPI_COMM_NULL && !finalized()) MPI_Comm_free(&comm_);
}

Communicator Communicator::split(MPI_Comm parent, int color, int key) {
  Communicator made;
  HELIX_MPI(MPI_Comm_split(parent, color < 0 ? MPI_UNDEFINED : color, key, &made.comm_));
  if (made) HELIX_MPI(MPI_Comm_set_errhandler(made.comm_, MPI_ERRORS_RETURN));
  return made;
}

Communicator Communicator::of_host(MPI_Comm parent) {
  Communicator made;
  HELIX_MPI(MPI_Comm_split_type(parent, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &made.comm_));
  HELIX_MPI(MPI_Comm_set_errhandler(made.comm_, MPI_ERRORS_RETURN));
  return made;
}

Communicator Communicator::duplicate(MPI_Comm parent) {
  Communicator made;
  HELIX_MPI(MPI_Comm_dup(parent, &made.comm_));
  HELIX_MPI(MPI_Comm_set_errhandler(made.comm_, MPI_ERRORS_RETURN));
  return made;
}

int Communicator::rank() const {
  int value = 0;
  HELIX_MPI(MPI_Comm_rank(comm_, &value));
  return value;
}

int Communicator::size() const {
  int value = 0;
  HELIX_MPI(MPI_Comm_size(comm_, &value));
  return value;
}

BlockType::BlockType(int64_t rows, int64_t block, int64_t stride) {
  MPI_Datatype vector = MPI_DATATYPE_NULL;
  HELIX_MPI(MPI_Type_create_hvector(count_of(rows), count_of(block), stride, MPI_BYTE, &vector));
  const int resized = MPI_Type_create_resized(vector, 0, block, &type_);
  MPI_Type_free(&vector);
  HELIX_MPI(resized);
  HELIX_MPI(MPI_Type_commit(&type_));
}

BlockType::~BlockType() {
  if (type_ != MPI_DATATYPE_NULL && !finalized()) MPI_Type_free(&type_);
}

Pending::~Pending() {
  // Only left over when an error ends the step; the world is aborted then.
  for (MPI_Request& request : requests_)
    if (request != MPI_REQUEST_NULL && !finalized()) MPI_Request_free(&request);
}

bool Pending::done(bool wait) {
  int flag = 1;
  const int count = static_cast<int>(requests_.size());
  if (wait) HELIX_MPI(MPI_Waitall(count, requests_.data(), MPI_STATUSES_IGNORE));
  else HELIX_MPI(MPI_Testall(count, requests_.data(), &flag, MPI_STATUSES_IGNORE));
  if (flag != 0) requests_.clear();
  return flag != 0;
}

int count_of(int64_t value) {
  if (value < 0 || value > std::numeric_limits<int>::max())
    throw RunError(fmt::format("a message of {} values is more than MPI counts", value));
  return static_cast<int>(value);
}

std::vector<std::string> gather_texts(MPI_Comm ranks, const std::string& mine) {
  int size = 0;
  HELIX_MPI(MPI_Comm_size(ranks, &size));
  const int length = count_of(static_cast<int64_t>(mine.size()));
  std::vector<int> lengths(static_cast<size_t>(size));
  std::vector<int> begins;
  begins.reserve(lengths.size());
  HELIX_MPI(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, ranks));
  int total = 0;
  for (const int part : lengths) begins.push_back(std::exchange(total, total + part));
  std::string all(static_cast<size_t>(total), ' ');
  HELIX_MPI(MPI_Allgatherv(mine.data(), length, MPI_CHAR, all.data(), lengths.data(), begins.data(),
                           MPI_CHAR, ranks));
  std::vector<std::string> texts;
  for (size_t i = 0; i < lengths.size(); ++i)
    texts.push_back(all.substr(static_cast<size_t>(begins[i]), static_cast<size_t>(lengths[i])));
  return texts;
}

}  // namespace helix
