# Every task of gorun, for people and for .ci/run alike. `make` alone lists them.
#
# Nothing is assumed but python3 (3.11 or newer, with venv), cargo and a C compiler: each verb makes
# the virtual environment, installs the pinned tools and builds the extension as far as it needs
# them, and repeats none of it while its inputs are unchanged.
#
#   PYTHON=...       the interpreter of .venv (default: the first suitable python3* on PATH)
#   PY=...           the interpreter of `make test-on`, in an environment of its own
#   PYTEST_ARGS=...  handed to pytest, e.g. make test-python PYTEST_ARGS="-k chan -x"
#   REPEATS=...      how often `make stress` goes round on .venv
#   FREE_THREADED=.. a free-threaded interpreter, for `make stress`
#   BUILD=...        the profile `make lint` builds if it finds no current build (default: dev)

SHELL := /usr/bin/env bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # cargo uses the cores; two builds at once would only wait for each other

PYTHON ?=
PYTEST_ARGS ?=
REPEATS ?= 5
FREE_THREADED ?= /opt/python3.13t/bin/python3.13t
BUILD ?= dev

VENV := .venv
VENV_PY := $(VENV)/bin/python
PYTEST := $(VENV_PY) -m pytest

# What the extension is made of. Folders count too, so that a removed file is noticed.
SOURCES := Cargo.toml Cargo.lock pyproject.toml \
    $(shell find rust -type d -o -name '*.rs' -o -name Cargo.toml)

# One dated file for each state of .venv; .ci/build.sh writes them and removes what no longer holds.
TOOLS := $(VENV)/.tools
RELEASE := $(VENV)/.built-release
DEV := $(VENV)/.built-dev

.PHONY: help
help: ## this list
	@echo "gorun: make VERB, where VERB is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ---- the environment and the extension ---------------------------------------------------------

# With PYTHON=... an environment of another interpreter is replaced; else the present one stays.
BASE_PYTHON = $(or $(PYTHON),$(shell test -x $(VENV_PY) && echo $(VENV_PY) || .ci/find-python.sh))
NO_PYTHON = no Python 3.11 or newer with venv found; name one with PYTHON=/path/to/python
BUILD_WITH = .ci/build.sh $(or $(BASE_PYTHON),$(error $(NO_PYTHON))) $(VENV)

$(TOOLS): $(wildcard requirements/*.txt) $(if $(PYTHON),ask)
	@$(BUILD_WITH) none requirements/dev.txt

.PHONY: ask
ask: ;

$(RELEASE): $(SOURCES) $(TOOLS)
	@echo "building the extension: release"
	@$(BUILD_WITH) release requirements/dev.txt

$(DEV): $(SOURCES) $(TOOLS)
	@echo "building the extension: dev"
	@$(BUILD_WITH) dev requirements/dev.txt

# Any current build will do for a look at names and types.
.PHONY: any-build
any-build: $(TOOLS)
	@quiet="$(MAKE) --no-print-directory"; \
	$$quiet --question $(RELEASE) || $$quiet --question $(DEV) || $$quiet $(VENV)/.built-$(BUILD)

.PHONY: dev
dev: $(DEV) ## quick debug build into .venv, for work on the Rust side

# ---- run ---------------------------------------------------------------------------------------

.PHONY: run
run: $(RELEASE) ## set everything up and run the main job, both kinds: python -m gorun map
	$(VENV_PY) -m gorun map --job parse
	$(VENV_PY) -m gorun map --job hash

# ---- test --------------------------------------------------------------------------------------

.PHONY: test
test: test-rust test-python ## release build, the core's tests, the Python tests

.PHONY: test-rust
test-rust: ## the core's own tests (no Python in them)
	cargo test --locked -p gorun-core

.PHONY: test-python
test-python: $(RELEASE) ## the Python tests on .venv's interpreter
	$(PYTEST) $(PYTEST_ARGS)

.PHONY: test-on
test-on: ## the Python tests on another interpreter: make test-on PY=/path/to/python
	@test -n "$(PY)" || { echo "which one? make test-on PY=/path/to/python"; exit 2; }
	@tag=$$("$(PY)" -c 'import sys; print("%d.%d" % sys.version_info[:2] + sys.abiflags)'); \
	venv=.venv-$$tag; \
	.ci/build.sh "$(PY)" $$venv ci; \
	$$venv/bin/python -m pytest $(PYTEST_ARGS)

.PHONY: loom
loom: ## model-check the core's protocols: every interleaving with up to two preemptions
	RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 \
	    cargo test --locked -p gorun-core --release --target-dir target/loom --test 'loom_*'

.PHONY: stress
stress: $(RELEASE) ## the races, many rounds: Rust, then Python on .venv, then once on each other interpreter found
	cargo test --locked -p gorun-core --release --test 'stress*'
	for round in $$(seq $(REPEATS)); do \
	    echo "round $$round of $(REPEATS)"; $(PYTEST) -m stress $(PYTEST_ARGS) || exit 1; \
	done
	for python in $$(.ci/find-python.sh 3.12) $$(.ci/find-python.sh 3.13) $$(.ci/find-python.sh 3.14) $(FREE_THREADED); do \
	    [ ! -x "$$python" ] || $(MAKE) test-on PY="$$python" PYTEST_ARGS="-m stress $(PYTEST_ARGS)" || exit 1; \
	done

.PHONY: bench
bench: $(RELEASE) ## measure against Go and the Python rivals
	$(VENV_PY) benches/run.py $(BENCH_ARGS)

# ---- check and publish -------------------------------------------------------------------------

.PHONY: lint
lint: any-build ## formatting, clippy, ruff, mypy, and the stub against the extension
	cargo fmt --all --check
	PYO3_PYTHON=$(abspath $(VENV_PY)) cargo clippy --locked --workspace --all-targets \
	    --target-dir target/lint -- -D warnings # else it and maturin rebuild PyO3 in turn
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy --strict python/gorun
	$(VENV_PY) -m mypy.stubtest gorun._gorun --mypy-config-file pyproject.toml

.PHONY: format
format: $(TOOLS) ## rewrite the sources in the project's format
	cargo fmt --all
	$(VENV)/bin/ruff check --fix --exit-zero --quiet
	$(VENV)/bin/ruff format

.PHONY: docs
docs: $(RELEASE) ## run the examples in the docs (Rust doctests, Python docstrings, README)
	cargo test --locked -p gorun-core --doc
	$(PYTEST) --doctest-modules --doctest-ignore-import-errors \
	    python/gorun $(wildcard tests/test_readme.py) \
	    || { code=$$?; [ $$code = 5 ] || exit $$code; echo "no example in the Python part yet"; }

.PHONY: wheel
wheel: $(TOOLS) ## a release wheel for .venv's interpreter, in dist/
	$(VENV)/bin/maturin build --release --out dist --interpreter $(abspath $(VENV_PY))

.PHONY: locks
locks: ## bring locks/py313t/Cargo.lock up to date with Cargo.lock
	.ci/locks.sh

.PHONY: clean
clean: ## remove environments, builds and caches
	rm -rf .venv .venv-* build dist target
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	rm -f python/gorun/*.so .coverage .coverage.*
	find . -name __pycache__ -prune -exec rm -rf {} +
