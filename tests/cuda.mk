# What nvcc compiles and what links it: `make cuda` builds the GPU kernels, their programs and a
# helix-bench with the GPU executor into $(BUILD)/cuda; a machine without a GPU can do that too.
# `jobs/gpu-kernels.sh` and `jobs/gpu-verify.sh` run them.
# The kernels also alone, without MPI and the rest: make -f tests/cuda.mk.
BUILD ?= build
CUDA_HOME ?= /usr/local/cuda
WERROR ?= -Werror
Q ?= @
cuda_default := -gencode=arch=compute_90a,code=sm_90a
CUDA_GENCODE := $(or $(NVCC_GENCODE),$(cuda_default))
CUDA_NVCC := $(CUDA_HOME)/bin/nvcc
CUDA_DIR := $(BUILD)/cuda
NVCC_FLAGS := -std=c++20 -O3 -lineinfo --expt-relaxed-constexpr $(CUDA_GENCODE) -Isrc -I. \
  -Xcompiler -Wall,-Wextra,-Wno-restrict $(if $(WERROR),-Werror all-warnings) -Xptxas -warn-spills
CUDA_KERNELS := $(patsubst %.cu,$(CUDA_DIR)/%.o,$(sort $(wildcard kernels/cuda/*.cu)))
CUDA_PROGRAMS := $(patsubst %.cu,$(CUDA_DIR)/%,$(sort $(wildcard tests/cuda/*.cu tests/bench/cuda_*.cu)))

.PHONY: cuda
cuda: $(CUDA_PROGRAMS) ## compile the GPU kernels and their tests (nvcc, no GPU needed)

$(CUDA_DIR)/%.o: %.cu tests/cuda.mk
	@echo "nvcc $<"; mkdir -p $(@D)
	$(Q)$(CCACHE) $(CUDA_NVCC) $(NVCC_FLAGS) -MMD -MP -c $< -o $@
# The plain twins, without the rest of the program's dependencies.
$(CUDA_DIR)/%.o: %.cpp tests/cuda.mk
	@echo "c++ $<"; mkdir -p $(@D)
	$(Q)$(CCACHE) $(CXX) -std=c++20 -O3 -fopenmp -Wall -Wextra $(CXX_CUDA_FLAGS) -iquote src -iquote . -MMD -MP -c $< -o $@
# Without it kernels of our own carry out all products.
CUDA_LIB := $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib))
CUBLASLT := $(if $(wildcard $(CUDA_HOME)/include/cublasLt.h),-L$(CUDA_LIB) -lcublasLt -Xlinker -rpath=$(CUDA_LIB))
$(CUDA_PROGRAMS): $(CUDA_DIR)/%: $(CUDA_DIR)/%.o $(CUDA_KERNELS) $(CUDA_DIR)/kernels/cpu/reference.o
	@echo "link $@"
	$(Q)$(CUDA_NVCC) $(CUDA_GENCODE) $^ -Xcompiler -fopenmp -ldl $(CUBLASLT) -o $@
$(CUDA_DIR)/tests/cuda/kernels_test: $(CUDA_DIR)/kernels/cpu/reference_moe.o
# In place of a driver, with faults, and of a profiler.
CUDA_STAND_INS := $(patsubst %.c,$(CUDA_DIR)/%.so,$(sort $(wildcard tests/cuda/*.c)))
cuda: $(CUDA_STAND_INS)
$(CUDA_STAND_INS): $(CUDA_DIR)/%.so: %.c tests/cuda.mk
	@echo "cc $<"; mkdir -p $(@D)
	$(Q)$(CC) -shared -fPIC -O2 -Wall -Wextra $(WERROR) -I$(CUDA_HOME)/include $< -o $@
# Between ranks: MPI, and NCCL to compare with.
MPICXX ?= mpicxx
NCCL_LIB := $(firstword $(wildcard $(addsuffix /libnccl.so,$(NCCL_HOME)/lib $(CUDA_HOME)/lib $(CUDA_HOME)/lib64 \
  /usr/lib/x86_64-linux-gnu)))
CUDA_MPI_PROGRAMS := $(patsubst %.cu,$(CUDA_DIR)/%,$(sort $(wildcard tests/cuda/mpi/*.cu)))
CUDA_PEERS := $(addprefix $(CUDA_DIR)/src/,execute/cuda/peers.o execute/cuda/peer_memory.o execute/cuda/cliques.o \
  execute/cuda/window.o execute/exchange/mpi.o base/error.o base/text.o)
cuda_mpi_flags := -DOMPI_SKIP_MPICXX $(addprefix -isystem ,$(filter-out /usr/include, \
  $(shell $(MPICXX) --showme:incdirs 2>/dev/null)) $(wildcard $(NCCL_HOME)/include))
$(CUDA_MPI_PROGRAMS:=.o) $(CUDA_PEERS): NVCC_FLAGS += $(cuda_mpi_flags)
$(CUDA_PEERS): CXX_CUDA_FLAGS := $(cuda_mpi_flags) -isystem $(CUDA_HOME)/include
cuda: $(CUDA_MPI_PROGRAMS)
$(CUDA_MPI_PROGRAMS): $(CUDA_DIR)/%: $(CUDA_DIR)/%.o $(CUDA_KERNELS) $(CUDA_PEERS) $(CUDA_DIR)/kernels/cpu/reference.o
	@echo "link $@"
	$(Q)$(CUDA_NVCC) $(CUDA_GENCODE) $^ -Xcompiler -fopenmp -ldl -lfmt $(CUBLASLT) $(NCCL_LIB) \
	  -Xlinker -rpath=$(dir $(NCCL_LIB)) $(filter-out -pthread,$(shell $(MPICXX) --showme:libdirs 2>/dev/null | sed 's/[^ ]* */-L&/g')) \
	  -lmpi -o $@
.SECONDARY: $(CUDA_PROGRAMS:=.o) $(CUDA_MPI_PROGRAMS:=.o)
-include $(wildcard $(CUDA_DIR)/*/*/*.d $(CUDA_DIR)/*/*/*/*.d $(CUDA_DIR)/other-cards/*.d $(BUILD)/obj/src/execute/cuda/*.d)

# The executor: kernels of its own, and sources that call CUDA from the host.
GPU_SOURCES := $(sort $(wildcard src/execute/cuda/*.cpp))
KERNEL_OBJECTS := $(CUDA_KERNELS) $(patsubst %.cu,$(CUDA_DIR)/%.o,$(sort $(wildcard src/execute/cuda/*.cu)))
GPU_OBJECTS := $(patsubst %.cpp,$(BUILD)/obj/%.o,$(GPU_SOURCES)) $(KERNEL_OBJECTS)
# Kernels take long to compile. Each has one host stub, with a handle.
most_kernels := 60
.PHONY: count-kernels
cuda: count-kernels
count-kernels: $(KERNEL_OBJECTS)
	@n=$$(nm $^ | grep -c '__device_stub__.*__handle$$'); echo "$$n kernels, at most $(most_kernels)"; \
	  [ $$n -gt 0 ] && [ $$n -le $(most_kernels) ]
GPU_INCLUDES := $(addprefix -isystem ,$(wildcard $(addsuffix /include,$(NCCL_HOME) $(CUDA_HOME))))
NCCL_FOUND := $(firstword $(wildcard $(addsuffix /include/nccl.h,$(NCCL_HOME) $(CUDA_HOME) /usr)))
GPU_LDLIBS := -L$(CUDA_LIB) -lcudart_static -ldl -lrt $(CUBLASLT) $(if $(NCCL_FOUND), \
  $(foreach d,$(wildcard $(addsuffix /lib,$(NCCL_HOME)) $(CUDA_LIB)),-L$d -Wl$(comma)-rpath$(comma)$d) -lnccl)
$(BUILD)/obj/src/execute/cuda/%.o: INCLUDES += $(GPU_INCLUDES)

.PHONY: verify-gpu
verify-gpu: cuda ## hold the GPU executor against the judge, on 1 to 8 ranks of this machine's cards
	jobs/gpu-verify.sh one tokens shared sliced wide sanitize stop faults $(if $(word 2,$(GPUS)),cards)

# What needs nothing of Hopper also compiles for cards before and after it, where registers may spill.
OTHER_CARDS := -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_100,code=sm_100
PLAIN := $(patsubst %,$(CUDA_DIR)/other-cards/%.o,append attention_plain elementwise generate merge moe plain plan \
  product_library read travel)
cuda: $(PLAIN)
$(PLAIN): $(CUDA_DIR)/other-cards/%.o: kernels/cuda/%.cu tests/cuda.mk
	@echo "nvcc $< for sm_80, sm_100"; mkdir -p $(@D)
	$(Q)$(CCACHE) $(CUDA_NVCC) $(filter-out -Xptxas -warn-spills,$(subst $(CUDA_GENCODE),$(OTHER_CARDS),$(NVCC_FLAGS))) -MMD -MP -c $< -o $@

# Where the toolkit is not, what names its types is neither compiled alone nor checked.
gpu_checks = $(BUILD)/headers/kernels/cuda/% $(BUILD)/headers/src/execute/cuda/% $(BUILD)/tidy/src/execute/cuda/%
$(gpu_checks): INCLUDES += $(GPU_INCLUDES)
$(if $(wildcard $(CUDA_HOME)/include/cuda_runtime_api.h),,$(eval CHECKS := $(filter-out \
  $(gpu_checks),$(CHECKS)))$(eval TIDY := $(filter-out $(gpu_checks),$(TIDY))))
