# make demo    a trained network through both routes, checked and timed against onnxruntime
# make test    lint, types and every test, in an environment of its own (TESTS=tests/ir for a part)
# make lint    ruff and mypy alone
# make docs    the documentation, into site/ (opens from disk)
# make clean   forget the environment and the caches
#
# Only python3 (3.11 or newer) and a network for pip are needed; everything goes into .venv.
# On a machine whose package index serves torch with CUDA, spare yourself gigabytes:
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON    ?= python3
VENV      ?= .venv
PIP_FLAGS ?=
TESTS     ?=
BIN       := $(VENV)/bin
PIP       := $(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_FLAGS)

.PHONY: demo test lint docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python -m demo

test: lint
	$(BIN)/python -m pytest -n 2 $(TESTS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build --strict --clean

clean:
	rm -rf site $(VENV) .pytest_cache .hypothesis .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "graphopt needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing graphopt, torch and onnxruntime into $(VENV): minutes the first time"
	$(PIP) -e '.[demo]'
	touch $@

# torchvision and hls4ml ask for far more than is used of them here (model definitions; the ap_types headers),
# torchvision for another build of torch, so they come without what they depend on.
$(VENV)/.test: pyproject.toml Makefile | $(BIN)/python
	@echo "Installing graphopt and what its tests compare with into $(VENV): minutes the first time"
	$(PIP) -e '.[demo,dev,bench,docs]'
	$(PIP) --no-deps 'torchvision==0.29.2' 'hls4ml==1.3.0'
	touch $@

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	@echo "Installing graphopt and what builds its documentation into $(VENV): a minute the first time"
	$(PIP) -e '.[docs]'
	touch $@
