# make alone is the menu
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
JOB ?= jobs/reviews.yaml

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help: ## this menu
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(INSTALLED) ## make .venv and install the command and its tools

demo: $(INSTALLED) ## label the sample reviews on the simulator, and say where the results are
	@$(BIN)/python -m pipeline.demo jobs/reviews.yaml

run: $(INSTALLED) ## run a job (JOB=jobs/reviews.yaml)
	$(BIN)/pipeline run $(JOB)

check: $(INSTALLED) ## check a job without sending (JOB=...)
	$(BIN)/pipeline check $(JOB)

plan: $(INSTALLED) ## what a run of a job would do and cost (JOB=...)
	$(BIN)/pipeline plan $(JOB)

status: $(INSTALLED) ## how a job stands (JOB=...)
	$(BIN)/pipeline status $(JOB)

test: export PYTHONDONTWRITEBYTECODE = # the suite starts the command hundreds of times: compile it once
test: $(INSTALLED) ## the whole test suite
	$(BIN)/python -m pytest -n auto --dist worksteal

test-browser: $(INSTALLED) ## open a report in headless Chromium, which must be in the path
	PIPELINE_BROWSER=1 $(BIN)/python -m pytest tests/browser

lint: $(INSTALLED) ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## mypy, strict
	$(BIN)/mypy

torture: $(INSTALLED) ## the long crash rigs: faults at every call, power cuts, kill -9 by the thousand (an hour)
	PIPELINE_TORTURE=1 $(BIN)/python -m pytest tests/rigs tests/storage
	$(BIN)/python -m tests.rigs.promises schedules 20
	$(BIN)/python -m tests.rigs.promises pairs 100
	$(BIN)/python -m tests.rigs.kill_loop --kills 1000
	$(BIN)/python -m tests.rigs.kill_loop --kills 300 --processes 2

bench: $(INSTALLED) ## CPU per request against a bare aiohttp loop, waiting, many connections, memory (a quarter of an hour)
	$(BIN)/python -m tests.bench $(BENCH)

bench-peers: $(INSTALLED) ## the same rows through other programs, installed into data/out/bench/peers
	$(BIN)/python -m tests.bench.peers $(BENCH)

bench-limits: $(INSTALLED) ## how much of an allowance is used, known and unknown, and what outages cost (ten minutes)
	$(BIN)/python -m tests.bench_limits

clean: ## remove what was built, never results
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache

.PHONY: help install demo run check plan status test test-browser lint types torture bench bench-peers bench-limits clean
