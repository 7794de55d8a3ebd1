# make serve    serve the default model on 127.0.0.1:8000 (HOST, PORT and MODEL override)
# make test     the whole suite, on the real model, and what of the code it ran
# make test-clients  other people's clients and checkers, each in its own environment (downloads them)
# make faults   thousands of connections, full disks, killed processes: what docs/reliability.md promises
# make prove-batches  10,000 requests of a batch over three workers, of which containers die meanwhile (BATCH_REQUESTS)
# make check    formatting, lint, strict types
# make docs     docs/settings.md, from the settings classes
# make bench    questions, chats and tool calls against llama-server and llama_cpp.server (hours; builds them in .cache)
# make report   docs/report: 100 users on three servers, 50 questions, the gateway's own cost, growth
# make load BASE_URL=… API_KEY=…  100 users on any deployment, with Locust (in .cache); USERS, RAMP, CLASSES, LOCUST
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: serve test test-clients faults report bench check docs format constraints clean
.DEFAULT_GOAL := serve

$(INSTALLED): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo 'Python lacks its venv module: install it first (on Debian: apt-get install python3-venv)'; exit 1; }
	@command -v c++ >/dev/null || \
		{ echo 'A C/C++ compiler is needed to build llama.cpp (on Debian: apt-get install build-essential)'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing the pinned packages. The first time, llama.cpp is compiled: 2 to 3 minutes on 2 cores.'
	$(BIN)/python -m worker.llama.build
	$(BIN)/python -m pip install --progress-bar off --no-deps --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

serve: $(INSTALLED)
	@exec $(BIN)/llama-gateway serve

JOBS ?= 2
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --cov

test-clients: $(INSTALLED)
	$(BIN)/python -m pytest -m clients compat_tests

faults: $(INSTALLED)
	$(BIN)/python -m pytest -m faults compat_tests/test_faults.py

# LOCUST= instead of the default opens Locust's page at http://localhost:8089.
USERS ?= 100
RAMP ?= 1
CLASSES ?= GenerateUser
LOCUST ?= --headless --run-time 3m --html .cache/load.html --csv .cache/load
LOAD_VENV := .cache/bench-peers/locust

.PHONY: load
load: export API_KEY := $(API_KEY)
load: $(LOAD_VENV)/bin/locust
	@test -n '$(BASE_URL)' || { echo 'Say which deployment: make load BASE_URL=https://… API_KEY=…'; exit 1; }
	PYTHONPATH=. $(LOAD_VENV)/bin/locust -f benchmarks/locustfile.py --host '$(BASE_URL)' \
		--users $(USERS) --spawn-rate $(RAMP) $(LOCUST) $(CLASSES)

$(LOAD_VENV)/bin/locust:
	$(PYTHON) -c 'from benchmarks.load_test import locust; locust()'

# 10,000 requests of a batch over three workers in the local control plane, of which containers die meanwhile.
BATCH_REQUESTS ?= 10000
prove-batches: $(INSTALLED)
	BATCH_REQUESTS=$(BATCH_REQUESTS) $(BIN)/python -m pytest compat_tests/test_modal_batches.py -k once

report: $(INSTALLED)
	$(BIN)/python -m benchmarks --repeats 1 report

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks all

check: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

docs: $(INSTALLED)
	$(BIN)/python -m docs.settings

format: $(INSTALLED)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# Pins every package, for every supported Python, with hashes. Needs uv.
constraints:
	uv pip compile pyproject.toml --extra modal --extra redis --extra tracing --extra dev --universal --generate-hashes \
		--python-version 3.11 --no-header --no-annotate --output-file constraints.txt

clean:
	rm -rf $(VENV) .cache .coverage .mypy_cache .pytest_cache .ruff_cache *.egg-info
