# Every command that a person or a machine needs. Python 3.11 is the only thing that must be there before.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
BENCH_VENV := .venv-bench
SOURCES := streams schemas infra tests

.DEFAULT_GOAL := help
.PHONY: help setup test lint format demo bench fuzz chaos broker clean

help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Create .venv, install Tidegate and a broker (again only when pyproject.toml changes)

# Where Apache Kafka cannot run (no Java 17, no Maven) the emulated broker takes its place.
$(VENV)/.ready: pyproject.toml
	@echo "setup: $(VENV) and its packages"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@test -n "$(TIDEGATE_BROKER)" || $(BIN)/python -m infra.jars \
	    || $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,emulator]'
	@touch $@

test: lint ## Check style and types, run every test
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup ## Check style and types only
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy

format: setup ## Rewrite the sources in the project's style
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

demo: setup ## Run the whole loop through Kafka on the market data of December 2017
	@$(BIN)/python -m streams.demo $(DEMO_ARGS)

bench: $(BENCH_VENV)/.ready ## Measure Tidegate beside its peers (QUICK=1: under 10 minutes; ITEMS=…)
	@$(BENCH_VENV)/bin/python -m tests.benchmarks $(ITEMS) $(if $(QUICK),--quick)

# An environment of its own: one of the peers is bound to another version of a package that Tidegate uses.
$(BENCH_VENV)/.ready: pyproject.toml
	@echo "bench: $(BENCH_VENV) and its packages"
	@test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	@$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

chaos: setup ## Break everything for a quarter of an hour, then judge (SEED=n FAULTS=n EVENTS=n CHAOS_ARGS="--replay FILE")
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS)) \
	    $(if $(EVENTS),--events $(EVENTS)) $(CHAOS_ARGS)

fuzz: setup ## Give the gate a million broken inputs (N=n SEED=n FUZZ_ARGS="--live 20000": through a live worker)
	@$(BIN)/python -m tests.fuzz $(if $(N),--inputs $(N)) $(if $(SEED),--seed $(SEED)) $(FUZZ_ARGS)

broker: setup ## Run a throw-away broker until Ctrl-C
	@$(BIN)/python -m infra.brokers

clean: ## Remove what the other commands made in this checkout
	@rm -rf $(VENV) $(BENCH_VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find $(SOURCES) -type d -name __pycache__ -prune -exec rm -rf {} +
