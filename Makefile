# `make demo` and `make test` each work alone after a fresh clone: they make .venv and install what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin


.PHONY: demo test check format bench notebooks clean

demo: $(VENV)/.examples
	$(BIN)/keras-butterfly demo --overwrite

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.examples
	$(BIN)/python benchmarks/latency.py

# Runs the notebooks in full and saves their outputs.
notebooks: $(VENV)/.examples
	$(BIN)/python examples/execute.py

clean:
	rm -rf $(VENV) butterfly-demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.examples: $(VENV)/.python setup.cfg pyproject.toml
	$(BIN)/pip install --disable-pip-version-check -q -e '.[examples]'
	touch $@

$(VENV)/.dev: $(VENV)/.python setup.cfg pyproject.toml
	$(BIN)/pip install --disable-pip-version-check -q -e '.[dev]'
	touch $@
