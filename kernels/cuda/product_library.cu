// y [m][n] = x [m][k] w [n][k]^T in rows is y^T [n][m] = w [n][k] x^T [k][m] in the library's
// columns: w is its first factor, transposed, and what are rows here is how many columns there.
#include "kernels/cuda/product_library.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#endif

#include <cassert>

namespace helix::cuda {

// Up to eight rows, kernels of ours that begin early make the shorter step, even where theirs are
// the quicker alone (llama-3.1-8b, batch 8: 4.73 ms, and 4.76 with theirs for 16384 outputs and
// more). Beyond, theirs are up to three times as quick at any shape, or less than 1 us slower.
bool ProductLibrary::better(const ProductShape& shape) {
  return found && shape.rows > max_product_rows;
}

#ifdef CUBLAS_VERSION

namespace {

constexpr int64_t workspace_bytes = 32 << 20;  // what its manual asks for on Hopper
constexpr uint32_t alignment_bytes = 16;

void throw_unless_success(cublasStatus_t status, const char* call, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const std::string text = std::string(__FILE__) + ":" + std::to_string(line) + ": " + call + ": " +
                           cublasLtGetStatusString(status);
  if (status == CUBLAS_STATUS_ALLOC_FAILED) throw OutOfMemory(text);
  throw std::runtime_error(text);
}
#define HELIX_CUBLASLT(call) throw_unless_success((call), #call, __LINE__)
void report_unless_success(cublasStatus_t status, const char* call, int line) noexcept {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, line, call, cublasLtGetStatusString(status));
}
#define HELIX_CUBLASLT_NOTHROW(call) report_unless_success((call), #call, __LINE__)

// Owns what `Destroy` gives back, and sets its attributes.
template <class Opaque, auto Destroy, auto Set>
class Described {
 public:
  template <auto Create, class... Args>
  static Described make(Args... args) {
    Described made;
    Opaque* handle = nullptr;
    HELIX_CUBLASLT(Create(&handle, args...));
    made.handle_.reset(handle);
    return made;
  }
  template <class Attribute, class Value>
  void set(Attribute which, Value value) {
    HELIX_CUBLASLT(Set(handle_.get(), which, &value, sizeof value));
  }
  Opaque* get() const { return handle_.get(); }

 private:
  struct Destroyer {
    void operator()(Opaque* handle) const noexcept { HELIX_CUBLASLT_NOTHROW(Destroy(handle)); }
  };
  std::unique_ptr<Opaque, Destroyer> handle_;
};
using Operation = Described<cublasLtMatmulDescOpaque_t, cublasLtMatmulDescDestroy,
                            cublasLtMatmulDescSetAttribute>;
using Layout = Described<cublasLtMatrixLayoutOpaque_t, cublasLtMatrixLayoutDestroy,
                         cublasLtMatrixLayoutSetAttribute>;
using Preference = Described<cublasLtMatmulPreferenceOpaque_t, cublasLtMatmulPreferenceDestroy,
                             cublasLtMatmulPreferenceSetAttribute>;

Layout layout(cudaDataType type, int rows, int columns, int64_t column_stride, int matrices,
              int64_t matrix_stride) {
  Layout made = Layout::make<cublasLtMatrixLayoutCreate>(type, rows, columns, column_stride);
  made.set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, int32_t{matrices});
  made.set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, matrix_stride);
  return made;
}

}  // namespace

struct ProductLibrary::Plan {
  Operation operation;
  Layout w, x, y;
  cublasLtMatmulAlgo_t algorithm = {};
};

const bool ProductLibrary::found = true;
ProductLibrary::ProductLibrary() = default;
void ProductLibrary::open() {
  workspace_ = Buffer<std::byte>(workspace_bytes);
  HELIX_CUBLASLT(cublasLtCreate(&handle_));
}
ProductLibrary::~ProductLibrary() {
  if (handle_ != nullptr) HELIX_CUBLASLT_NOTHROW(cublasLtDestroy(handle_));
}

const ProductLibrary::Plan& ProductLibrary::plan_of(const Key& key) {
  if (handle_ == nullptr) open();
  std::unique_ptr<Plan>& known = plans_[key];
  if (known != nullptr) return *known;
  const auto [rows, outputs, inputs, x_stride, y_stride, matrices, wide_out, blocks] = key;
  Plan plan{Operation::make<cublasLtMatmulDescCreate>(CUBLAS_COMPUTE_32F, CUDA_R_32F),
            layout(CUDA_R_16BF, inputs, outputs, inputs, matrices, int64_t{outputs} * inputs),
            layout(CUDA_R_16BF, inputs, rows, matrices * x_stride, matrices, x_stride),
            layout(wide_out ? CUDA_R_32F : CUDA_R_16BF, outputs, rows, matrices * y_stride,
                   matrices, y_stride)};
  plan.operation.set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  plan.operation.set(CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, int32_t{blocks});
  auto preference = Preference::make<cublasLtMatmulPreferenceCreate>();
  preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{workspace_bytes});
  for (const auto which :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    preference.set(which, alignment_bytes);
  cublasLtMatmulHeuristicResult_t best{};
  int count = 0;
  HELIX_CUBLASLT(cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation.get(), plan.w.get(),
                                                plan.x.get(), plan.y.get(), plan.y.get(),
                                                preference.get(), 1, &best, &count));
  assert(count == 1);  // else the call has failed
  plan.algorithm = best.algo;
  known = std::make_unique<Plan>(std::move(plan));
  return *known;
}

template <class Out>
void ProductLibrary::product(const ProductShape& shape, int matrices, const bf16* x, const bf16* w,
                             Out* y, const Launch& how) {
  const Plan& plan = plan_of({shape.rows, shape.outputs, shape.inputs, shape.x_stride,
                              shape.y_stride, matrices, std::is_same_v<Out, float>, how.blocks});
  const float one = 1, zero = 0;
  HELIX_CUBLASLT(cublasLtMatmul(handle_, plan.operation.get(), &one, w, plan.w.get(), x,
                                plan.x.get(), &zero, y, plan.y.get(), y, plan.y.get(),
                                &plan.algorithm, workspace_.data(), workspace_bytes, how.stream));
}

#else

struct ProductLibrary::Plan {};
const bool ProductLibrary::found = false;
ProductLibrary::ProductLibrary() = default;
ProductLibrary::~ProductLibrary() = default;
template <class Out>
void ProductLibrary::product(const ProductShape&, int, const bf16*, const bf16*, Out*,
                             const Launch&) {
  throw std::logic_error("built without cuBLASLt");
}

#endif

template void ProductLibrary::product(const ProductShape&, int, const bf16*, const bf16*, bf16*,
                                      const Launch&);
template void ProductLibrary::product(const ProductShape&, int, const bf16*, const bf16*, float*,
                                      const Launch&);

}  // namespace helix::cuda
