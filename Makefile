# Each target's work is in a script of its own name under scripts/; what is here is the list.
# Variables (RUN_DIR, REALM, GATEWAY_PORT and the other ports, API_KEY_*) go through the environment:
#   GATEWAY_PORT=8100 make run        or        make run GATEWAY_PORT=8100

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run stop up down wasm tool test test-all test-kong sim soak fuzz mutants fmt lint bench audit sbom reproducible dist clean

help: ## Lists these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Builds and starts all of it here: Keycloak, Envoy with the filter, a service; OBSERVE=1 adds Prometheus
	@scripts/run.sh

stop: ## Ends what make run started
	@scripts/stop.sh

up: ## The same with Kong, in containers: needs a Docker engine
	@scripts/up.sh

down: ## Ends what make up started, and removes its data
	docker compose down --volumes

wasm: ## Builds the filter: target/wasm/apikey_jwt_exchange.wasm
	@scripts/build-wasm.sh

tool: ## Builds the command-line tool: target/release/apikeys
	@scripts/build-tool.sh

test: ## Before a commit: format, lints, unit, scripted and property tests, some seeds, a pass on real Envoy and Keycloak
	@scripts/test.sh quick

test-all: ## Every check that there is: make test, and all of the suites
	@scripts/test.sh all

test-kong: ## Runs the end-to-end suite against Kong, in containers of its own: needs a Docker engine
	@scripts/test-kong.sh

sim: ## Simulates more runs than make test does: make sim SEEDS=20000 FROM=2000
	@scripts/sim.sh range

soak: ## Load while keys die and Keycloak suffers, on a stack of its own: make soak MINUTES=30
	@scripts/soak.sh

fuzz: ## Gives every property of crates/core/tests/properties to libFuzzer: SECONDS_EACH=60, TARGETS="users tokens"
	@scripts/fuzz.sh

mutants: ## Breaks the core in every way and counts what the tests notice (an hour): FILES="crates/core/src/cache/*.rs"
	@scripts/mutants.sh

fmt: ## Formats the Rust code
	cargo fmt

lint: ## The lints alone: Rust (native and Wasm) and the scripts
	@scripts/lint.sh

bench: ## Measures it side by side with what one would use instead (20 minutes): BENCH_GROUPS="warm cold"
	@scripts/bench.sh

audit: ## Looks all dependencies up in the database of advisories, which it fetches from the network
	@scripts/audit.sh

sbom: ## Writes what the filter and the tool are made of, as CycloneDX: target/sbom/
	@scripts/sbom.sh

reproducible: ## Builds the filter twice, in two folders, and compares the bytes
	@scripts/reproducible.sh

dist: ## What a release is: filter, schema, OCI image, tool, checksums, in target/dist
	@scripts/dist.sh

clean: ## Removes what was built, and the run folder of a stopped stack
	@scripts/clean.sh
