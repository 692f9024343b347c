# Every target does its own set-up. `make TORCH_INDEX=https://download.pytorch.org/whl/cpu` fetches torch without CUDA.
PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test wheel lint format bench

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## the virtual environment .venv with everything pinned in requirements.txt

# torch goes first, alone: its index must not decide where the rest comes from.
$(STAMP): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install -r requirements.txt
	$(BIN)/python -m pip install --no-deps -e .
	touch $@

demo: $(STAMP)  ## from nothing to a report: collect, train, imagine, evaluate on MiniGrid
	$(BIN)/embody run minigrid

# Each file's tests stay in one process: they share what their fixtures make.
test: $(STAMP)  ## the tests, in two processes of one thread each
	$(BIN)/python -m pytest -n 2 --dist loadfile

wheel: $(STAMP)  ## build the wheel and run it in a new environment outside of the checkout
	TORCH_INDEX=$(TORCH_INDEX) $(BIN)/python .ci/wheel.py

lint: $(STAMP)  ## format, lint, types and layers, nothing changed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy src benchmarks
	$(BIN)/lint-imports

format: $(STAMP)  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## embody against the dreamer4 package and the machine's limits (half an hour, quiet): BENCH="--workloads W3"
	$(BIN)/python -m benchmarks.run $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)) $(BENCH)
