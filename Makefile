# Two commands do all the set-up on a machine with Python >= 3.11 and make: `make train`, `make test`.
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,$(if $(shell $(python) -c 'import sys; print(1 if sys.version_info >= (3, 11) else "")' 2>/dev/null),$(python))))
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: train test test-long test-faults test-parity test-wheel lint docs wheel gpu clean

train: .venv/installed
	$(BIN)/python -m resflax.train

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long and not parity and not faults" $(PYTEST_ARGS)

test-long: .venv/installed-long
	$(BIN)/python -m pytest -n 2 -m "long and not parity" $(PYTEST_ARGS)

# What is killed, damaged, filled up and hung on purpose, and the tests themselves: docs/reliability.md.
test-faults: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m faults $(PYTEST_ARGS)

# PyTorch is pinned to a version that has a small CPU build for this purpose.
# With PYTEST_ARGS="-m parity" also those that take minutes.
test-parity: .venv/installed-parity
	$(BIN)/python -m pytest -m "parity and not long" $(PYTEST_ARGS)

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documents as a site, in `site/`; a warning, as a dead link, is an error.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# A source archive, and a wheel made of it, in `dist/`.
wheel: .venv/installed-wheel
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

# The wheel in an empty environment, outside of the checkout: trains, predicts, finds the papers' recipes.
test-wheel: wheel
	PYTHON=$(PYTHON) .ci/test_wheel dist

# Runs with the interpreter PYTHON as it is: a GPU machine has its own JAX. See launch/gpu.sh.
gpu:
	PYTHON=$(PYTHON) launch/gpu.sh

.venv/python:
	@test -n "$(PYTHON)" || { echo "resflax needs Python 3.11 or newer; install it, or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/python pyproject.toml
	$(PIP) install --editable .
	@touch $@

.venv/installed-test: .venv/installed
	$(PIP) install --editable '.[test]'
	@touch $@

.venv/installed-long: .venv/installed-test
	$(PIP) install --editable '.[test-long]'
	@touch $@

.venv/installed-parity: .venv/installed-test
	$(PIP) install --editable '.[onnx]' keras torch==2.13.0
	$(PIP) install --no-deps timm==1.0.31 pytorchcv==0.0.74  # without torchvision, which asks for another torch
	@touch $@

.venv/installed-docs: .venv/installed
	$(PIP) install --editable '.[docs]'
	@touch $@

.venv/installed-wheel: .venv/python
	$(PIP) install build
	@touch $@

clean:
	rm -rf .venv site dist .pytest_cache .mypy_cache .ruff_cache
