# The only interface: `make help` lists the targets and the variables, which are set on the command line, as in
# `make serve PORT=9001`. The text of a variable never appears in a recipe, where a shell would read it: `pass` puts it
# unchanged into an environment variable of the target's programs, which own the defaults. What recipes do contain is
# marked with `override`, so that it cannot be set from outside.
override VENV := .venv
override BIN := $(VENV)/bin
override LOG := $(VENV)/setup.log
override RUNTIME := $(if $(filter cuda tensorrt,$(value DEVICE)),gpu,cpu)
override OTHER_RUNTIME := $(if $(filter gpu,$(RUNTIME)),cpu,gpu)

# The extras of pyproject.toml that the targets on the command line need. With a bundle given, nothing is exported.
override HAS_BUNDLE := $(if $(value BUNDLE)$(value SWIFTREC_BUNDLE),yes)
override needs = $(if $(filter $(1),$(MAKECMDGOALS)),$(2))
override EXTRAS := $(sort $(RUNTIME) otel \
	$(call needs,export report $(if $(HAS_BUNDLE),,serve tune bench bench-peers),export) \
	$(call needs,bench bench-compare bench-peers,bench) \
	$(call needs,proto check test soak fuzz,bench dev export))

# Both ONNX Runtimes install the same module, so one is removed before the other is installed.
override REMOVE_OTHER_RUNTIME := { ! test -e $(VENV)/.has-$(OTHER_RUNTIME) || { rm $(VENV)/.has-$(OTHER_RUNTIME) && \
	$(BIN)/python -m pip uninstall --yes onnxruntime onnxruntime-gpu; }; }

override comma := ,
override space := $(subst ,, )
override VARIABLES := PYTHON DEVICE HOST PORT METRICS_PORT PRESET DATA CHECKPOINT TEACHERS NAME BUNDLE Q HISTORY K REPEAT SEED SOAK \
	REQUESTS DECODE BENCH BASE JSON EXPORT_FLAGS SERVE_FLAGS ASK_FLAGS BENCH_FLAGS PEERS_FLAGS
unexport $(VARIABLES)

# $(call pass,TARGETS,VARIABLE,ENVIRONMENT). $(value) keeps make from expanding `$` in the text.
override pass = $(if $(value $(2)),$(eval $(1): export $(3) := $$(value $(2))))

# "export" is not the first word, because make reads a line that begins with it as a directive.
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
$(call pass,setup lock,PYTHON,PYTHON_TYPED)

override EXPORT := $(BIN)/swiftrec export
override FLAGS := --flags-from EXPORT_FLAGS_TYPED

.DEFAULT_GOAL := help

.PHONY: help setup proto check test fuzz soak export serve tune report ask bench bench-compare bench-peers lock clean server benchmarks tests docs

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo "  variables: HOST PORT METRICS_PORT PRESET=quick|full DATA CHECKPOINT TEACHERS EXPORT_FLAGS NAME BUNDLE DEVICE=cpu|cuda|tensorrt Q HISTORY K REPEAT SERVE_FLAGS ASK_FLAGS BENCH=full|smoke BENCH_FLAGS BASE PEERS_FLAGS JSON SEED SOAK REQUESTS DECODE PYTHON"
	@echo "  Each target installs what it needs into $(VENV): 0.4 GB to serve a BUNDLE, 1.8 GB to export, 0.6 GB to bench a BUNDLE, 2.0 GB for check and test."

