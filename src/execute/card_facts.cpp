#include "execute/card_facts.h"

#include <fmt/format.h>

namespace helix {

std::string cuda_version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

// Since 2.9 the major number has four digits behind it, before three.
std::string nccl_version_text(int code) {
  const int unit = code < 10000 ? 1000 : 10000;
  return fmt::format("{}.{}.{}", code / unit, code % unit / 100, code % 100);
}

int card_of_rank(int local_rank, int visible) { return local_rank % visible; }

std::string driver_refusal(const CardFacts& card) {
  if (card.toolkit == 0)
    return "this program was built without CUDA: `make info` says what was found, `make CUDA=1` "
           "builds with nvcc of CUDA_HOME; --executor cpu needs no GPU";
  if (card.driver == 0)
    return "no GPU can be used here: no driver is loaded (libcuda.so.1); a container needs --gpus "
           "all";
  // Within a major version each driver runs programs of all minor ones.
  if (card.driver / 1000 < card.toolkit / 1000)
    return fmt::format(
        "the driver is for CUDA {}, older than the toolkit of this program, {}: update the driver, "
        "or build with a CUDA_HOME of {}.x",
        cuda_version_text(card.driver), cuda_version_text(card.toolkit), card.driver / 1000);
  return "";
}

std::string visibility_refusal(const CardFacts& card) {
  if (card.visible == 0)
    return fmt::format(
        "no GPU can be used here: {} (driver for CUDA {}); CUDA_VISIBLE_DEVICES says which are "
        "visible, and a container needs --gpus all",
        card.error.empty() ? "none is visible" : card.error, cuda_version_text(card.driver));
  if (card.error.empty()) return "";
  return fmt::format("the GPU cannot be opened: {}{}", card.error,
                     card.exclusive ? "; it is in exclusive mode, one process at a time: give each "
                                      "rank a card, or start them with jobs/with-mps.sh"
                                    : "");
}

std::string kernel_refusal(const CardFacts& card) {
  if (card.has_kernels) return "";
  const std::string target = std::to_string(card.capability) + (card.capability >= 90 ? "a" : "");
  return fmt::format(
      "this program has no kernels for {} (compute capability {}.{}): build with "
      "NVCC_GENCODE=-gencode=arch=compute_{},code=sm_{}",
      card.name, card.capability / 10, card.capability % 10, target, target);
}

std::string refusal(const CardFacts& card) {
  for (const auto& why : {driver_refusal, visibility_refusal, kernel_refusal})
    if (std::string text = why(card); !text.empty()) return text;
  return "";
}

}  // namespace helix
