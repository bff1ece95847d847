# Two commands do all set-up: `make run` and `make test`. Everything lands in .venv/, .cache/ and runs/; nothing is installed elsewhere, but
# for bubblewrap, which `make test` asks Debian's package manager for where it may.
#
#   make run     set-up, then the main job on the installed Python's sources, offline (about half an hour on 2 cores)
#   make test    set-up, then format, lint, types and all tests
#   make bench   set-up, then the speed and memory measurements (ratios and medians)
#   make llama   llama-cpp-python from source (needs cmake and a compiler, minutes): then make test loads exported files with it too
#   make gpu-check   the `gpu` tests and the speed of training steps beside a matrix product; without a GPU its processor part
#   make gpu-wheels  wheels for a GPU machine without network, in .cache/gpu-wheels; bring them along and `make gpu-check` takes them
#   make campaign    hostile coded files, then kills, corruptions and signals by the hundred; the latter resumable (hours)
#   make clean   remove what the project made here, the environment included
#
# PYTHON=python3.12 picks another interpreter. TORCH='torch==2.12.1' picks another torch in the range of pyproject.toml; by default the CPU
# build is taken where pip can find one and the machine has no NVIDIA driver (see README, "Choosing a torch").

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Tests wait for child processes half of their time.
TEST_PROCESSES ?= 2
PLAN ?= configs/compare/quickstart.yaml
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Without these, two ranks on two cores start four threads that fight, and gloo may look for a network.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false

PY := $(VENV)/bin/python
STAMP := $(VENV)/.set-up-complete
.DEFAULT_GOAL := help
.PHONY: help setup run test check lint types tools bench llama gpu-check gpu-wheels campaign clean

help:
	@sed -n '4,11s/^# *//p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "proxy-lm needs Python 3.11 or newer; this is %s: run make with PYTHON=python3.11" % sys.version.split()[0])'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "this Python cannot make environments; install its venv package (Debian: python3-venv)"; exit 2; }
	@rm -f $(STAMP)
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@if $(PY) -c 'import torch' 2>/dev/null; then echo "set-up: torch is there already"; \
	elif command -v nvidia-smi >/dev/null 2>&1; then echo "set-up: NVIDIA driver found, installing $(TORCH)"; $(PY) -m pip install -q "$(TORCH)"; \
	else echo "set-up: no NVIDIA driver, installing the CPU build of $(TORCH)"; \
	  $(PY) -m pip install -q "$(TORCH)+cpu" 2>/dev/null || { \
	  echo "set-up: pip's indexes have no '+cpu' build of it; taking $(TORCH) as it comes (see README, Choosing a torch)"; \
	  $(PY) -m pip install -q "$(TORCH)"; }; fi
	@echo "set-up: installing proxy-lm and its dependencies"
	@$(PY) -m pip install -q -e '.[dev]'
	@touch $(STAMP)

run: $(STAMP)
	@$(VENV)/bin/proxy-lm-eval compare $(PLAN)

lint: $(STAMP)
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m ruff check --quiet .

types: $(STAMP)
	@$(PY) -m mypy --no-error-summary

test: lint types tools
	@$(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile

# Not Python packages, so not in the set-up: bubblewrap for the strongest tiers of the sandbox. Without it the tests try the tier there is.
tools:
	@command -v bwrap >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	    echo "set-up: installing bubblewrap"; \
	    { apt-get install -y -qq bubblewrap || { apt-get update -qq && apt-get install -y -qq bubblewrap; }; } >/dev/null 2>&1; fi; \
	  command -v bwrap >/dev/null 2>&1 || echo "set-up: no bubblewrap here; the sandbox is tested without namespaces (Debian: apt-get install bubblewrap)"; }

check: test

# make test reads exported GGUF files through another build of llama.cpp, which is a wheel; this one is what most users have.
llama: $(STAMP)
	@CMAKE_BUILD_PARALLEL_LEVEL=2 $(PY) -m pip install -q 'llama-cpp-python>=0.3.16,<0.4'

bench: $(STAMP)
	@$(PY) -m pytest -m bench -s

# On a machine without an index the wheels that were brought along take the place of the set-up; torch is then the machine's own.
gpu-check:
	@if [ ! -e $(STAMP) ] && [ -d .cache/gpu-wheels ]; then \
	  $(PYTHON) -m proxy_lm.train.wheels install .cache/gpu-wheels .venv-gpu && py=.venv-gpu/bin/python; \
	else $(MAKE) --silent setup && py=$(PY); fi && \
	{ $$py -m pytest -m gpu -rs; code=$$?; [ $$code -eq 0 ] || [ $$code -eq 5 ] || exit $$code; } && \
	$$py -m proxy_lm.train.gpu_check $(GPU_CHECK)

gpu-wheels:
	@$(PYTHON) -m proxy_lm.train.wheels pack .cache/gpu-wheels

campaign: $(STAMP)
	@$(PY) -m pytest -m campaign -s
	@$(PY) -m proxy_lm.train.campaign $(CAMPAIGN)

clean:
	rm -rf $(VENV) .venv-gpu .cache runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
