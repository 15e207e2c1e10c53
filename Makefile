# Two commands on a fresh machine: `make demo` trains, `make test` proves. Everything lives in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TORCH := torch==2.13.0
OPERATOR := $(if $(wildcard operator/pyproject.toml),-e ./operator)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CRITEO = --set 'spec.data={format: criteo-tsv}' --set spec.data.testFraction=0.1 --set 'spec.data.path=$(abspath $(DATA))'
DEMO_DATA = $(if $(DATA),$(CRITEO))
PYTEST := $(BIN)/python -m pytest -q
# Workers of `make test`: one more than there are cores, because tests of whole jobs wait a sixth of their time, but no
# more than four, for each starts half a dozen processes.
WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
KERNELS := $(VENV)/.kernels
# Hundreds of processes import the same files: one of them compiles each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test lint types imports unit numerics integration bench sweep-crashes sweep-faults sweep-starts soak fuzz docs format clean

help:  ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):[^#]*## /\1|/' | awk -F'|' '{printf "  make %-18s %s\n", $$1, $$2}'

install: $(STAMP)  ## Create .venv with everything in it; the second time this takes no time

demo: $(STAMP)  ## Train on generated click logs (or DATA=path/to/train.txt, a Criteo file) and print the test AUC
	@$(BIN)/bagpipe run examples/demo.yaml $(DEMO_DATA)

test: $(STAMP)  ## Everything: checks, then every test that this machine can run
	@$(MAKE) --no-print-directory -j2 lint types imports $(KERNELS)
	@echo "running every test that this machine can run, about ten minutes on two cores"
	@$(PYTEST) -n $(WORKERS) --maxprocesses 4 -m "not e2e"

lint: $(STAMP)  ## Check style and formatting
	@echo "checking style"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .

format: $(STAMP)  ## Repair what `lint` can repair by itself
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

types: $(STAMP)  ## Check types (mypy, strict)
	@echo "checking types"
	@$(BIN)/mypy --no-error-summary

imports: $(STAMP)  ## Check that each module imports only what it may
	@echo "checking imports"
	@$(BIN)/lint-imports --no-logo > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }

unit: $(STAMP)  ## Test each part alone, and the guards of the tree
	@$(PYTEST) tests/unit tests/guards

numerics: $(STAMP)  ## Test that the cache changes no bit of the result
	@$(PYTEST) tests/numerics

integration: $(STAMP)  ## Test whole jobs as processes, with bad input and crashes too
	@$(PYTEST) tests/integration

sweep-crashes: $(STAMP)  ## Kill a short run at every numbered point of every role, into docs/reliability.md; hours
	@$(BIN)/python tools/sweep_crashes.py --write

sweep-faults: $(STAMP)  ## Break each link and stop each role of a short run, once in each way, into docs/reliability.md; half an hour
	@$(BIN)/python tools/sweep_faults.py --write

sweep-starts: $(STAMP) $(KERNELS)  ## Start a tiny job 2,000 times on a busy machine, into docs/reliability.md; hours
	@$(BIN)/python tools/sweep_starts.py --write

MINUTES ?= 60
soak: $(STAMP)  ## Train for MINUTES= with a kill every 3,000 tiny steps; whether anything grows, into docs/reliability.md
	@$(BIN)/python tools/soak.py --minutes $(MINUTES) --write

fuzz: $(STAMP)  ## Feed mutated frames to decoders and roles, and job files that are wrong, into docs/reliability.md; 10 minutes
	@$(BIN)/python tools/fuzz.py --write

bench: $(STAMP)  ## Measure reader, planner and shard on one core, beside memcpy; other benchmarks: see the heads of benchmarks/*.py
	@set -e; for part in data_read planner shard_rows; do echo "== benchmarks/$$part.py"; \
	  OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python benchmarks/$$part.py; done

$(KERNELS): $(STAMP) $(shell grep -rlE 'njit|intrinsic' --include='*.py' bagpipe)
	@echo "compiling kernels"
	@$(BIN)/python tools/compile_kernels.py
	@touch $@

docs: $(STAMP)  ## Generate settings, api, reasons, rooms.svg, and the pictures and tables of plan and step, all in docs/
	@$(BIN)/python -m bagpipe.cli.reference
	@$(BIN)/python tools/generate_api.py
	@$(BIN)/python tools/draw_plan.py
	@$(BIN)/python tools/draw_rooms.py
	@$(BIN)/python tools/draw_step.py
	@$(if $(OPERATOR),$(BIN)/python -m bagpipe_operator.reasons > docs/reasons.md)

clean:  ## Remove .venv, runs and caches
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml requirements/constraints.txt $(wildcard operator/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "error: Python 3.11 or newer is needed as $(PYTHON); name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "setting up $(VENV), once, about two minutes"
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/install-venv
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "  1 of 2: $(TORCH)"
	@$(PIP) install -c requirements/constraints.txt $(TORCH)
	@echo "  2 of 2: Bagpipe, and the packages that it and its tests need"
	@$(PIP) install -c requirements/constraints.txt -e '.[trainer,dev,cluster,ec2]' $(OPERATOR)
	@touch $@

-include make/e2e.mk make/experiments.mk make/peers.mk
