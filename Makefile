# Two commands need nothing but Python 3.11+, git and make: `make quickstart` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
WORKERS ?= 2
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: help quickstart test test-slow upstream check lint types contracts format wheel clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed, this is ' + sys.version.split()[0] + '; name one with make PYTHON=…' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt torch
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: $(BIN)/.ready  ## set up, then pretrain, probe and fine-tune all three modalities; writes quickstart/report.html
	$(BIN)/hf-ssl quickstart $(ARGS)

# Each worker computes on one core: tiny models are no faster on more.
test: $(BIN)/.ready  ## set up, then the tests, on two cores (WORKERS=4: on four)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(BIN)/.ready  ## the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

upstream: $(BIN)/.ready  ## transformers' own model tests on every objective
	OMP_NUM_THREADS=1 $(BIN)/python tests/upstream/run.py $(ARGS)

check: lint types contracts  ## lint, types and import contracts

lint: $(BIN)/.ready  ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BIN)/.ready  ## mypy
	$(BIN)/mypy

contracts: $(BIN)/.ready  ## who may import whom
	$(BIN)/lint-imports

format: $(BIN)/.ready  ## ruff, writing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(BIN)/.ready  ## dist/*.whl
	$(BIN)/python -m build --wheel

clean:  ## the environment, the wheel and caches; runs stay
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
