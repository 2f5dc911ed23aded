# helix-bench. `make help` lists the targets, `make info` says what was found on this machine.

MPI_HOME ?=
CUDA_HOME ?= $(or $(patsubst %/bin/nvcc,%,$(shell command -v nvcc 2>/dev/null)),/usr/local/cuda)
NCCL_HOME ?=
NVCC_GENCODE ?=
CUDA ?= auto
ARCH ?= native
SANITIZE ?= 0
BUILD ?= $(if $(filter 1,$(SANITIZE)),build/sanitize,build)
# A folder into which Debian packages were unpacked (dpkg -x), for machines without root.
DEPS_DIR ?=
JOBS ?= $(shell nproc)
CXXFLAGS ?= $(if $(filter 1,$(SANITIZE)),-O1 -g,-O2 -g1)
WERROR ?= -Werror
CCACHE ?= $(shell command -v ccache 2>/dev/null)
ifeq ($(origin CXX),default)
CXX := g++
endif
# Not whatever `python3` is: Debian's, whose packages `make deps` installs.
PYTHON := /usr/bin/python3
# Looked up once, not at each use.
CUDA_HOME := $(CUDA_HOME)
CCACHE := $(CCACHE)
Q := $(if $(V),,@)
PARALLEL = $(if $(findstring -j,$(MAKEFLAGS)),,-j$(JOBS))

PACKAGES := build-essential git openmpi-bin libopenmpi-dev libopenblas-dev libcli11-dev \
  nlohmann-json3-dev libfmt-dev libgtest-dev libgmock-dev libhwy-dev jq \
  python3 python3-matplotlib python3-numpy python3-pandas python3-pytest
# A browser, for the tests of the report's page; without it they are skipped.
PAGE_PACKAGES := chromium chromium-driver python3-selenium fonts-dejavu-core
LINT_PACKAGES := clang-format clang-tidy
SLURM_PACKAGES := slurmctld slurmd slurm-client munge python3-venv

MPICXX := $(if $(MPI_HOME),$(MPI_HOME)/bin/)mpicxx
MPI_LINK := $(filter-out -lmpi_cxx,$(shell $(MPICXX) --showme:link 2>/dev/null))
MPI_FLAGS := -DOMPI_SKIP_MPICXX $(addprefix -isystem ,$(filter-out /usr/include, \
  $(shell $(MPICXX) --showme:incdirs 2>/dev/null)))
ifneq ($(DEPS_DIR),)
multiarch := $(shell $(CXX) -print-multiarch)
deps_lib := $(DEPS_DIR)/usr/lib/$(multiarch)
DEPS_LIBS := $(wildcard $(addprefix $(deps_lib),/ /openblas-pthread /openmpi/lib))
DEPS_FLAGS := $(addprefix -isystem ,$(wildcard $(DEPS_DIR)/usr/include \
  $(DEPS_DIR)/usr/include/$(multiarch) $(DEPS_DIR)/usr/include/$(multiarch)/openblas-pthread \
  $(deps_lib)/openmpi/include))
MPI_LINK := $(or $(MPI_LINK),$(if $(wildcard $(deps_lib)/openmpi/lib),-lmpi))
export PYTHONPATH := $(DEPS_DIR)/usr/lib/python3/dist-packages:$(PYTHONPATH)
export LD_LIBRARY_PATH := $(subst $() ,:,$(DEPS_LIBS)):$(LD_LIBRARY_PATH)
endif
ifneq ($(MPI_HOME),)
export MPI_HOME
endif

comma := ,
# gcc 12 and 13 find overflows and overlaps in fmt 9 and libstdc++ that are none (PR 105651; 13 calls one
# array-bounds, and takes a reference to what a view shows for one into the view); without AVX-512 they note an ABI that no call here uses.
FLAGS := -std=c++20 $(CXXFLAGS) -Wall -Wextra $(WERROR) -fopenmp -pthread -march=$(ARCH) \
  -Wno-stringop-overflow -Wno-restrict -Wno-array-bounds -Wno-dangling-reference -Wno-psabi -fno-math-errno -fno-trapping-math $(if $(filter 1,$(SANITIZE)), \
  -fsanitize=address$(comma)undefined -fno-sanitize-recover=all -Wno-error=maybe-uninitialized)
INCLUDES := -iquote src -iquote . $(MPI_FLAGS) $(DEPS_FLAGS) $(CPPFLAGS)
LDLIBS := $(addprefix -L,$(DEPS_LIBS)) $(MPI_LINK) -lopenblas -lfmt -ldl $(LDLIBS)

