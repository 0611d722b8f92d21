# `make demo`, `make test`, `make docs` and `make dist` each work alone after a fresh clone: they make .venv and install what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# One process for each processor. The tests of one file run in one process, so that they share what its fixtures make.
PYTEST = $(BIN)/python -m pytest -n auto --dist loadfile
# Of `make test-backends`. torch is installed for it alone, because of its size.
BACKENDS ?= jax torch
# The tests of `make test-jax`, as paths. None: all.
JAX_TESTS ?=

.PHONY: demo test test-long test-jax test-backends coverage check format bench bench-arm sweep fuzz notebooks docs dist clean

demo: $(VENV)/.examples
	$(BIN)/keras-butterfly demo --overwrite

test: $(VENV)/.dev
	$(PYTEST) -m "not long"

# The tests that take long, on TensorFlow, and then the tests of what depends on the backend, on JAX.
test-long: $(VENV)/.dev
	$(PYTEST) -m long
	$(MAKE) test-jax

# XLA compiles for longer than the tests run, so it optimizes less here.
test-jax: $(VENV)/.dev
	KERAS_BACKEND=jax XLA_FLAGS="--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true" \
		$(PYTEST) -m "not long" $(JAX_TESTS)

# The same tests on the other backends, and their values and gradients against TensorFlow's.
test-backends: $(VENV)/.torch
	$(foreach backend,$(BACKENDS),KERAS_BACKEND=$(backend) $(PYTEST) -m "not long" &&) true
	$(BIN)/python -m pytest tests/test_backends.py

# Which lines `make test` does not run. Only the tests that fail make it fail.
coverage: $(VENV)/.dev
	$(PYTEST) -m "not long" --cov --cov-report=term-missing:skip-covered

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tables of speed-ups against the project's aims: float32 with batch 1 and 128, and int8; then how long planning takes.
bench: $(VENV)/.examples
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/latency.py --batch 128 --runs 20
	$(BIN)/python benchmarks/latency.py --quantize int8
	$(BIN)/python benchmarks/planning.py

# The instructions and memory reads of 18 exports on an emulated Arm processor, beside those in benchmarks/arm.json.
bench-arm: $(VENV)/.examples
	$(BIN)/keras-butterfly devices setup arm64
	$(BIN)/python benchmarks/arm.py

# Whether anything exported is slower than Dense: 17 sizes, up to 4 layers each, 4 precisions.
sweep: $(VENV)/.examples
	$(BIN)/python benchmarks/sweep.py

# 300 random models, exported and compared with Keras; `make test` runs a few.
fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz.py

# Runs the notebooks in full and saves their outputs.
notebooks: $(VENV)/.examples
	$(BIN)/python examples/execute.py

# The documentation site, in build/docs. Warnings are errors: broken links, missing references, public names without a page.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs build/docs
	@echo "The documentation is in build/docs/index.html"

# A wheel and a source distribution, in dist/. An earlier *.egg-info lists files that may be gone.
dist: $(VENV)/.dist
	rm -rf dist *.egg-info
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) butterfly-demo build dist docs/notebooks *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.examples: $(VENV)/.python setup.cfg pyproject.toml
	$(BIN)/pip install --disable-pip-version-check -q -e '.[examples]'
	touch $@

$(VENV)/.docs: $(VENV)/.python setup.cfg pyproject.toml
	$(BIN)/pip install --disable-pip-version-check -q -e '.[docs]'
	touch $@

$(VENV)/.dist: $(VENV)/.python
	$(BIN)/pip install --disable-pip-version-check -q 'build>=1.2' 'twine>=6.1'
	touch $@

$(VENV)/.dev: $(VENV)/.python setup.cfg pyproject.toml
	$(BIN)/pip install --disable-pip-version-check -q -e '.[dev]'
	touch $@

$(VENV)/.torch: $(VENV)/.dev
	$(BIN)/pip install --disable-pip-version-check -q -e '.[dev,torch]'
	touch $@
