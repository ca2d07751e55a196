# The same targets for a person and for CI. `make help` lists them.

SHELL := /bin/bash
FUZZ_SECONDS ?= 60
BIN = $${CARGO_TARGET_DIR:-target}/debug/tidegate
# What is measured has the first core to itself: the brokers, the generator and everything else get the others.
MEASURE = [ $$(nproc) -ge 2 ] || { echo "The benchmarks need two cores."; exit 1; }; \
	TIDEGATE_TEST_EXTRA_PACKAGES=mosquitto taskset -c 1-$$(($$(nproc --all) - 1)) \
	tests/run -- "$${CARGO_TARGET_DIR:-target}/release/bench"
# The other peers, where they are not there yet: Debian's packages the way the tests' own are installed, the rest into the cache.
PEERS_THERE = loadtest/peers/install --check || \
	TIDEGATE_TEST_EXTRA_PACKAGES="$$(loadtest/peers/install --packages)" tests/run -- loadtest/peers/install

.PHONY: help run test lint bench bench-quick bench-peers rehearse watch-live fuzz test-chaos test-kube chart apidocs k8s image-rootfs

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
	@if command -v shellcheck >/dev/null; then \
		shellcheck tests/run tests/*/run image/rootfs .ci/run loadtest/peers/install; \
	else echo "shellcheck is not installed: shell scripts were not checked"; fi

bench: ## Every target beside its baseline, in release; also target/bench/summary.json and report.html. PEERS=1: the peers too
	@cargo build --release --workspace --bins
	@$(if $(PEERS),$(PEERS_THERE))
	@$(MEASURE) --as "make $@$(if $(PEERS), PEERS=1)" $(if $(PEERS),--peers) $(ARGS)

bench-quick: ## The same with fewer and shorter rounds, in about three minutes
	@cargo build --release --workspace --bins
	@$(MEASURE) --quick --as "make $@" $(ARGS)

bench-peers: ## The gateway beside mosquitto, NATS, RabbitMQ, a Node server and the obvious Rust program; installs them
	@cargo build --release --workspace --bins
	@$(PEERS_THERE)
	@$(MEASURE) --only peers --out target/bench/peers --as "make $@" $(ARGS)

rehearse: ## A rollout under load, without Kubernetes: nodes behind HAProxy are replaced, added and killed; report in target/rehearsal
	@cargo build --release --workspace --bins
	@tests/run -- "$${CARGO_TARGET_DIR:-target}/release/rehearse" --as "make $@" $(ARGS)

watch-live: ## Prometheus looks at nodes that are rolled out, killed, cut off: every panel shows data, the right alerts fire; 25 min
	@cargo build --release --workspace --bins
	@tests/run -- tests/watch/run --live --bins "$${CARGO_TARGET_DIR:-target}/release" $(ARGS)

fuzz: ## The frame decoder and the inflater, each for half of FUZZ_SECONDS (60)
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	@rustup toolchain list | grep -q '^nightly' || rustup toolchain install nightly --profile minimal
	cargo +nightly fuzz run decoder -- -max_len=6000 -max_total_time=$$(($(FUZZ_SECONDS) / 2))
	cargo +nightly fuzz run deflate -- -max_len=6000 -max_total_time=$$(($(FUZZ_SECONDS) / 2))

test-chaos: ## The tests that take long, such as a broker frozen for minutes; prints what was measured
	@tests/run --workspace --no-fail-fast -- --ignored --nocapture

# Nothing is started beside: the cluster has what it needs.
test-kube: ## The chart on the Kubernetes that KUBECONFIG names; TIDEGATE_LOAD_IMAGE: see the head of tests/kube/run
	@[ -n "$$TIDEGATE_TEST_BINARY" ] || cargo build --release --workspace --bin tidegate --bin tidegate-loadtest
	@TIDEGATE_TEST_KAFKA=none TIDEGATE_TEST_REDIS=none tests/run -- tests/kube/run $(ARGS)

chart: ## What is generated in helm/tidegate: the schema of the values and the README's table
	@cargo build -p tidegate --bin tidegate
	@tests/helm/run --tool python helm/generate --bin "$(BIN)"

apidocs: ## docs/asyncapi.json, the schema of the configuration, and the pages in docs/api
	@cargo build -p tidegate --bin tidegate
	@docs/make/generate --bin "$(BIN)"

k8s: ## The plain manifests and kustomize overlays, rendered from the chart
	@tests/helm/run --tool python k8s/render

image-rootfs: ## The content of the image as the folder target/image-rootfs, without a container engine
	@cargo build --release -p tidegate --bin tidegate
	@image/rootfs "$${CARGO_TARGET_DIR:-target}/release/tidegate" target/image-rootfs