setup: ## create .venv with what serving needs; the other targets add what they need
	@python="$${PYTHON_TYPED:-python3}"; missing=; fail() { echo "setup: $$1" >&2; exit 1; }; \
	for extra in $(EXTRAS); do for file in pyproject.toml constraints.txt; do \
		test -e $(VENV)/.has-$$extra && ! test $$file -nt $(VENV)/.has-$$extra || missing=yes; done; done; \
	if test -z "$$missing" && test -x $(BIN)/python; then exit; fi; \
	command -v "$$python" >/dev/null || fail "there is no program $$python: make PYTHON=python3.11 ..."; \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		fail "Swiftrec needs Python 3.11 or newer, and $$python is older: make PYTHON=python3.11 ..."; \
	echo "installing $(EXTRAS) into $(VENV) (details in $(LOG)) ..."; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || rm -rf $(VENV); \
	mkdir -p $(VENV); \
	{ { test -x $(BIN)/python || "$$python" -m venv $(VENV); } && $(REMOVE_OTHER_RUNTIME) && \
		$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[$(subst $(space),$(comma),$(EXTRAS))]"; } \
		>$(LOG) 2>&1 || { tail -n 10 $(LOG) >&2; \
		fail "the installation failed; above is the end of $(LOG): fix the cause and run make again"; }; \
	for extra in $(EXTRAS); do touch $(VENV)/.has-$$extra; done

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

# The export runs beside the tests; those that need its bundle run last and wait for it. `cat` makes its progress plain lines.
test: setup ## run every test (exports the quick bundle first if it is missing)
	@{ $(EXPORT) --preset quick 2>&1 | cat; } & \
		$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests; \
		code=$$?; wait; exit $$code

soak: setup ## send 200,000 mixed requests and watch the server's memory (SOAK=n)
	@$(BIN)/python -m tests.server.soak $${SEED_TYPED:+--seed="$$SEED_TYPED"} $${SOAK_TYPED:+--requests="$$SOAK_TYPED"}

fuzz: setup ## send 50,000 mutated requests; decode and validate 1,000,000 more (SEED=n)
	@$(BIN)/python -m tests.server.fuzz $${SEED_TYPED:+--seed="$$SEED_TYPED"} \
		$${REQUESTS_TYPED:+--requests="$$REQUESTS_TYPED"} $${DECODE_TYPED:+--decode="$$DECODE_TYPED"}

export: setup ## data -> finetune -> blend -> distil -> onnx -> quantise -> verify -> final -> package
	@$(EXPORT) $(FLAGS)

serve: setup ## export a bundle if there is none that is up to date, and serve it; BUNDLE=folder serves that one
	@if test -z "$$BUNDLE_TYPED$$SWIFTREC_BUNDLE"; then BUNDLE_TYPED="$$($(EXPORT) $(FLAGS))" || exit; fi; \
		exec $(BIN)/swiftrec serve $${BUNDLE_TYPED:+--bundle="$$BUNDLE_TYPED"} --flags-from SERVE_FLAGS_TYPED

tune: setup ## measure which settings make the bundle fastest on this machine; the server then uses them
	@if test -z "$$BUNDLE_TYPED$$SWIFTREC_BUNDLE"; then BUNDLE_TYPED="$$($(EXPORT) where $(FLAGS))" || exit; fi; \
		exec $(BIN)/swiftrec tune $${BUNDLE_TYPED:+--bundle="$$BUNDLE_TYPED"}

report: setup ## print size, speed and quality of the variants of a bundle (JSON=1: as JSON)
	@$(BIN)/swiftrec report $(FLAGS) $(if $(value JSON),--json)

ask: setup ## send a request to a running server: make ask Q="a good western" HISTORY="Toy Story (1995)|50"
	@$(BIN)/swiftrec ask \
		$(if $(value HOST)$(value PORT),--address="$${HOST_TYPED:-127.0.0.1}:$${PORT_TYPED:-8001}") --flags-from ASK_FLAGS_TYPED

bench: setup ## measure the server with the bundle in at most 10 minutes; BENCH=smoke only tries the benchmark out (BENCH_FLAGS)
	@bundle="$${BUNDLE_TYPED:-$$($(EXPORT) $(FLAGS))}" && exec $(BIN)/swiftrec bench --bundle="$$bundle" \
		$${BENCH_TYPED:+--size="$$BENCH_TYPED"} $${DEVICE_TYPED:+--device="$$DEVICE_TYPED"} --flags-from BENCH_FLAGS_TYPED

bench-compare: setup ## compare the newest result with BASE=folder; fails on a regression beyond chance
	@$(BIN)/swiftrec bench compare --base="$$BASE_TYPED"

bench-peers: setup ## measure other servers and this one on the same job (PEERS_FLAGS="--targets mosec --variant int8")
	@bundle="$${BUNDLE_TYPED:-$$($(EXPORT) $(FLAGS))}" && exec $(BIN)/swiftrec bench peers --bundle="$$bundle" \
		$${DEVICE_TYPED:+--device="$$DEVICE_TYPED"} --flags-from PEERS_FLAGS_TYPED

lock: ## update constraints.txt from pyproject.toml, in a temporary environment
	rm -rf $(VENV)-lock && "$${PYTHON_TYPED:-python3}" -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check -e ".[cpu,export,bench,otel,dev]"
	$(VENV)-lock/bin/python -m pip freeze --exclude-editable --exclude setuptools > $(VENV)-lock/frozen.txt
	sed 's/+cpu$$//' $(VENV)-lock/frozen.txt > $(VENV)-lock/constraints.txt && mv $(VENV)-lock/constraints.txt constraints.txt
	rm -rf $(VENV)-lock

clean: ## remove what make created: environment, bundles, caches
	rm -rf $(VENV) artifacts build dist *.egg-info .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