# CUDA, NCCL and cuBLAS. With CUDA on, the program has the GPU executor; `make cuda` builds one that
# has it in any case (tests/cuda.mk).
ifneq ($(CUDA),0)
NVCC := $(wildcard $(CUDA_HOME)/bin/nvcc)
GPUS := $(wildcard /dev/nvidia[0-9]*)
endif
header = $(firstword $(if $(filter 0,$(CUDA)),,$(wildcard $(addsuffix /include/$(1),$(2)))) /dev/null)
version = $(shell awk '/^.define ($(2)) /{v = v "." $$3} END {print substr(v, 2)}' $(1))
CUDA_VERSION := $(if $(NVCC),$(shell awk '/^.define CUDART_VERSION /{printf "%d.%d", $$3 / 1000, \
  $$3 % 1000 / 10}' $(call header,cuda_runtime_api.h,$(CUDA_HOME))))
CUBLAS_VERSION := $(call version,$(call header,cublas_api.h,$(CUDA_HOME)),CUBLAS_VER_(MAJOR|MINOR|PATCH))
NCCL_VERSION := $(call version,$(call header,nccl.h,$(NCCL_HOME) $(CUDA_HOME) /usr),NCCL_(MAJOR|MINOR|PATCH))
ifeq ($(CUDA)$(NVCC),1)
$(error CUDA=1, but $(CUDA_HOME)/bin/nvcc is not there (CUDA_HOME))
endif
CUDA_ON := $(if $(and $(NVCC),$(or $(GPUS),$(filter 1,$(CUDA)))),1)
CUDA_WHY := $(if $(CUDA_ON),on,off): $(if $(filter 0,$(CUDA)),not searched,$(if $(NVCC),nvcc,no nvcc), \
  $(if $(GPUS),$(words $(GPUS)) GPU,no GPU))

# A folder of src/ is a floor, a floor is a library and uses only the floors before it here;
# kernels/ is used from execute on. `make test` checks both.
FLOORS := base kernels model judge machine layout schedule execute bench commands
# Sources that need CUDA's headers stand in src/execute/cuda and in no library.
SOURCES := $(sort $(shell find src kernels/cpu -name '*.cpp' -not -path 'src/execute/cuda/*' 2>/dev/null))
STRAY := $(filter-out $(FLOORS:%=src/%/%) src/main.cpp kernels/%,$(SOURCES))
$(if $(and $(STRAY),$(filter file,$(origin FLOORS))),$(error $(STRAY): not in a floor ($(FLOORS))))
# version.cpp alone knows the commit. It is in no library, so that a commit compiles one file and
# links one program.
VERSION := $(wildcard src/base/version.cpp)
objects = $(patsubst %,$(BUILD)/obj/%.o,$(basename $(1)))
VERSION_OBJ := $(call objects,$(VERSION))
LIBS := $(patsubst %,$(BUILD)/lib%.a,$(filter $(FLOORS), \
  commands bench execute schedule layout machine judge model kernels base))
PROGRAM := $(BUILD)/helix-bench

all: $(PROGRAM) ## build/helix-bench (the default)

.PHONY: all deps deps-lint deps-page deps-slurm info quickstart paper accuracy report submit test \
  test-slurm lint tidy bench format clean help always
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:

# What the README names works on a bare machine: it installs what is missing first, then starts make
# again to build.
FIRST := $(if $(MPI_LINK),,deps)
MAKE_AGAIN = $(MAKE) --no-print-directory $(PARALLEL)
ifneq ($(filter-out deps deps-lint deps-page deps-slurm info quickstart accuracy paper report test \
  test-slurm submit format clean help,$(or $(MAKECMDGOALS),all)),)
$(if $(MPI_LINK),,$(error $(MPICXX) not found: run `make deps`, or set MPI_HOME))
endif

include tests/test.mk
-include tests/cuda.mk

main_objects := $(call objects,src/main.cpp) $(VERSION_OBJ)
$(PROGRAM): $(main_objects) $(if $(CUDA_ON),$(GPU_OBJECTS)) $(LIBS)
	@echo "link $@"
	$(Q)$(CXX) $(FLAGS) $(LDFLAGS) $^ $(if $(CUDA_ON),$(GPU_LDLIBS)) $(LDLIBS) -o $@
cuda: $(CUDA_DIR)/helix-bench
$(CUDA_DIR)/helix-bench: $(main_objects) $(GPU_OBJECTS) $(LIBS)
	@echo "link $@"
	$(Q)$(CXX) $(FLAGS) $(LDFLAGS) $^ $(GPU_LDLIBS) $(LDLIBS) -o $@

floor_objects = $(call objects,$(filter-out $(VERSION),$(filter src/$(1)/% $(1)/%,$(SOURCES))))
$(foreach f,$(FLOORS),$(eval $(BUILD)/lib$f.a: $(call floor_objects,$f)))
$(LIBS): $(BUILD)/sources
	$(Q)rm -f $@; ar rcs $@ $(filter %.o,$^)

