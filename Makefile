# Everything runs in .venv, which the first target that needs it makes. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-fast check docs audit bench gpu-check clients constraints clean

setup: $(STAMP)

# sam2 (the tests' oracle) is built from source: without its CUDA extension, and against the torch that is pinned.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	SAM2_BUILD_CUDA=0 $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt \
	  --build-constraint constraints.txt --editable '.[all,dev]'
	touch $@

demo: setup
	$(BIN)/python run_lightening.py --config pl_configs/quickstart.yaml

test: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# What can be run after every change: no processes, no training, no whole commands.
test-fast: setup
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --quiet -m "not slow"

check: setup docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy
	$(BIN)/python .ci/licences.py > /dev/null
	$(BIN)/python -m pytest --quiet --doctest-modules --override-ini "testpaths=no_time_to_train docs_tools"

# The site, in site/. It fails on links and anchors that lead nowhere, and on anything that a page would load from elsewhere.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Known vulnerabilities (asks PyPI), bandit's rules, licences. A vulnerability that cannot be mended yet is left out by
# --ignore-vuln ID, with its reason in a comment here. `--strict`: what PyPI does not know was not audited.
audit: setup
	$(BIN)/ruff check --select S .
	$(BIN)/python .ci/licences.py
	$(BIN)/pip-audit --requirement constraints.txt --disable-pip --no-deps --strict

# Other people's programs, which tests/clients runs: their pins differ from ours, so they have an environment of their
# own. Without it those tests are skipped.
clients: .venv-clients/.installed

.venv-clients/.installed: tests/clients/requirements.txt tests/clients/package.json
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/clients/requirements.txt
	cp tests/clients/package.json .venv-clients/
	command -v npm > /dev/null && npm install --prefix .venv-clients --ignore-scripts --no-audit --no-fund --silent || \
	  echo "transformers.js was not installed: its tests are skipped" >&2
	touch $@

bench: setup
	$(BIN)/python -m benchmarks.matching
	$(BIN)/python -m benchmarks.encoder
	$(BIN)/python -m benchmarks.export
	$(BIN)/python -m benchmarks.prompting
	$(BIN)/python -m benchmarks.presets
	$(BIN)/python -m benchmarks.processes
	$(BIN)/python -m benchmarks.speed

# Tests and measurements on a GPU, in under nine minutes. Without `make setup`: PYTHON names an interpreter that has torch
# and the rest; where a GPU's machine has its own, it stays as it is.
gpu-check:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu --seconds 480

# Pins the newest versions that pyproject.toml allows: names and versions only.
constraints:
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra all --extra dev \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file constraints.txt pyproject.toml
	echo "uv==$$($(BIN)/uv --version | cut -d' ' -f2)" >> constraints.txt

clean:
	rm -rf $(VENV) .venv-clients runs site
