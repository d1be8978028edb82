# Two commands for a fresh clone: `make demo` and `make test`. The first of them installs the project
# into .venv; use another environment with `make test VENV=path`, another Python with PYTHON=python3.12.
.POSIX:

PYTHON = python3
VENV = .venv
# The oldest supported Python, with the oldest supported release of every dependency.
OLDEST_PYTHON = python3.10
OLDEST = tests/constraints-oldest.txt
# Where a virtual environment has its programs; Windows says OS=Windows_NT.
BIN_ = $(VENV)/bin
BIN_Windows_NT = $(VENV)/Scripts
BIN = $(BIN_$(OS))
STAMP = $(VENV)/.hardprompts-installed
IMAGE = plugins/hardprompts_photo/examples/cat.jpg

# Nothing here may reach a model hub.
export HF_HUB_OFFLINE = 1

.PHONY: help install demo test test-oldest check fix docs dist clean

help:
	@echo "make demo     a photograph becomes a prompt, offline (IMAGE=path for your own)"
	@echo "make test     the tests"
	@echo "make test-oldest  the tests with the oldest supported releases, in .venv-oldest (OLDEST_PYTHON=python3.10)"
	@echo "make check    style, types, spelling, import directions"
	@echo "make fix      mends style where it can be mended by itself, and makes the notebooks again"
	@echo "make docs     the documentation as a site, into site/"
	@echo "make dist     the wheels and their sources, checked, into dist/"
	@echo "make install  only installs, into $(VENV)"

install: $(STAMP)

$(STAMP): pyproject.toml $(OLDEST)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/hardprompts invert $(IMAGE) --seed 0 --save demo_output

# A process for each core. Bytecode is kept, whatever the environment says: each of them imports everything.
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

test-oldest:
	$(MAKE) test VENV=.venv-oldest PYTHON="$(OLDEST_PYTHON)" CONSTRAINTS="--constraint $(OLDEST)"

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m pytest --quiet tests/test_imports.py

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python examples/notebooks.py

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m pip install --quiet --editable ".[release]"
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m build --outdir dist plugins/hardprompts_emoji_models
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python -m pytest --quiet tests/test_distributions.py

clean:
	rm -rf .venv .venv-oldest dist site demo_output .mypy_cache .pytest_cache .ruff_cache
