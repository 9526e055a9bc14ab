# Needs Python 3.11 or newer, pip and make; everything else goes into $(VENV).
#   make demo       the first run: real bargaining problems, several solvers, one verdict
#   make test       the test suite
#   make check-all  lint, types, floors, wheel, lower bounds, documentation, sanitizers, fuzzing
PYTHON ?= python3
VENV   ?= .venv
PYTEST_ARGS ?= -n 2
BENCH_ARGS  ?=

BIN  := $(VENV)/bin
PY   := $(BIN)/python
PIP  := $(PY) -m pip --disable-pip-version-check install --quiet -c constraints.txt
META := pyproject.toml constraints.txt

# One thread per process for the linear algebra libraries: repeatable sums, and no fight over two cores.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 VECLIB_MAXIMUM_THREADS=1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check-all lint format types floors wheel lower-bounds docs sanitize triton fuzz bench clean

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))
	@echo "also: lint format types floors wheel lower-bounds docs triton fuzz bench clean"

# ---- environments: a stamp file for each set of packages, renewed when the metadata change ----

$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nashsolve needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.stamp-demo: $(META) | $(VENV)/.stamp-venv
	$(PIP) -e ".[cvxpy,plot,cli]" scikit-learn
	@touch $@

$(VENV)/.stamp-dev: $(META) | $(VENV)/.stamp-venv
	$(PIP) -e ".[dev]"
	@touch $@

$(VENV)/.stamp-docs: $(META) $(VENV)/.stamp-dev
	$(PIP) -e ".[docs]"
	@touch $@

# ---- what people type ----

demo: $(VENV)/.stamp-demo
	$(BIN)/nashsolve demo

test: $(VENV)/.stamp-dev
	$(ONE_THREAD) $(PY) -m pytest -q $(PYTEST_ARGS)

check-all: lint types floors wheel lower-bounds docs sanitize fuzz
	@echo "check-all: everything passed"

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.stamp-dev
	$(BIN)/mypy

floors: $(VENV)/.stamp-dev
	$(BIN)/lint-imports

# The sdist is built from the checkout and the wheel from the sdist, so a file missing from the sdist shows. The wheel
# holds the compiled kernel and gets the tag of the oldest Linux that can load it.
wheel: $(VENV)/.stamp-dev
	rm -rf dist
	NASHSOLVE_KERNEL=require $(PY) -m build --outdir dist .
	if [ "$$(uname)" = Linux ]; then PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair -w dist dist/*-linux_*.whl && rm dist/*-linux_*.whl; fi
	$(ONE_THREAD) $(PY) tools/check_wheel.py dist

lower-bounds: $(VENV)/.stamp-dev
	$(ONE_THREAD) $(PY) tools/lower_bounds.py --venv build/lower-bounds

docs: $(VENV)/.stamp-docs
	rm -rf docs/reference/generated docs/gallery
	$(ONE_THREAD) $(BIN)/sphinx-build -W --keep-going -q -E -b html docs build/docs/html
	$(ONE_THREAD) $(BIN)/sphinx-build -W --keep-going -q -b doctest docs build/docs/doctest
	@echo "docs: open build/docs/html/index.html"

# The compiled kernel and the CUDA kernels, both on the host, under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(VENV)/.stamp-dev
	$(PY) tools/sanitize.py

# The Triton kernels in Triton's interpreter and compiled for Hopper, without a GPU. A download of some 300 MB.
triton: $(VENV)/.stamp-dev
	$(PIP) --no-deps "triton>=3.6"
	$(ONE_THREAD) $(PY) -m pytest -q tests/tall

# A minute of hostile headers, indexes and recipes, guided by the branches that they take.
fuzz: $(VENV)/.stamp-dev
	$(PIP) "atheris>=3.0"
	$(PY) tools/fuzz_checkpoints.py --seconds 60

# Asks every server that a page links to, so it needs a network and is no part of check-all.
links: $(VENV)/.stamp-docs
	$(ONE_THREAD) $(BIN)/sphinx-build -q -b linkcheck docs build/docs/links

bench: $(VENV)/.stamp-dev
	$(if $(wildcard benchmarks/requirements.txt),$(PIP) -r benchmarks/requirements.txt)
	$(ONE_THREAD) $(PY) -m benchmarks.solve_speed $(BENCH_ARGS)

# Leaves the virtual environment; remove $(VENV) by hand for a full restart.
clean:
	rm -rf build dist docs/_build docs/gallery docs/reference/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find nashsolve tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +
