#include "base/error.h"

#include <cerrno>
#include <system_error>

#include "base/text.h"

namespace helix {

namespace {

std::string located(std::string_view file, std::string_view pointer, std::string_view text) {
  std::string line = one_line(file, 1000) + ": ";
  if (!pointer.empty()) line += one_line(pointer, 600) + ": ";
  return line + one_line(text);
}

}  // namespace

InputError::InputError(const std::string& text) : std::runtime_error(one_line(text, 4000)) {}

InputError::InputError(std::string_view file, std::string_view pointer, std::string_view text)
    : std::runtime_error(located(file, pointer, text)) {}

void throw_errno(const std::string& what) {
  const int code = errno;
  throw RunError(what + ": " + std::generic_category().message(code));
}

}  // namespace helix