compile = $(CXX) $(FLAGS) $(INCLUDES)
$(BUILD)/obj/%.o: %.cpp $(BUILD)/flags
	@echo "c++ $<"; mkdir -p $(@D)
	$(Q)$(CCACHE) $(compile) $(EXTRA) -MMD -MP -c $< -o $@
$(BUILD)/obj/%.o: %.cc $(BUILD)/flags
	@echo "c++ $<"; mkdir -p $(@D)
	$(Q)$(CCACHE) $(compile) -MMD -MP -c $< -o $@
$(VERSION_OBJ): EXTRA = -include $(BUILD)/version.h
# What runs long over numbers.
$(BUILD)/obj/kernels/% $(BUILD)/obj/src/model/weights.o: EXTRA = $(if $(filter 1,$(SANITIZE)),,-O3)
$(VERSION_OBJ): $(BUILD)/version.h

# Written anew only when the content changes, so that what depends on them is rebuilt just then.
update = mkdir -p $(@D); cat > $@.$$$$; cmp -s $@.$$$$ $@ && rm $@.$$$$ || mv $@.$$$$ $@
$(BUILD)/flags: always
	@{ echo '$(compile)'; $(CXX) --version | head -n 1; } | { $(update); }
$(BUILD)/sources: always
	@echo '$(SOURCES)' | { $(update); }
# Dirty: the program is not that of the commit. No optional locks: a commit may be under way.
$(BUILD)/version.h: always
	@commit=$$(git rev-parse -q --verify HEAD 2>/dev/null || echo unknown); \
	if git --no-optional-locks status --porcelain -- Makefile src kernels configs/models \
	  configs/machines 2>&1 | grep -q .; then dirty=1; else dirty=0; fi; \
	{ echo "#define HELIX_GIT_DIRTY $$dirty"; printf '#define %s "%s"\n' HELIX_GIT_COMMIT "$$commit" \
	  HELIX_BUILD_FLAGS '$(strip $(FLAGS))' HELIX_CUDA_VERSION '$(or $(CUDA_VERSION),not found)' \
	  HELIX_CUBLAS_VERSION '$(or $(CUBLAS_VERSION),not found)' \
	  HELIX_NCCL_VERSION '$(or $(NCCL_VERSION),not found)'; } | { $(update); }

# Installs what is missing of the packages $(1), and says how where it may not.
define install
@missing=; for p in $(1); do \
  dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q ' installed$$' || missing="$$missing $$p"; \
done; \
if [ -z "$$missing" ]; then echo "$@: all packages are installed"; exit 0; fi; \
sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
if command -v apt-get >/dev/null && { [ -z "$$sudo" ] || sudo -n true 2>/dev/null; }; then \
  echo "$@: installing$$missing"; \
  $$sudo apt-get update -q && \
  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; \
else \
  echo "$@: neither root nor sudo here; have these packages installed:" >&2; \
  echo "apt-get update && apt-get install -y --no-install-recommends$$missing" >&2; exit 1; \
fi
endef

deps: ## install the Debian packages that are missing (root or sudo), or name them
	$(if $(DEPS_DIR),@echo "deps: DEPS_DIR=$(DEPS_DIR) is used as it is",$(call install,$(PACKAGES)))
deps-lint:
	$(call install,$(LINT_PACKAGES))
deps-page: ## Chromium, for the tests of the page that `report` makes
	$(call install,$(PAGE_PACKAGES))
deps-slurm:
	$(call install,$(SLURM_PACKAGES))

