# What checks the code: tests, lint, bench. A test is a file: tests/unit/*.cpp and tests/mpi/*.cpp are
# GoogleTest programs, tests/cli/ and tests/analysis/ are pytest files. tests/run runs them.

# make test ONLY=layout: the programs whose name has that word. FORCE=1: though nothing changed.
ONLY ?=
only = $(if $(ONLY),$(foreach t,$(1),$(if $(findstring $(ONLY),$t),$t)),$(1))
UNIT := $(call only,$(sort $(wildcard tests/unit/*.cpp)))
MPI := $(if $(filter 1,$(SANITIZE)),,$(call only,$(sort $(wildcard tests/mpi/*.cpp))))
BENCH := $(sort $(wildcard tests/bench/*.cpp))
program = $(patsubst %.cpp,$(BUILD)/%,$(1))

$(call program,$(UNIT) $(MPI) $(BENCH)): $(BUILD)/%: $(BUILD)/obj/%.o $(LIBS) | $(VERSION_OBJ)
	@echo "link $@"; mkdir -p $(@D)
	$(Q)$(CXX) $(FLAGS) $(LDFLAGS) $^ $| $(TEST_LIBS) $(LDLIBS) -o $@
$(call program,$(BENCH)): $(VERSION_OBJ)  # their lines name the commit
$(call program,$(UNIT)): TEST_LIBS := -lgtest_main -lgmock -lgtest
$(call program,$(MPI)): TEST_LIBS := -lgmock -lgtest
$(call program,$(MPI)): $(BUILD)/obj/tests/mpi/main.o

# Each header compiles alone.
HEADER_FILES := $(sort $(shell find src kernels -name '*.h' 2>/dev/null))
HEADERS := $(HEADER_FILES:%=$(BUILD)/headers/%.ok)
$(BUILD)/headers/%.ok: % $(BUILD)/flags
	@rm -f $@; mkdir -p $(@D)
	@$(compile) -fsyntax-only -MMD -MP -MT $@ -MF $(@:.ok=.d) -include $< -x c++ /dev/null && touch $@

# Each floor links with the floors it may use, and includes no others. The judge gets neither MPI
# nor BLAS: it shares no arithmetic with what it judges.
floor_dir = $(wildcard src/$(1) $(filter kernels,$(1)))
define floor
FLOOR_CHECKS += $(BUILD)/floors/$(1).ok
$(BUILD)/floors/$(1).ok: $(patsubst %,$(BUILD)/lib%.a,$(1) $(2)) $(filter $(addsuffix /%,$(floor_dir)),$(HEADER_FILES)) | $(VERSION_OBJ)
	@rm -f $$@; mkdir -p $$(@D)
	@! grep -rnE '^#include "($(subst $() ,|,$(filter-out $(1) $(2),$(FLOORS))))/' $(or $(floor_dir),/dev/null)
	@echo 'int main() {}' | $(CXX) $(FLAGS) $(LDFLAGS) -x c++ - -x none -Wl,--whole-archive $$< \
	  -Wl,--no-whole-archive $$(filter-out $$<,$$(filter %.a,$$^)) $(VERSION_OBJ) \
	  $(if $(filter judge,$(1)),-lfmt,$(LDLIBS)) -o $$(@:.ok=) && touch $$@
endef
above :=
$(foreach f,$(FLOORS),$(eval $(call floor,$f,$(if $(filter execute bench commands,$f),$(above),$(filter-out \
  kernels,$(above)))))$(eval above := $f $(above)))

CHECKS := $(HEADERS) $(FLOOR_CHECKS)
.PHONY: programs checks
programs: $(PROGRAM) $(call program,$(UNIT) $(MPI))
checks: $(CHECKS)

test: $(FIRST) ## build and run all tests (SANITIZE=1: under sanitizers; ONLY=word; FORCE=1)
	@$(MAKE_AGAIN) programs || { echo "0 passed, 1 failed"; exit 1; }
	@$(if $(ONLY),,$(MAKE) --no-print-directory -k $(PARALLEL) checks > $(BUILD)/checks.log 2>&1 || true)
	@$(PYTHON) tests/run --build $(BUILD) $(if $(filter 1,$(SANITIZE)),--sanitize) $(if $(VERIFY),--verify $(VERIFY)) \
	  $(if $(FORCE),--force) $(if $(ONLY),--only '$(ONLY)',--checks $(CHECKS))

# ReFrame in a folder of its own, with the versions it was tried with.
REFRAME := $(BUILD)/reframe/bin/reframe
$(REFRAME): jobs/reframe/requirements.txt
	rm -rf $(BUILD)/reframe && $(PYTHON) -m venv $(BUILD)/reframe
	$(BUILD)/reframe/bin/pip --quiet --disable-pip-version-check install -r $<
	@touch $@
test-slurm: $(FIRST) deps-slurm ## jobs/ on a private Slurm of virtual nodes; the ReFrame check
	@$(MAKE_AGAIN) $(PROGRAM) $(REFRAME) || { echo "0 passed, 1 failed"; exit 1; }
	@$(PYTHON) tests/run --build $(BUILD) --slurm

bench: $(call program,$(BENCH)) ## the kernels alone, one program after another
	$(if $(BENCH),@for b in $^; do echo "$$b"; OMP_WAIT_POLICY=passive $$b || exit 1; done,@echo "bench: tests/bench/ has no program")

FORMATTED := $(sort $(shell find src kernels tests -name '*.h' -o -name '*.cc' -o -name '*.cpp' \
  -o -name '*.cu' -o -name '*.cuh' 2>/dev/null))
format: ## rewrite the sources as .clang-format has them
	clang-format -i $(FORMATTED)
lint: deps-lint ## clang-format and clang-tidy
	@clang-format --dry-run -Werror $(FORMATTED)
	@$(MAKE) --no-print-directory -k $(PARALLEL) tidy
	@echo "lint: clean"

TIDIED := $(filter %.cc %.cpp,$(FORMATTED))
# gcc's omp.h stands last, so that clang finds its own intrinsics first.
TIDY := $(patsubst %,$(BUILD)/tidy/%.ok,$(TIDIED))
tidy: $(TIDY)
$(BUILD)/tidy/%.ok: % .clang-tidy $(BUILD)/flags $(if $(VERSION),| $(BUILD)/version.h)
	@echo "tidy $<"; mkdir -p $(@D)
	@$(compile) -MM -MP -MT $@ -MF $(@:.ok=.d) $<
	@clang-tidy --quiet $< -- -std=c++20 -fopenmp -march=$(ARCH) $(INCLUDES) \
	  -idirafter $(shell $(CXX) -print-file-name=include) \
	  $(if $(filter $(VERSION),$<),-include $(BUILD)/version.h) > $(@:.ok=.log) 2>&1 && touch $@ \
	  || { cat $(@:.ok=.log); exit 1; }


# Others' code computes the same: torch and transformers in an environment of their own.
PEER_PYTHON := $(BUILD)/peer/venv/bin/python
$(BUILD)/peer/installed: tests/peer/requirements.txt
	$(call install,python3-venv)
	$(PYTHON) -m venv $(BUILD)/peer/venv
	$(PEER_PYTHON) -m pip install -q -r $<
	@touch $@
.PHONY: test-peer
test-peer: $(PROGRAM) $(BUILD)/peer/installed ## hold exports and checkpoints against transformers (downloads 3 GB once)
	@rm -f $(BUILD)/peer/report.txt
	$(PEER_PYTHON) -m pytest -q tests/peer $(if $(ONLY),-k '$(ONLY)')
	@cat $(BUILD)/peer/report.txt
