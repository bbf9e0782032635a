# Two commands set everything up: `make demo` and `make test`. Each makes .venv once.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONHASHSEED := 0
ifeq ($(origin BLISS_TEST_DATA),undefined)
  ifneq ($(wildcard ../shared/real),)
    export BLISS_TEST_DATA := $(abspath ../shared)
  endif
endif

.PHONY: demo test lint docs proof dist clean

demo: .venv/installed
	$(BIN)/bliss demo

test: .venv/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	MYPYPATH=.venv/typing $(BIN)/mypy

# The documentation site, in build/site. A warning is an error.
docs: .venv/documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

proof: .venv/tested
	$(BIN)/python benchmarks/proof.py

# An sdist and a wheel in dist/, as they would be published, and what their page would look like.
dist: .venv/tested
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

# What `bliss` needs; the tools of the tests are a second step, which `make demo` does without.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bliss-audit needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	mkdir -p .venv/typing && ln -sfn ../.. .venv/typing/blissaudit
	touch $@

.venv/documented: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