info: ## what was found on this machine, and what was searched
	@show() { printf '%-9s %s\n' "$$1" "$${2:-not found (searched: $$3)}"; }; \
	macro() { printf '#include <%s>\nHERE %s\n' "$$1" "$$2" | $(compile) -E -P -x c++ - 2>/dev/null | \
	  sed -n 's/^HERE //p' | sed 's/[" ]\|OpenBLAS//g' | grep '[0-9]'; }; \
	show compiler "$$($(CXX) --version 2>/dev/null | head -n 1)" '$(CXX)'; \
	show MPI "$$($(MPICXX) --showme:version 2>/dev/null)" '$(MPICXX), MPI_HOME=$(MPI_HOME)'; \
	show OpenBLAS "$$(macro openblas_config.h OPENBLAS_VERSION)" 'openblas_config.h'; \
	show fmt "$$(macro fmt/core.h FMT_VERSION)" 'fmt/core.h'; \
	show Highway "$$(macro hwy/highway.h HWY_MAJOR.HWY_MINOR.HWY_PATCH)" 'hwy/highway.h'; \
	show CLI11 "$$(macro CLI/Version.hpp CLI11_VERSION)" 'CLI/Version.hpp'; \
	show json "$$(macro nlohmann/json.hpp NLOHMANN_JSON_VERSION_MAJOR.NLOHMANN_JSON_VERSION_MINOR)" \
	  'nlohmann/json.hpp'; \
	searched() { [ '$(CUDA)' = 0 ] && echo "nothing, as CUDA=0" || echo "$$1"; }; \
	show nvcc '$(addprefix $(NVCC) ,$(CUDA_VERSION))' "$$(searched $(CUDA_HOME)/bin/nvcc)"; \
	show cuBLAS '$(CUBLAS_VERSION)' "$$(searched $(CUDA_HOME)/include/cublas_api.h)"; \
	show NCCL '$(NCCL_VERSION)' "$$(searched '$(addsuffix /include/nccl.h,$(NCCL_HOME) $(CUDA_HOME) /usr)')"; \
	show GPU '$(GPUS)' "$$(searched '/dev/nvidia[0-9]*')"; \
	show CUDA=$(CUDA) '$(strip $(CUDA_WHY))'

quickstart: deps ## install, build, run a small sweep on 8 ranks, print and draw its frontier
	@$(MAKE_AGAIN) all
	tests/mpirun.sh -n 8 $(PROGRAM) run configs/sweeps/quickstart.json -o results/quickstart \
	  $$(test ! -e results/quickstart/results.jsonl || echo --resume=mixed)
	$(PROGRAM) frontier results/quickstart/results.jsonl
	$(PYTHON) -m analysis figures results/quickstart
	$(PROGRAM) simulate configs/sweeps/quickstart.json --machine gb200-nvl72 \
	  -o results/quickstart-simulated $$(test ! -e results/quickstart-simulated/results.jsonl || \
	  echo --resume=mixed)
	$(PYTHON) -m analysis figures results/quickstart-simulated
	$(PYTHON) -m analysis report results/quickstart results/quickstart-simulated

ROWS ?= results/published/gb300-rows.json
accuracy: $(FIRST) ## gb300-nvl72.json against NVIDIA's measurement (ROWS=FILE: other rows, no refit)
	@$(MAKE_AGAIN) $(PROGRAM)
	$(PYTHON) -m analysis accuracy $(ROWS) --machine gb300-nvl72 \
	  $(if $(filter file,$(origin ROWS)),--leave-one-out)

report: $(FIRST) ## RESULTS='DIR…': one offline page of results, report.html beside them (OUT=FILE)
	$(if $(RESULTS),,$(error RESULTS names no results: make report RESULTS=results/quickstart))
	@$(MAKE_AGAIN) $(PROGRAM)
	@$(PYTHON) -m analysis report $(RESULTS) $(if $(OUT),-o $(OUT))

paper: $(FIRST) ## the paper's claims and figures on a simulated GB200 NVL72: results/paper/
	@$(MAKE_AGAIN) $(PROGRAM)
	$(PROGRAM) claims -o results/paper > $(BUILD)/claims.log
	@sed -n '/^| claim/,/^$$/p' results/paper/claims.md
	$(PYTHON) -m analysis.paper results/paper

submit: ## a sweep as a Slurm job: SWEEP=FILE [SLICES=N] [MACHINE=NAME] [JOB=cpu|h200-node|nvl72|…] [SBATCH="…"]
	@SLICES='$(SLICES)' JOB='$(JOB)' SBATCH='$(SBATCH)' OUT='$(OUT)' MACHINE='$(MACHINE)' jobs/submit.sh $(SWEEP)

compile_commands.json: $(BUILD)/sources $(BUILD)/flags $(BUILD)/version.h ## for clangd
	@{ echo '['; printf '  {"directory": "$(CURDIR)", "file": "%s", "command": "$(compile) %s -c %s"},\n' \
	  $(foreach s,$(TIDIED),$s '$(if $(filter $(VERSION),$s),-include $(BUILD)/version.h)' $s) | \
	  sed '$$ s/,$$//'; echo ']'; } > $@

clean: ## remove $(BUILD)
	rm -rf $(BUILD)
help:
	@sed -n 's/^\([a-z_.-]*\):.*## \(.*\)/\1|\2/p' Makefile tests/test.mk tests/cuda.mk | \
	  while IFS='|' read -r t d; do printf '  %-22s %s\n' "$$t" "$$d"; done

-include $(patsubst %.o,%.d,$(call objects,src/base/version.cpp $(SOURCES) $(UNIT) $(MPI) $(BENCH) \
  tests/mpi/main.cc)) $(patsubst %.ok,%.d,$(CHECKS) $(TIDY))
