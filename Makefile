# The only interface: `make help` lists the targets and variables, which can be set on the command line, e.g.
# `make serve PORT=9001`. Text from a variable never stands in a recipe, where a shell would read it: `pass` puts it, as it
# was typed, into an environment variable of the target's programs. Defaults are the programs' own. What recipes do
# contain is marked with `override`: it cannot be set from outside.
override VENV := .venv
override BIN := $(VENV)/bin
override EXTRA := $(if $(filter cuda tensorrt,$(value DEVICE)),gpu,cpu)
override READY := $(VENV)/.ready-$(EXTRA)
override LOG := $(VENV)/setup.log

override VARIABLES := PYTHON DEVICE HOST PORT METRICS_PORT PRESET DATA CHECKPOINT TEACHERS NAME BUNDLE Q HISTORY K REPEAT SEED SOAK \
	REQUESTS DECODE BENCH BASE JSON EXPORT_FLAGS SERVE_FLAGS ASK_FLAGS BENCH_FLAGS PEERS_FLAGS
unexport $(VARIABLES)

# $(call pass,TARGETS,VARIABLE,ENVIRONMENT): $(value) is not expanded by make, so `$` and back-quotes stay what they are.
override pass = $(if $(value $(2)),$(eval $(1): export $(3) := $$(value $(2))))

# Not "export" first: make reads a line that begins with "export" as a directive.
override EXPORTING := serve export tune report bench bench-peers
$(call pass,$(EXPORTING),PRESET,SWIFTREC_EXPORT_PRESET)
$(call pass,$(EXPORTING),DATA,SWIFTREC_EXPORT_DATA)
$(call pass,$(EXPORTING),CHECKPOINT,SWIFTREC_EXPORT_CHECKPOINT)
$(call pass,$(EXPORTING),TEACHERS,SWIFTREC_EXPORT_TEACHERS)
$(call pass,$(EXPORTING),NAME,SWIFTREC_EXPORT_NAME)
$(call pass,$(EXPORTING),EXPORT_FLAGS,EXPORT_FLAGS_TYPED)
$(call pass,serve tune,DEVICE,SWIFTREC_DEVICE)
$(call pass,serve,HOST,SWIFTREC_HOST)
$(call pass,serve,PORT,SWIFTREC_PORT)
$(call pass,serve,METRICS_PORT,SWIFTREC_METRICS_PORT)
$(call pass,serve,SERVE_FLAGS,SERVE_FLAGS_TYPED)
$(call pass,ask,HOST,HOST_TYPED)
$(call pass,ask,PORT,PORT_TYPED)
$(call pass,ask,Q,SWIFTREC_ASK_QUERY)
$(call pass,ask,HISTORY,SWIFTREC_ASK_HISTORY)
$(call pass,ask,K,SWIFTREC_ASK_TOP_K)
$(call pass,ask,REPEAT,SWIFTREC_ASK_REPEAT)
$(call pass,ask,ASK_FLAGS,ASK_FLAGS_TYPED)
$(call pass,serve tune bench bench-peers,BUNDLE,BUNDLE_TYPED)
$(call pass,bench bench-peers,DEVICE,DEVICE_TYPED)
$(call pass,bench,BENCH,BENCH_TYPED)
$(call pass,bench,BENCH_FLAGS,BENCH_FLAGS_TYPED)
$(call pass,bench-compare,BASE,BASE_TYPED)
$(call pass,bench-peers,PEERS_FLAGS,PEERS_FLAGS_TYPED)
$(call pass,soak fuzz,SEED,SEED_TYPED)
$(call pass,soak,SOAK,SOAK_TYPED)
$(call pass,fuzz,REQUESTS,REQUESTS_TYPED)
$(call pass,fuzz,DECODE,DECODE_TYPED)
$(call pass,$(READY) lock,PYTHON,PYTHON_TYPED)

override EXPORT := $(BIN)/swiftrec export
override FLAGS := --flags-from EXPORT_FLAGS_TYPED

.DEFAULT_GOAL := help

.PHONY: help setup proto check test fuzz soak export serve tune report ask bench bench-compare bench-peers lock clean server benchmarks tests examples docs broken

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo "  variables: HOST PORT METRICS_PORT PRESET=quick|full DATA CHECKPOINT TEACHERS EXPORT_FLAGS NAME BUNDLE DEVICE=cpu|cuda|tensorrt Q HISTORY K REPEAT SERVE_FLAGS ASK_FLAGS BENCH=full|smoke BENCH_FLAGS BASE PEERS_FLAGS JSON SEED SOAK REQUESTS DECODE PYTHON"

setup: $(READY) ## create .venv and install everything at the pinned versions

$(READY): pyproject.toml constraints.txt $(shell test -x $(BIN)/python || echo broken)
	@python="$${PYTHON_TYPED:-python3}"; fail() { echo "setup: $$1" >&2; exit 1; }; \
	command -v "$$python" >/dev/null || fail "there is no program $$python: make PYTHON=python3.11 ..."; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		fail "Swiftrec needs Python 3.11 or newer, and $$python is older: make PYTHON=python3.11 ..."; \
	echo "installing into $(VENV) (about a minute, details in $(LOG)) ..."; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || rm -rf $(VENV); \
	mkdir -p $(VENV); \
	{ { test -x $(BIN)/python || "$$python" -m venv $(VENV); } && $(BIN)/python -m pip install --disable-pip-version-check \
		-c constraints.txt -e ".[$(EXTRA),export,bench,otel,dev]"; } >$(LOG) 2>&1 || \
		{ tail -n 10 $(LOG) >&2; fail "installing failed; above is the end of $(LOG): mend that and run make again"; }
	@touch $@

