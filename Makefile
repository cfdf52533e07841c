# Every target sets up what it needs first; the second time that takes no time.
#   make setup    .venv with the pinned versions of constraints.txt
#   make demo     drawn videos -> features -> training -> scores -> endpoint -> report   (VIDEO=path: your own file)
#   make test     the test suite, two tests at a time            (ARGS="-k name": a part of it)
#   make test-all the same and the long fault scenarios
#   make coverage make test, and which lines it ran              (a third slower)
#   make lint     ruff, its formatting, and mypy
#   make docs     the API reference from docstrings, in build/docs
#   make pins     write constraints.txt anew from .venv
#   make clean    remove caches and the demo's output            (rm -rf .venv: the environment)
# JOBS=4 runs four tests at a time; each may start Ray: a core and 6 GB of memory for each.
# PYTHON=/path/to/python chooses the interpreter that .venv is made with (3.11 or newer).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all coverage lint docs pins clean

BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTHON ?=
JOBS ?= 2
PYTEST := -m pytest -n $(JOBS)

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)

# The commands are tried, not only looked up: a pyenv shim exists for versions that are switched off.
$(READY): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/python ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
	        if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	    done; \
	    if [ -z "$${found:-}" ]; then \
	        echo "error: no Python >= 3.11 with the venv module (tried: $(or $(PYTHON),python3.11 python3.12 python3.13 python3))." >&2; \
	        echo "       Install one (Debian: apt install python3.11-venv) or name it: make setup PYTHON=/path/to/python3.11" >&2; \
	        exit 1; \
	    fi; \
	    echo "== .venv from $$("$$found" --version) =="; \
	    "$$found" -m venv --clear .venv; \
	fi
	@echo "== installing the pinned packages into .venv (minutes the first time) =="
	@# torch alone and first, by its exact version: resolved among the rest, pip may fetch several gigabyte-sized builds of it.
	@$(PIP) install --quiet --progress-bar on -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	@$(PIP) install --quiet --progress-bar on -c constraints.txt -e '.[data,train,evaluate,serve,dev]'
	@touch $(READY)
	@echo "== ready: source .venv/bin/activate, then longvu --help =="

demo: $(READY)
	@$(BIN)/python -m jobs.demo $(if $(VIDEO),--video "$(VIDEO)") $(ARGS)

test: $(READY)
	@$(BIN)/python $(PYTEST) -m "not slow" $(ARGS)

test-all: $(READY)
	@$(BIN)/python $(PYTEST) $(ARGS)

coverage: $(READY)
	@$(BIN)/coverage erase
	@$(BIN)/coverage run $(PYTEST) -m "not slow" $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

docs: $(READY)
	@PYTHONPATH=. $(BIN)/python docs/reference.py build/docs
	@echo "build/docs/index.html"

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# NVIDIA's libraries and triton come with CUDA builds of torch, which pin them; flash-attn is pinned by hand.
pins: $(READY)
	@{ sed -n '/^#/p' constraints.txt; \
	   { $(PIP) freeze --all --exclude-editable --exclude pip --exclude longvu-ray | sed 's/+[a-z0-9.]*$$//' | grep -Ev '^(nvidia-|triton|cuda-)'; \
	     grep '^flash-attn==' constraints.txt; } | LC_ALL=C sort -fu -t= -k1,1; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt

clean:
	rm -rf runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* *.egg-info
	find longvu_model pipelines jobs tests -name __pycache__ -prune -exec rm -rf {} +
