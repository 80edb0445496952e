# One target a habit. `make run` and `make test` need only Python >= 3.11 and make; they set up $(VENV) by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.ready-run
DEV_READY := $(VENV)/.ready-dev
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q
export PYTHONSAFEPATH = 1

.PHONY: help run test check format bench demo proto fuzz lock image image-test clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "swan-serve needs Python >= 3.11; found $$($(PYTHON) --version 2>&1). Use: make PYTHON=/path/to/python3.11 run"; exit 1; }
	@echo "== creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(RUN_READY): requirements/run.txt requirements/torch.txt requirements/build.txt | $(BIN)/python
	@echo "== installing the locked packages (once; about two minutes)"
	@$(PIP) -r requirements/torch.txt
	@$(PIP) --require-hashes --no-deps -r requirements/run.txt
	@$(PIP) --require-hashes --no-deps -r requirements/build.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_READY): requirements/dev.txt $(RUN_READY)
	@echo "== installing the locked packages for tests and checks"
	@$(PIP) --require-hashes --no-deps -r requirements/dev.txt
	@touch $@

run: $(RUN_READY)  ## start the service on 8000 (HTTP) and 8001 (gRPC)
	@exec $(BIN)/swan serve

demo: $(RUN_READY)  ## two minutes: a spike of real images against adaptive and fixed budgets, with a report
	@exec $(BIN)/swan loadtest spike --rounds 1 --report out/demo

test: $(DEV_READY)  ## run the tests
	$(BIN)/python -m pytest -m "not nightly and not image" $(PYTEST_ARGS)

check: $(DEV_READY)  ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV_READY)  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(DEV_READY)  ## compile the protocol's descriptors
	$(BIN)/python -m grpc_tools.protoc -I service/api/proto --descriptor_set_out=service/api/proto/descriptors.binpb service/api/proto/*.proto

fuzz: $(DEV_READY)  ## at least 10,000 hostile requests against the real service, minutes
	$(BIN)/python -m pytest -m nightly tests/integration/fuzz $(PYTEST_ARGS)

IMAGE ?= localhost/swan-serve:test

image:  ## build the image with buildah (root; a base of Debian's packages unless PYTHON_IMAGE names one)
	deploy/image/build.sh $(IMAGE)

image-test: $(DEV_READY)  ## run the image as KubeRay runs it: podman, runc, head and workers (root; after make image)
	SWAN_IMAGE=$(IMAGE) $(BIN)/python -m pytest -s -m image tests/image $(PYTEST_ARGS)

COMPILE := $(BIN)/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	--strip-extras --no-header --unsafe-package torch

lock: $(DEV_READY)  ## resolve the dependencies anew (about 15 minutes)
	$(COMPILE) -c requirements/torch.txt -o requirements/run.txt pyproject.toml
	$(COMPILE) -c requirements/torch.txt -c requirements/run.txt --extra test --extra dev --extra otlp --extra parquet \
		-o requirements/dev.txt pyproject.toml

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist build
