# make quickstart   environment, then the main job: offline, on a CPU
# make test         environment, then all tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup quickstart test lint types bench chromium clean

setup: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The page of `vila2data report` is opened in a browser by one test; where none can be installed it is skipped.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
	  echo "no chromium: the test that opens the report in a browser will be skipped"

quickstart: setup
	rm -rf quickstart
	$(BIN)/vila2data quickstart --out quickstart

test: setup chromium
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv quickstart build dist *.egg-info
