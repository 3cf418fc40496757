# make demo   train the paper's parallel LMU on permuted sequential MNIST (minutes on two CPU cores)
# make test   format, lint and type checks, then every test that is not slow
# make test-all  the same, then the slow tests
# make check  make test, after reformatting the code
# make fuzz   random layers against their equations, and wrong calls (minutes); 1 if one is wrong
# make core   compile the core again, as after a change of its C sources
# make test-plain  the tests of layers and operations without the compiled core (minutes)
# make sanitize  the kernels with checks of addresses and arithmetic (minutes)
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

.PHONY: demo core test test-plain test-all sanitize wheel-check arm check fuzz docs examples kills
.PHONY: format lint types clean

demo: $(VENV)/.train
	$(BIN)/lmu train psmnist --epochs 15

# Written with the core, and where there is no compiler instead of it.
CORE := src/lmu/ops/native/_build.json

core:
	rm -f $(CORE)
	$(MAKE) $(CORE)

$(CORE): hatch_build.py $(wildcard src/lmu/ops/native/c/*) | $(VENV)/.dev
	-$(BIN)/python hatch_build.py

# Two processes, of which each takes a file when it has done with one: fixtures are of files.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: lint types $(CORE)
	$(PYTEST) -m "not slow"

test-plain: $(VENV)/.dev
	$(PYTEST) -m "not slow" --native off tests/ops tests/layers

test-all: test test-plain sanitize
	$(PYTEST) -m slow

# The library is loaded by a Python that knows nothing of sanitizers, so theirs must be there first.
# It prints what it finds and ends the process, which therefore captures no output.
ASAN := $(shell gcc -print-file-name=libasan.so 2>/dev/null)

sanitize: $(VENV)/.dev
ifneq ($(findstring /,$(ASAN)),)
	CC=gcc LD_PRELOAD=$(ASAN) ASAN_OPTIONS=detect_leaks=0,allocator_may_return_null=1 \
		$(BIN)/python -m pytest --capture=sys --sanitize tests/ops/native -m "not slow"
else
	@echo "make sanitize: left out, as there is no gcc with a libasan.so"
endif

wheel-check: $(VENV)/.dev
	$(BIN)/python -m tests.wheels

arm: $(VENV)/.dev
	$(BIN)/pytest -rs tests/ops/native/test_arm.py

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
