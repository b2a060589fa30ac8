# Everything a machine with Python (3.11 to 3.13), make and a package index needs.
PYTHON ?= python3
VENV   ?= .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PY := $(BIN)/python
# Containers often set it; then each of the many processes that the tests start would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-full lab check format catalogues notebooks lock clean help

help:
	@echo "make demo       install, then ingest real text and answer three questions"
	@echo "make test       install, then run the tests"
	@echo "make test-full  the same with the long suites (a thousand kills, millions of rows)"
	@echo "make lab        open JupyterLab on the quickstart"
	@echo "make notebooks  execute the notebooks and store what they show"
	@echo "make check      ruff and mypy only"

PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

define make_venv
	@$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else 'oraculo_kit needs Python 3.11 to 3.13, and %s is %d.%d. Try: make PYTHON=python3.12' % ((sys.executable,) + v))"
	$(PYTHON) -m venv $(VENV)
endef

$(VENV)/.installed: pyproject.toml constraints.txt
	$(make_venv)
	$(PIP_INSTALL) --editable .
	@touch $@

# One call, because a second one would resolve and build again. pip would compile 14,000 files on one core: Python
# compiles those that the tests import, when they do.
$(VENV)/.installed-dev: pyproject.toml constraints.txt
	$(make_venv)
	$(PIP_INSTALL) --no-compile --editable ".[dev]"
	@touch $(VENV)/.installed $@

demo: $(VENV)/.installed
	$(BIN)/oraculo demo

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest -n 2 --dist worksteal

test-full: check
	$(BIN)/pytest -n 2 --dist worksteal -m "full or not full"

lab: $(VENV)/.installed
	$(BIN)/jupyter lab notebooks/01_quickstart.ipynb

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

catalogues: $(VENV)/.installed-dev
	$(PY) -m tests.tools.catalogues

notebooks: $(VENV)/.installed-dev
	$(PY) -m tests.tools.notebooks

lock: $(VENV)/.installed-dev
	$(PY) -m tests.tools.lock > constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
