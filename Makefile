# The same targets for people and for CI. `make` lists them.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow test-peers robot-environments test-robots lint format typecheck bench sanitize soak

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Make .venv with every package in it; quick when nothing has changed
	@PYTHON="$(PYTHON)" bash scripts/setup_environment.sh

demo: install ## Record demonstrations, train, export and drive the simulated robot
	@$(BIN)/python scripts/demo.py $(ARGS)

test: install ## Run the tests, two files at a time (ARGS="-k config" picks some)
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)

test-slow: install ## Run the slow tests: soaks, many seeds, full widths (ARGS as above)
	@FLUX_SLOW=1 $(BIN)/python -m pytest -m slow --numprocesses 2 --dist load --max-worker-restart 0 $(ARGS)

test-peers: install ## Run what needs a peer (ARGS picks some of: lerobot-0.3 lerobot-0.4 libero browser)
	@bash scripts/test_peers.sh $(ARGS)

robot-environments: ## Make the environments of tests with robots and clients (ARGS picks some of: ros1)
	@PYTHON="$(PYTHON)" bash scripts/robot_environments.sh $(ARGS)

test-robots: install ## Drive test robots over their real protocols for a minute each
	@PYTHON="$(PYTHON)" bash scripts/robot_environments.sh
	@FLUX_ROBOTS=required FLUX_ROBOT_SECONDS=60 FLUX_SLOW=1 $(BIN)/python -m pytest tests/robots $(ARGS)

lint: install ## Check style, types, shell scripts, links and spelling
	@bash scripts/lint.sh

format: install ## Fix style and formatting
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@find cpp -name '*.[ch]pp' -exec $(BIN)/clang-format -i {} +

typecheck: install ## Check the types of the four packages
	@$(BIN)/pyright

bench: install ## Time the runtime on this machine
	@$(BIN)/python benchmarks/runtime.py $(ARGS)

sanitize: install ## Run the C++ tests under the address, undefined and thread sanitizers
	@bash scripts/sanitize.sh

soak: install ## Drive a fake arm for 30 minutes (ARGS="--seconds 60"); nothing may grow
	@$(BIN)/python scripts/soak.py $(ARGS)

.PHONY: docs
docs: install ## Build the documentation site in build/docs; any warning is an error
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs/site . build/docs