proto: setup ## regenerate server/pb from proto/
	$(BIN)/python -m grpc_tools.protoc -Iswiftrec/server/pb=proto --python_out=. --grpc_python_out=. \
		--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
		--mypy_out=. --mypy_grpc_out=. $(shell find proto -name '*.proto' | sed 's,^proto/,swiftrec/server/pb/,')

check: setup ## lint, types, contract lint, stub drift, import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/python -m pytest tests/test_house.py

# The export runs beside the first tests. Those that need its bundle wait for it; `cat` makes its progress plain lines.
test: setup ## run every test (exports the quick bundle where it is missing)
	@{ $(EXPORT) --preset quick 2>&1 | cat; } & \
		$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests; \
		code=$$?; wait; exit $$code

soak: setup ## 200,000 mixed requests while the server's memory is watched (SOAK=n)
	@$(BIN)/python -m tests.server.soak $${SEED_TYPED:+--seed="$$SEED_TYPED"} $${SOAK_TYPED:+--requests="$$SOAK_TYPED"}

fuzz: setup ## 50,000 mutated requests over the wire, 1,000,000 through decode and validate (SEED=n)
	@$(BIN)/python -m tests.server.fuzz $${SEED_TYPED:+--seed="$$SEED_TYPED"} \
		$${REQUESTS_TYPED:+--requests="$$REQUESTS_TYPED"} $${DECODE_TYPED:+--decode="$$DECODE_TYPED"}

export: setup ## data -> finetune -> blend -> distil -> onnx -> quantise -> verify -> final -> package
	@$(EXPORT) $(FLAGS)

serve: setup ## export where needed, then serve (BUNDLE=dir serves that one as it is)
	@if test -z "$$BUNDLE_TYPED$$SWIFTREC_BUNDLE"; then BUNDLE_TYPED="$$($(EXPORT) $(FLAGS))" || exit; fi; \
		exec $(BIN)/swiftrec serve $${BUNDLE_TYPED:+--bundle="$$BUNDLE_TYPED"} --flags-from SERVE_FLAGS_TYPED

tune: setup ## find sessions, threads and batch budget for the bundle on this machine; the server then uses them
	@if test -z "$$BUNDLE_TYPED$$SWIFTREC_BUNDLE"; then BUNDLE_TYPED="$$($(EXPORT) where $(FLAGS))" || exit; fi; \
		exec $(BIN)/swiftrec tune $${BUNDLE_TYPED:+--bundle="$$BUNDLE_TYPED"}

report: setup ## the ladder of a bundle: layers, size, speed and quality on five tasks (JSON=1 as JSON)
	@$(EXPORT) report $(FLAGS) $(if $(value JSON),--json)

ask: setup ## ask a running server: make ask Q="a good western" HISTORY="Toy Story (1995)|50"
	@$(BIN)/swiftrec ask \
		$(if $(value HOST)$(value PORT),--address="$${HOST_TYPED:-127.0.0.1}:$${PORT_TYPED:-8001}") --flags-from ASK_FLAGS_TYPED

bench: setup ## measure the bundle's server, 10 minutes at most; BENCH=smoke only tries it out (BENCH_FLAGS)
	@bundle="$${BUNDLE_TYPED:-$$($(EXPORT) $(FLAGS))}" && exec $(BIN)/swiftrec bench --bundle="$$bundle" \
		$${BENCH_TYPED:+--size="$$BENCH_TYPED"} $${DEVICE_TYPED:+--device="$$DEVICE_TYPED"} --flags-from BENCH_FLAGS_TYPED

bench-compare: setup ## the newest result against BASE=folder: non-zero if something is worse by more than chance explains
	@$(BIN)/swiftrec bench compare --base="$$BASE_TYPED"

bench-peers: setup ## other servers on the same job, side by side with this one (PEERS_FLAGS="--targets mosec --variant int8")
	@bundle="$${BUNDLE_TYPED:-$$($(EXPORT) $(FLAGS))}" && exec $(BIN)/swiftrec bench peers --bundle="$$bundle" \
		$${DEVICE_TYPED:+--device="$$DEVICE_TYPED"} --flags-from PEERS_FLAGS_TYPED

lock: ## renew constraints.txt from pyproject.toml in a throw-away environment
	rm -rf $(VENV)-lock && "$${PYTHON_TYPED:-python3}" -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check -e ".[cpu,export,bench,otel,dev]"
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable --exclude setuptools > $(VENV)-lock/frozen.txt
	sed 's/+cpu$$//' $(VENV)-lock/frozen.txt > $(VENV)-lock/constraints.txt && mv $(VENV)-lock/constraints.txt constraints.txt
	rm -rf $(VENV)-lock

clean: ## remove what make built: environment, bundles, caches
	rm -rf $(VENV) artifacts *.egg-info .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
