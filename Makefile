# make quickstart   set up .venv and watch a model learn (minutes, CPU)
# make test         set up the development tools, then lint, type-check and test
# make check        lint and type-check only
# make fuzz         hold the verifiers against a hundred times as many texts (long)

PYTHON ?= python3
BIN := .venv/bin
# Threads that wait by spinning long slow each other down several times over.
export GOMP_SPINCOUNT ?= 5000

.PHONY: quickstart test check fuzz clean

quickstart: .venv/base
	rm -rf runs/quickstart
	$(BIN)/cameleer run quickstart $(ARGS)

test: check
	$(BIN)/pytest -n 2 $(ARGS)

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: .venv/dev
	CAMELEER_FUZZ=100 $(BIN)/pytest --timeout 0 tests/verifiers/test_fuzz.py $(ARGS)

.venv/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/dev: .venv/base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
