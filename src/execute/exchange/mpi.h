// MPI with every return code checked, and handles that free themselves.
#pragma once

// The C++ bindings of Open MPI 4 are not used, and do not compile without warnings.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "layout/layout.h"

namespace helix {

// Throws RunError with the call's text, file, line and rank.
void check_mpi(int code, const char* call, const char* file, int line);
#define HELIX_MPI(call) ::helix::check_mpi((call), #call, __FILE__, __LINE__)

class Communicator {
 public:
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  Communicator(Communicator&& other) noexcept : comm_(std::exchange(other.comm_, MPI_COMM_NULL)) {}
  Communicator& operator=(Communicator&& other) noexcept {
    std::swap(comm_, other.comm_);
    return *this;
  }
  ~Communicator();

  // Collective over `parent`. Ranks of a negative colour get an empty communicator.
  static Communicator split(MPI_Comm parent, int color, int key);
  static Communicator duplicate(MPI_Comm parent);
  static Communicator of_host(MPI_Comm parent);  // the ranks of this one's

  MPI_Comm get() const { return comm_; }
  explicit operator bool() const { return comm_ != MPI_COMM_NULL; }
  int rank() const;
  int size() const;

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;
};

// `rows` blocks of `block` bytes, `stride` bytes apart, and the next such thing starts `block`
// bytes further: one rank's heads in [rows][heads][D].
class BlockType {
 public:
  BlockType() = default;
  BlockType(int64_t rows, int64_t block, int64_t stride);
  BlockType(const BlockType&) = delete;
  BlockType& operator=(const BlockType&) = delete;
  BlockType(BlockType&& other) noexcept : type_(std::exchange(other.type_, MPI_DATATYPE_NULL)) {}
  BlockType& operator=(BlockType&& other) noexcept {
    std::swap(type_, other.type_);
    return *this;
  }
  ~BlockType();
  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_ = MPI_DATATYPE_NULL;
};

// One exchange under way: what it waits for, and which of its messages come next.
class Pending {
 public:
  Pending() = default;
  Pending(const Pending&) = delete;
  Pending& operator=(const Pending&) = delete;
  ~Pending();
  MPI_Request* request() {
    return &requests_.emplace_back(MPI_REQUEST_NULL);
  }                      // one more to wait for
  bool done(bool wait);  // progresses MPI
  int phase = 0;

 private:
  std::vector<MPI_Request> requests_;
};

// Counts and displacements for the v-collectives must live until they end.
struct Counts {
  std::vector<int> send, send_at, receive, receive_at;
};

// Narrowing that fails aloud: MPI counts are int.
int count_of(int64_t value);

// All ranks' texts, in order of the ranks, on all of them. Collective.
std::vector<std::string> gather_texts(MPI_Comm ranks, const std::string& mine);

}  // namespace helix
