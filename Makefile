# Everything one does with this repository. Each target sets up what it needs: Python 3.11 or newer and
# make are enough. What is installed is pinned by hash in requirements/; what is installed already is
# known by the content of those files, so a second run starts at once.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two targets at once would install into one environment at once.
.NOTPARALLEL:

# The first interpreter that is new enough; `make PYTHON=/path/to/python3.12 …` chooses another.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	if $$python -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then command -v $$python; break; fi; done)

BIN := .venv/bin
UV := $(BIN)/uv
# No build isolation, no sdist: nothing is downloaded that is not pinned.
INSTALL := $(UV) pip install --quiet --require-hashes --no-deps --only-binary :all:

# A stamp's name holds a checksum of what it stands for.
sum = $(shell cat $(1) | cksum | cut -d ' ' -f 1)
BOOTSTRAP := .venv/.bootstrap-$(call sum,requirements/bootstrap.txt)
RUNTIME := .venv/.demo-$(call sum,requirements/demo.txt pyproject.toml)
DEV := .venv/.dev-$(call sum,requirements/dev.txt pyproject.toml)
PROTO := .venv-proto/.installed-$(call sum,requirements/proto.txt)
NATIVE := .venv/.native-$(call sum,native/Cargo.toml native/pyproject.toml native/src/*.rs \
	native/pelton_native/* requirements/native.txt)
LOWEST := .venv-lowest/.installed-$(call sum,requirements/lowest.txt)

# Where there is Rust, the native transport is built along; where there is none, what is skipped says so. A
# cargo that is there and has no toolchain behind it is none.
CARGO := $(shell cargo --version >/dev/null 2>&1 && command -v cargo)
NATIVE_BUILT := $(if $(CARGO),$(NATIVE),)
# The interpreter is named, so that no other one is looked for.
CARGO_ENV := CARGO_TARGET_DIR=$(CURDIR)/build/native PYO3_PYTHON=$(CURDIR)/.venv/bin/python

# Pelton with its hot path compiled, before the sources on Python's path; nothing where there is no C compiler,
# which is said. It is built once for the sources as they are.
COMPILED = PYTHONPATH=$$($(BIN)/python scripts/compiled.py) || test $$? = 3 || exit 1; export PYTHONPATH
# What meets it: every decision, every request, every transport, and the main job end to end.
HOT_PATH := tests/test_compiled.py $(addprefix tests/,core bridge request rpc conformance properties simulation) \
	$(addprefix tests/integration/delivery/,test_ends.py test_flow.py test_kill.py)

# Most tests wait for somebody: so many processes take a file of them each, every one with its own Kafka.
SHARES ?= 2

.PHONY: native native-check native-for-demo conformance compiled test-compiled
.PHONY: help demo bench bench-isolation bench-memory bench-scaling bench-poison faults soak test integration sim mutants check static fmt fmt-check lint types imports proto proto-check lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUNTIME) native-for-demo ## Kafka, a publisher, Pelton and a service, live in this terminal (ARGS="--events 2000")
	@$(BIN)/python examples/demo/run.py $(ARGS)

bench: $(DEV) $(NATIVE_BUILT) ## speed, CPU, latency and memory on a real Kafka (ARGS=…)
	@$(COMPILED); $(BIN)/python bench/run.py $(ARGS)

bench-scaling: $(DEV) $(NATIVE_BUILT) ## how speed and memory grow with partitions, keys, sizes, subscriptions (ARGS=…)
	@$(COMPILED); $(BIN)/python bench/scaling.py $(ARGS)

bench-isolation: $(DEV) $(NATIVE_BUILT) ## what one bad target costs another's latency (ARGS="--rounds 5")
	@$(COMPILED); $(BIN)/python bench/isolation.py $(ARGS)

bench-memory: $(DEV) $(NATIVE_BUILT) ## memory beside dead targets, and whether it keeps its cap (ARGS="--only refused")
	@$(COMPILED); $(BIN)/python bench/memory.py $(ARGS)

bench-poison: $(DEV) ## the pace of healthy keys beside poisoned ones (ARGS="--seconds 60 --rounds 3")
	@$(COMPILED); $(BIN)/python bench/poison.py $(ARGS)

test: $(DEV) $(PROTO) $(LOWEST) $(NATIVE_BUILT) ## every test, real Kafka included (ARGS="-k ledger")
	@$(BIN)/python -m pytest --numprocesses $(SHARES) --dist loadfile $(ARGS)

test-compiled: $(DEV) $(NATIVE_BUILT) ## the tests that meet the hot path, on Pelton compiled (needs a C compiler)
	@$(COMPILED); if test -z "$$PYTHONPATH"; then echo "make: NOT TESTED: Pelton compiled"; exit 0; fi; \
	PELTON_SIM_SCHEDULES=3000 $(BIN)/python -m pytest --numprocesses $(SHARES) --dist loadfile $(HOT_PATH) $(ARGS)

integration: $(DEV) $(NATIVE_BUILT) ## only the tests against a real Kafka and real sockets
	@$(BIN)/python -m pytest --numprocesses $(SHARES) --dist loadfile tests/integration $(ARGS)

faults: $(DEV) ## the fault matrix on real Kafka, sockets and processes, printed (ARGS="--rows 11,15")
	@$(BIN)/python -m tests.faults.run $(ARGS)

soak: $(DEV) ## the matrix, then 30 minutes of composed random faults (ARGS="--minutes 30 --seed 7")
	@$(BIN)/python -m tests.faults.soak $(ARGS)

sim: $(DEV) ## engine and pump under random faults in virtual time (ARGS="--schedules 10000", "--seed S" replays one)
	@$(BIN)/python -m tests.simulation.run $(ARGS)

mutants: $(DEV) ## planted bugs, and how soon the simulation catches each
	@$(BIN)/python -m tests.simulation.mutants

conformance: $(DEV) $(NATIVE_BUILT) ## the suite that every transport is held to, as a table: case x transport
	@$(BIN)/python -m pytest tests/conformance --conformance-table $(ARGS)

check: static native-check test test-compiled ## all that CI runs

static: fmt-check lint types imports proto-check ## all of check but the tests

native: $(NATIVE) ## build pelton_native, the fastest transport, and install it into .venv (needs Rust)

compiled: $(DEV) ## build a wheel of Pelton whose hot path is compiled to C (needs a C compiler)
	@$(BIN)/python scripts/compiled.py >/dev/null && ls build/compiled/*.whl

native-check: $(BOOTSTRAP) ## the Rust side: rustfmt, clippy, its own tests
ifneq ($(CARGO),)
	@cd native && cargo fmt --check
	@cd native && $(CARGO_ENV) cargo clippy --quiet --release --all-targets -- -D warnings
	@cd native && $(CARGO_ENV) cargo test --quiet --release --no-default-features
else
	@echo "make: NOT CHECKED: native/ (rustfmt, clippy and its tests: there is no cargo that works)"
endif

fmt: $(DEV) ## format the code, mend what ruff can mend safely, format the contracts
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .
	@$(BIN)/buf format --write proto

fmt-check: $(DEV)
	@$(BIN)/ruff format --check .

lint: $(DEV) ## ruff
	@$(BIN)/ruff check .

types: $(DEV) ## mypy --strict on src and tests, pyright on src
	@$(BIN)/mypy $(wildcard src tests proto scripts examples/demo bench)
	@$(BIN)/pyright

imports: $(DEV) ## the import contracts: who may know whom
	@$(BIN)/lint-imports

proto: $(DEV) $(PROTO) ## regenerate src/pelton/v1 and proto/image.yaml after a change of the contracts
	@$(BIN)/buf lint proto
	@$(BIN)/buf breaking proto --against proto/image.yaml
	@.venv-proto/bin/python proto/generate.py src
	@$(BIN)/buf build proto --exclude-source-info --output proto/image.yaml

proto-check: $(DEV) ## the contracts: lint, format, nothing broken since proto/image.yaml
	@$(BIN)/buf lint proto
	@$(BIN)/buf format --diff --exit-code proto
	@$(BIN)/buf breaking proto --against proto/image.yaml

# Pins already chosen stay, unless ARGS="--upgrade" or ARGS="--upgrade-package NAME" asks otherwise.
COMPILE := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header
lock: $(BOOTSTRAP) ## recompile the requirement files (ARGS="--upgrade")
	@$(COMPILE) $(ARGS) requirements/bootstrap.in --output-file requirements/bootstrap.txt
	@$(COMPILE) $(ARGS) pyproject.toml --extra local --group build --output-file requirements/demo.txt
	@$(COMPILE) $(ARGS) pyproject.toml --extra local --group build --group dev \
		--constraint requirements/demo.txt --output-file requirements/dev.txt
	@$(COMPILE) $(ARGS) --group native --output-file requirements/native.txt
	@$(COMPILE) $(ARGS) --group proto --output-file requirements/proto.txt
	@$(COMPILE) $(ARGS) pyproject.toml --resolution lowest-direct --output-file requirements/lowest.txt

clean: ## remove environments, caches and what the local Kafka left
	@rm -rf .venv .venv-proto .venv-lowest .pelton build dist
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find src tests examples bench proto -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# --- the environments -------------------------------------------------------------------------------

# An environment that exists is extended, never made anew: someone may be using it.
$(BOOTSTRAP): | .venv/bin/python
	@$(BIN)/python -c '$(NEW_ENOUGH)' || { \
		echo "make: the Python in .venv is older than 3.11; run 'make clean' and try again" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@echo "setting up .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		--only-binary :all: -r requirements/bootstrap.txt
	@touch $@

.venv/bin/python:
	@test -n "$(PYTHON)" || { \
		echo "make: Pelton needs Python 3.11 or newer, and none is on the PATH" >&2; \
		echo "      install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { \
		echo "make: $(PYTHON) is not a Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: $(PYTHON) comes without venv and ensurepip" >&2; \
		echo "      Debian and Ubuntu keep them in a package of their own: python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

# Pelton itself, editable, with the hatchling that is already there: no network.
$(RUNTIME): $(BOOTSTRAP)
	@$(INSTALL) --python .venv -r requirements/demo.txt
	@$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation --offline --editable .
	@touch $@

$(DEV): $(BOOTSTRAP)
	@$(INSTALL) --python .venv -r requirements/dev.txt
	@$(UV) pip install --quiet --python .venv --no-deps --no-build-isolation --offline --editable .
	@touch $@

# A wheel like any other, made here: what is installed is what would be shipped.
$(NATIVE): $(BOOTSTRAP)
	@$(INSTALL) --python .venv -r requirements/native.txt
	@echo "building pelton_native (about a minute the first time)"
	@rm -rf build/native/wheels
	@cd native && $(CARGO_ENV) ../$(BIN)/maturin build --quiet --release \
		--interpreter ../$(BIN)/python --out ../build/native/wheels
	@$(UV) pip install --quiet --python .venv --no-deps --offline --no-index --reinstall build/native/wheels/*.whl
	@rm -f .venv/.native-*
	@touch $@

# The demo needs no native transport: without it, it says so and goes on.
native-for-demo: $(BOOTSTRAP)
ifneq ($(CARGO),)
	@$(MAKE) --no-print-directory $(NATIVE) || \
		echo "make: NOT BUILT: pelton_native (see above); the demo goes on with grpc.aio" >&2
else
	@echo "make: NOT BUILT: pelton_native, since there is no cargo that works; the demo goes on with grpc.aio"
endif

# The oldest generator and the oldest libraries that are supported. Neither has wheels for a Python newer
# than 3.13; there the tests that need them are skipped, and say so.
HAS_OLD_WHEELS := import sys; sys.exit(sys.version_info >= (3, 14))

$(PROTO): $(BOOTSTRAP)
	$(call old_environment,.venv-proto,requirements/proto.txt)

$(LOWEST): $(BOOTSTRAP)
	$(call old_environment,.venv-lowest,requirements/lowest.txt)

define old_environment
	@if $(BIN)/python -c '$(HAS_OLD_WHEELS)'; then \
		test -x $(1)/bin/python || $(UV) venv --quiet --python $(BIN)/python $(1); \
		$(INSTALL) --python $(1) -r $(2) && touch $@; \
	else \
		echo "no $(1): its libraries have no wheels for this Python; some tests will be skipped"; \
	fi
endef
