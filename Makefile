# make quickstart   environment, then the main job: offline, on a CPU
# make test         environment, then all tests
# make test-vllm    an environment with vLLM, then the tests that need it
PYTHON ?= python3
BIN := .venv/bin
VLLM_BIN := .venv-vllm/bin
# environment/: what its files say
HOOK := environment/torchvision_beside_cpu_torch.py environment/torchvision_beside_cpu_torch.pth
SITE = $$($(1)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

.PHONY: setup quickstart test test-vllm lint types bench chromium clean

setup: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml constraints.txt $(HOOK)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	cp $(HOOK) $(call SITE,$(BIN))
	touch $@

# Without dependencies, since the list is complete: it leaves out torchaudio and torchcodec, which vLLM names, whose
# wheels do not load beside a CPU torch, and which only sound and video need.
.venv-vllm/.installed: setup.cfg pyproject.toml constraints-vllm.txt $(HOOK) environment/vllm_by_its_name.py
	$(PYTHON) -m venv .venv-vllm
	$(VLLM_BIN)/python -m pip install --quiet --upgrade pip
	$(VLLM_BIN)/python -m pip install --quiet --no-deps --requirement constraints-vllm.txt
	$(VLLM_BIN)/python -m pip install --quiet --no-deps --editable .
	cp $(HOOK) $(call SITE,$(VLLM_BIN))
	$(VLLM_BIN)/python environment/vllm_by_its_name.py
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

# Two at a time; the tests of a file stay together, since they share what is slow to make.
test: setup chromium
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-vllm: .venv-vllm/.installed
	$(VLLM_BIN)/python -m pytest tests/vllm

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .venv-vllm quickstart build dist *.egg-info
