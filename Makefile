# psedge: everything a newcomer needs, in a virtual environment of its own.
#
#   make demo     install, then train on this machine and watch
#   make test     the whole test suite
#   make help     the rest
#
# PYTHON  the Python to build the environment from, 3.10 or newer
# TORCH   what to install as PyTorch: a version, a wheel's path or its URL; where a vendor builds
#         its own (NVIDIA for Jetsons), name that wheel: make demo TORCH=./torch-linux_aarch64.whl

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
CONFIG ?= configs/digits-quickstart.toml

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo install install-test test test-sanitize test-aarch64 test-clang simulate-long chaos check format \
    benchmark docs clean distclean

help:  ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | \
	    awk -F '\t' '{ printf "  make %-14s %s\n", $$1, $$2 }'

demo: install  ## train a small network on handwritten digits: 2 servers, 3 workers, one view
	$(BIN)/psedge run $(CONFIG)

install: $(VENV)/.installed  ## psedge and what it needs, in .venv
install-test: $(VENV)/.installed-test  ## the same, with the test tools

test: install-test  ## the whole test suite
	$(BIN)/pytest

test-sanitize: install-test  ## the kernels under sanitizers, and a million damaged payloads
	$(BIN)/python tests/native/prove.py sanitize --fuzz 1000000
	$(BIN)/python tests/native/prove_bindings.py

test-aarch64: install-test  ## the kernels cross-compiled for a Raspberry Pi, byte for byte
	$(BIN)/python tests/native/prove.py aarch64 --fuzz 20000

test-clang: install-test  ## the kernels as Clang compiles them, byte for byte
	$(BIN)/python tests/native/prove.py clang

simulate-long: install-test  ## 10,000 random clusters and fault schedules on virtual time
	$(BIN)/python tests/random_schedules.py 0:10000

chaos: install-test  ## real processes killed, paused, cut off, out of disk: every role, and pairs
	$(BIN)/python tests/chaos_suite.py

check: install-test  ## format, lint, types and the rules of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_house.py

format: install-test  ## rewrite the code in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: install  ## what psedge costs a server and a worker, beside a bare loop of each
	$(BIN)/python benchmarks/server_exchange.py
	$(BIN)/python benchmarks/worker_overhead.py

docs: install  ## write docs/configuration.md anew from the config types
	$(BIN)/python -m psedge.config_docs docs/configuration.md

clean:  ## remove what builds and tests leave behind
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## remove the virtual environment and the native kernels too
	rm -rf $(VENV)
	rm -f compression/_kernels*.so

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo 'error: psedge needs Python 3.10 or newer; name one: make demo PYTHON=python3.12' >&2; \
	    exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo 'error: this Python cannot make virtual environments;' \
	         'on Debian, Ubuntu and Raspberry Pi OS: sudo apt install python3-venv' >&2; \
	    exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# A stamp that holds the value of TORCH, so that another value installs another PyTorch.
ifneq ($(strip $(TORCH)),$(shell cat $(VENV)/.torch 2>/dev/null))
.PHONY: $(VENV)/.torch
endif
$(VENV)/.torch: $(VENV)/.made
	@echo 'installing $(TORCH): the largest part, some minutes on a slow line'
	$(PIP) install '$(TORCH)'
	@echo '$(strip $(TORCH))' > $@

$(VENV)/.installed: pyproject.toml setup.py $(wildcard compression/kernels/*) $(VENV)/.torch
	$(PIP) install --quiet --prefer-binary -e '.[demo]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet --prefer-binary -e '.[test,demo]'
	@touch $@
