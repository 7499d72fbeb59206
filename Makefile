# Each target sets itself up: a machine needs only Python 3.11 or later and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n auto

.PHONY: demo check test fuzz stress lint format bench clean

demo: $(READY)
	$(BIN)/dropmae demo

# What to run before every commit: lint, types and the fast tests, in a minute.
check: lint
	$(PYTEST) -m "not slow and not data and not gpu"

# Everything; tests of real video read DROPMAE_TEST_DATA and say so where they are skipped.
test: lint
	$(PYTEST) --dist loadfile

# Mutated and hostile files by the thousand, in minutes; prints what became of them.
fuzz: $(READY)
	OMP_NUM_THREADS=1 nice $(BIN)/python -W ignore tests/fuzz.py

# Two processes on one --out, and kills at random moments, of each verb that writes; prints what was left.
stress: $(READY)
	OMP_NUM_THREADS=1 nice $(BIN)/python -W ignore tests/stress.py

lint: $(READY)
	$(BIN)/ruff check src tests recipes
	$(BIN)/ruff format --check src tests recipes
	$(BIN)/pyrefly check

format: $(READY)
	$(BIN)/ruff check --fix src tests recipes
	$(BIN)/ruff format src tests recipes

bench: $(READY)
	$(BIN)/dropmae bench

clean:
	rm -rf $(VENV) demo build dist

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dropmae needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
