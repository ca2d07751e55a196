# The same targets for a person and for CI. `make help` lists them.

SHELL := /bin/bash
FUZZ_SECONDS ?= 60
BIN = $${CARGO_TARGET_DIR:-target}/debug/tidegate
# What is measured has the first core to itself: the brokers, the generator and everything else get the others.
MEASURE = [ $$(nproc) -ge 2 ] || { echo "The benchmarks need two cores."; exit 1; }; \
	TIDEGATE_TEST_EXTRA_PACKAGES=mosquitto taskset -c 1-$$(($$(nproc --all) - 1)) \
	tests/run -- "$${CARGO_TARGET_DIR:-target}/release/bench"

.PHONY: help run test lint bench bench-quick fuzz test-chaos chart k8s image-rootfs

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

# Without librdkafka and jemalloc, whose C is most of a first build: `dev` needs them only for a real Kafka.
run: ## Build, then everything in one process with nothing installed: `make run ARGS="--devices 10"`
	@if [ -x "$(BIN)" ]; then echo "Building tidegate: only what changed."; \
	else echo "Building tidegate. The first time takes a few minutes, much of them for TLS in C."; fi
	@cargo build -p tidegate --bin tidegate $(if $(findstring --kafka,$(ARGS)),,--no-default-features)
	@exec "$(BIN)" dev $(ARGS)

test: ## Install what is missing, start Kafka and Redis, run every test, stop it all
	@tests/run

lint: ## Formatting, clippy with every warning an error, shellcheck where it is installed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy -p tidegate --bin tidegate --no-default-features -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck tests/run tests/helm/run image/rootfs .ci/run; \
	else echo "shellcheck is not installed: shell scripts were not checked"; fi

bench: ## Every benchmark beside its baseline, in release; also target/bench/summary.json
	@cargo build --release --workspace --bins
	@$(MEASURE)

bench-quick: ## The same in three minutes
	@cargo build --release --workspace --bins
	@$(MEASURE) --quick

fuzz: ## The frame decoder and the inflater, each for half of FUZZ_SECONDS (60)
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	@rustup toolchain list | grep -q '^nightly' || rustup toolchain install nightly --profile minimal
	cargo +nightly fuzz run decoder -- -max_len=6000 -max_total_time=$$(($(FUZZ_SECONDS) / 2))
	cargo +nightly fuzz run deflate -- -max_len=6000 -max_total_time=$$(($(FUZZ_SECONDS) / 2))

test-chaos: ## The tests that take long, such as a broker frozen for minutes; prints what was measured
	@tests/run --workspace --no-fail-fast -- --ignored --nocapture

chart: ## What is generated in helm/tidegate: the schema of the values and the README's table
	@cargo build -p tidegate --bin tidegate
	@tests/helm/run --tool python helm/generate --bin "$(BIN)"

k8s: ## The plain manifests and kustomize overlays, rendered from the chart
	@tests/helm/run --tool python k8s/render

image-rootfs: ## The content of the image as the folder target/image-rootfs, without a container engine
	@cargo build --release -p tidegate --bin tidegate
	@image/rootfs "$${CARGO_TARGET_DIR:-target}/release/tidegate" target/image-rootfs
