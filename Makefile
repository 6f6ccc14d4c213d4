# The only interface: `make help` lists it. Every variable can be set on the command line, e.g. `make serve PORT=9001`.
PYTHON ?= python3
DEVICE ?= cpu
VENV := .venv
BIN := $(VENV)/bin
EXTRA := $(if $(filter cuda tensorrt,$(DEVICE)),gpu,cpu)
READY := $(VENV)/.ready-$(EXTRA)

HOST ?= 127.0.0.1
PORT ?= 8001
METRICS_PORT ?= 8002
PRESET ?= quick
DATA ?=
CHECKPOINT ?=
TEACHERS ?=
EXPORT_FLAGS ?=
BY := $(if $(or $(findstring --protocol time,$(EXPORT_FLAGS)),$(findstring --protocol=time,$(EXPORT_FLAGS))),-time)
NAME ?= $(if $(DATA),$(notdir $(patsubst %/,%,$(DATA))),movielens)-$(PRESET)$(BY)
BUNDLE ?=
Q ?=
HISTORY ?=
REPEAT ?= 1
SEED ?= 7
REQUESTS ?= 50000
DECODE ?= 1000000
K ?= 10
BENCH ?= full
BENCH_FLAGS ?=
BASE ?=
JSON ?=

EXPORT := --preset $(PRESET) --name $(NAME) $(if $(DATA),--data "$(DATA)") $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") \
	$(if $(TEACHERS),--teachers $(TEACHERS)) $(EXPORT_FLAGS)

.DEFAULT_GOAL := help
ASK_FLAGS ?=
SOAK ?= 200000
SERVE_FLAGS ?=
PEERS_FLAGS ?=

.PHONY: help setup proto check test fuzz soak export serve tune report ask bench bench-compare bench-peers lock clean server benchmarks tests examples docs

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo "  variables: HOST PORT METRICS_PORT PRESET=quick|full DATA CHECKPOINT TEACHERS EXPORT_FLAGS NAME BUNDLE DEVICE=cpu|cuda|tensorrt Q HISTORY K REPEAT SERVE_FLAGS ASK_FLAGS BENCH=full|smoke BENCH_FLAGS BASE PEERS_FLAGS JSON SEED SOAK REQUESTS DECODE"

setup: $(READY) ## create .venv and install everything at the pinned versions

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Swiftrec needs Python 3.11 or newer: make PYTHON=python3.11 ...") if sys.version_info < (3, 11) else None'
	@echo "installing into $(VENV) (about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$(EXTRA),export,bench,otel,dev]"
	@touch $@

proto: setup ## regenerate server/pb from proto/
	$(BIN)/python -m grpc_tools.protoc -Iserver/pb=proto --python_out=. --grpc_python_out=. \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--mypy_out=. --mypy_grpc_out=. $(shell find proto -name '*.proto' | sed 's,^proto/,server/pb/,')

check: setup ## lint, types, contract lint, stub drift, import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/python -m pytest tests/unit/test_house.py

test: setup ## run every test (exports the quick bundle first where it is missing)
	$(BIN)/python -m pytest

soak: setup ## 200,000 mixed requests while the server's memory is watched (SOAK=n)
	$(BIN)/python -m tests.soak --seed $(SEED) --requests $(SOAK)

fuzz: setup ## 50,000 mutated requests over the wire, 1,000,000 through decode and validate (SEED=n)
	$(BIN)/python -m tests.fuzz --seed $(SEED) --requests $(REQUESTS) --decode $(DECODE)

export: setup ## data -> finetune -> distil -> onnx -> quantise -> verify -> package
	@$(BIN)/python -m export $(EXPORT)

serve: setup ## export where needed, then serve (BUNDLE=dir serves that one as it is)
	@$(if $(BUNDLE),true,$(BIN)/python -m export $(EXPORT))
	@exec $(BIN)/python -m server --bundle "$(or $(BUNDLE),artifacts/$(NAME))" --host $(HOST) --port $(PORT) \
		--metrics-port $(METRICS_PORT) --device $(DEVICE) $(SERVE_FLAGS)

tune: setup ## find sessions, threads and batch budget for the bundle on this machine; the server then uses them
	@$(BIN)/python -m server tune --bundle "$(or $(BUNDLE),artifacts/$(NAME))" --device $(DEVICE)

report: setup ## the ladder of a bundle: layers, size, speed and quality on five tasks (JSON=1 as JSON)
	@$(BIN)/python -m export report $(EXPORT) $(if $(JSON),--json)

ask: setup ## ask a running server: make ask Q="a good western" HISTORY="Toy Story (1995)|50"
	@$(BIN)/python -m examples.ask --address $(HOST):$(PORT) --query "$(Q)" --history "$(HISTORY)" --top-k $(K) --repeat $(REPEAT) $(ASK_FLAGS)

bench: setup ## measure the bundle's server, 10 minutes at most; BENCH=smoke only tries it out (BENCH_FLAGS)
	@$(if $(BUNDLE),true,$(BIN)/python -m export $(EXPORT))
	@$(BIN)/python -m benchmarks bench --size $(BENCH) --bundle "$(or $(BUNDLE),artifacts/$(NAME))" --device $(DEVICE) $(BENCH_FLAGS)

bench-compare: setup ## the newest result against BASE=folder: non-zero if something is worse by more than chance explains
	@$(BIN)/python -m benchmarks compare --base "$(BASE)"

bench-peers: setup ## other servers on the same job, side by side with this one (PEERS_FLAGS="--targets mosec --variant int8")
	@$(if $(BUNDLE),true,$(BIN)/python -m export $(EXPORT))
	@$(BIN)/python -m benchmarks.peers --bundle "$(or $(BUNDLE),artifacts/$(NAME))" --device $(DEVICE) $(PEERS_FLAGS)

lock: ## renew constraints.txt from pyproject.toml in a throw-away environment
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check -e ".[cpu,export,bench,otel,dev]"
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable --exclude setuptools | sed 's/+cpu$$//' > constraints.txt
	rm -rf $(VENV)-lock

clean: ## remove what make built: environment, bundles, caches
	rm -rf $(VENV) artifacts *.egg-info .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
