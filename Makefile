# `make demo` and `make test` need Python 3.11 or later, make and a package index. They set up .venv by themselves.
#
#   PYTHON=python3.12   the Python to build .venv with
#   TORCH_INDEX=URL     an index to take PyTorch from: with its index of CPU builds (the address is on PyTorch's page
#                       "Get started", under CPU) a machine without CUDA is spared some gigabytes
#   ARGS="--seed 1"     more options for the demo

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
TORCH_INDEX ?=
ARGS ?=

PEER := .peers/trl-1.16
PPO_PEER := .peers/trl-1.10
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
TORCH := $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) torch
# Two processes with two threads each wait for one another on two cores; one thread each is several times faster.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: demo compare test test-long parity bench bench-quick bench-scale bench-gpu clean

demo: $(VENV)/made
	$(VENV)/bin/preferent demo --resume $(ARGS)

# Many methods on the demo's world, three seeds: writes benchmarks/results/compare.json and docs/methods.md's table.
compare: $(VENV)/made
	$(VENV)/bin/python benchmarks/compare.py $(ARGS)

# Budgets and the fences of the documentation are tests as well; the last line is pytest's own summary.
test: $(VENV)/made
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo
	$(ONE_THREAD) $(VENV)/bin/pytest -n $(WORKERS) --dist worksteal -m "" --durations 10 -rs

# A hundred kills, a million judgements: what takes too long for every change. Figures go to benchmarks/results/.
test-long: $(VENV)/made
	$(ONE_THREAD) $(VENV)/bin/python benchmarks/kills.py
	$(ONE_THREAD) $(VENV)/bin/python benchmarks/store.py

parity: $(VENV)/made $(PEER)/made
	$(ONE_THREAD) $(VENV)/bin/python benchmarks/parity.py --peer $(PEER)/bin/python

# Speed and memory against the peers, both sides taking turns on all cores. A peer that cannot be installed is missing.
# `make bench` writes benchmarks/results/speed.json and the table in docs/performance.md, whether or not targets are met.
bench: $(VENV)/made
	-@$(MAKE) --no-print-directory $(PEER)/made $(PPO_PEER)/made
	$(VENV)/bin/python benchmarks/speed.py --peer $(PEER)/bin/python --ppo-peer $(PPO_PEER)/bin/python $(ARGS)

bench-quick: $(VENV)/made
	-@$(MAKE) --no-print-directory $(PEER)/made
	$(VENV)/bin/python benchmarks/speed.py --quick --peer $(PEER)/bin/python $(ARGS)

# How cost grows with prompts, replies, vocabulary and data.
bench-scale: $(VENV)/made
	$(VENV)/bin/python benchmarks/scale.py $(ARGS)

# On a machine with a CUDA GPU, and a PyTorch for it.
bench-gpu: $(VENV)/made
	$(VENV)/bin/python benchmarks/gpu.py $(ARGS)

clean:
	rm -rf $(VENV) .peers dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'preferent needs Python 3.11 or later; this is' "`$(PYTHON) --version 2>&1`. Try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP_INSTALL) $(TORCH)
	$(VENV)/bin/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

$(PEER)/made $(PPO_PEER)/made: .peers/trl-%/made: constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(PIP_INSTALL) $(TORCH)
	$(@D)/bin/python $(PIP_INSTALL) trl==$*.0
	@touch $@
