# Everything a contributor runs. Nothing is written outside this folder and the system's temporary one.

PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$name; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= .up
NODES ?= 2
N ?= 2000
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench versus bank up down status clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-cache-dir --no-compile -e '.[embedded,demo,dev]'
	@echo "compiling kernels ..."
	@NUMBA_CACHE_DIR=$(VENV)/.numba-cache $(BIN)/python -m orochi.engine.warm
	@touch $@

setup: $(STAMP) ## create .venv with all that the other targets need

demo: $(STAMP) ## start a cluster, load flights, show what Orochi does; KEEP=1 leaves it running
	@exec $(BIN)/orochi demo $(if $(KEEP),--keep)

test: $(STAMP) ## run the tests in two processes, or what ARGS tell pytest in one
	@exec $(BIN)/python -m pytest $(or $(ARGS),$(PARALLEL))

slt: $(STAMP) ## run all records of tests/slt on every layout
	@OROCHI_SLT=all exec $(BIN)/python -m pytest tests/slt $(ARGS)

fuzz: $(STAMP) ## run N random queries on every strategy against PostgreSQL
	@OROCHI_TEST_QUERIES=$(N) exec $(BIN)/python -m pytest tests/cluster/test_grammar.py $(ARGS)

lint: $(STAMP) ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## measure TSBS, TPC-H, loading and sizes against PostgreSQL and DuckDB (ARGS="--quick")
	@exec $(BIN)/python -m benchmarks $(ARGS)

versus: $(STAMP) ## TPC-H on columnar tables against DuckDB, the worst query first (ARGS="--scale 0.2 --rounds 3")
	@exec $(BIN)/python -m benchmarks.versus $(ARGS)

bank: $(STAMP) ## transfers between nodes while processes are killed (ARGS="--commits 50000 --kills 300 --sums 10000")
	@exec $(BIN)/python -m benchmarks.bank $(ARGS)

.PHONY: life
life: $(STAMP) ## chunks age, compress, move and expire while processes are killed (ARGS="--kills 200 --seed 2")
	@exec $(BIN)/python -m benchmarks.life $(ARGS)

.PHONY: day
day: $(STAMP) ## 24 hours of a table with all policies, each hour compared with a plain twin (ARGS="--hours 48 --step 6")
	@exec $(BIN)/python -m benchmarks.life.day $(ARGS)

.PHONY: latency
latency: $(STAMP) ## INSERT's latency while chunks compress, move and are aggregated (ARGS="--rounds 10 --clients 4")
	@exec $(BIN)/python -m benchmarks.life.latency $(ARGS)

up: $(STAMP) ## start a cluster of NODES nodes in DATA and leave it running
	@exec $(BIN)/orochi up --data-dir $(DATA) --nodes $(NODES) --detach

down: $(STAMP) ## stop it; its data stays
	@exec $(BIN)/orochi down --data-dir $(DATA)

status: $(STAMP) ## show its processes
	@exec $(BIN)/orochi status --data-dir $(DATA)

clean: ## remove .venv, caches and build output (not the data of `make up`)
	rm -rf $(VENV) build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find orochi workers tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
