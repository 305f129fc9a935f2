# Every target works as the first command in a fresh clone on Debian 12 with python3, python3-venv, make and git.
PYTHON ?= python3
MINUTES ?= 10
# More than twice the two cores of CI: most tests wait for servers and processes, and one process does little but wait.
TEST_PROCESSES ?= 5
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
RUN := $(VENV)/.run-stamp
DEV := $(VENV)/.dev-stamp
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

.PHONY: help demo test check check-source check-wheel format bench soak coverage lock clean
.DELETE_ON_ERROR:

help:
	@echo "make demo | test | check | format | bench | soak MINUTES=10 | coverage | lock | clean"

# The locks carry setuptools too, so that building needs no second, unlocked download.
$(RUN): requirements/run.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --require-hashes -r requirements/run.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.txt $(RUN)
	$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	@touch $@

demo: $(RUN)
	@$(BIN)/reclaimd demo

test: $(DEV)
	@$(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadgroup

# Both at once: the one mostly computes, the other mostly waits. What each says stays together.
check: $(DEV)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target check-source check-wheel

check-source: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p reclaimd
	$(BIN)/mypy tests
	$(BIN)/lint-imports
	PYTHONPATH=tests $(BIN)/python -P tests/checks/planted_errors.py

check-wheel: $(DEV)
	PYTHONPATH=tests $(BIN)/python -P tests/checks/wheel_smoke.py
	$(BIN)/pytest -q tests/unit/test_tidy.py

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)
	@$(BIN)/python -P bench/run.py

soak: $(DEV)
	@$(BIN)/pytest -q -m soak --soak-minutes=$(MINUTES)

coverage: $(DEV)
	$(BIN)/coverage run -m pytest -q
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# Compile on CPython 3.11, Linux x86_64; see requirements/README.md.
lock: $(DEV)
	$(COMPILE) --extra embedded -o requirements/run.txt pyproject.toml requirements/build.in
	$(COMPILE) --extra embedded --extra dev -c requirements/run.txt -o requirements/dev.txt \
		pyproject.toml requirements/build.in

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage .coverage.* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
