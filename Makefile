# make demo   train the paper's parallel LMU on permuted sequential MNIST (minutes on two CPU cores)
# make test   format, lint and type checks, then every test that is not slow
# make test-all  the same, then the slow tests
# make check  make test, after reformatting the code
# make fuzz   random layers against their equations, and wrong calls (minutes); 1 if one is wrong
# make core   compile the core again, as after a change of its C sources
# make test-plain  the tests of layers and operations without the compiled core (minutes)
# make sanitize  the kernels with checks of addresses and arithmetic (a minute)
# make wheel-check  wheels with and without the core, each in a clean environment (minutes)
# make arm    the tests of the kernels' headers on an emulated ARM processor
# make docs   the site in site/, built strictly; mkdocs serve shows it while you write
# make examples  run the notebooks in examples/ in full and write them (about twenty minutes on one core)
# make kills  kill training and experiments hundreds of times, fill disks, and count losses
#
# They set themselves up: they need Python >= 3.10 and make, and create .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check fuzz docs examples kills format lint types clean

demo: $(VENV)/.train
	$(BIN)/lmu train psmnist --epochs 15

# Two processes, of which each takes a file when it has done with one: fixtures are of files.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: lint types
	$(PYTEST) -m "not slow"

test-all: test
	$(PYTEST) -m slow

check: format test

fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

examples: $(VENV)/.dev
	$(BIN)/python examples/execute.py

kills: $(VENV)/.train
	$(BIN)/python -m benchmarks.kills --output results/kills.json

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One recipe for both sets of packages: .train is what users install, .dev adds the tools.
$(VENV)/.train $(VENV)/.dev: $(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@
