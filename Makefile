# The list of targets. The work of each is in a script of the same name under scripts/.
# Variables (RUN_DIR, REALM, GATEWAY_PORT and the other ports, API_KEY_*) go through the environment:
#   GATEWAY_PORT=8100 make run        or        make run GATEWAY_PORT=8100

# `make run SHELL=module` chooses the filter's shell. But SHELL is also make's own variable, for the program that runs
# recipes: so the choice is taken off the command line here, and recipes keep bash.
ifeq ($(origin SHELL),command line)
  ifeq ($(SHELL),module)
    ifneq ($(filter-out envoy envoy-module,$(GATEWAY)),)
      $(error SHELL=module is for Envoy, and GATEWAY is '$(GATEWAY)')
    endif
    override GATEWAY := envoy-module
    export GATEWAY
  else ifneq ($(SHELL),wasm)
    $(error SHELL is '$(SHELL)': set it to wasm or module)
  endif
endif
override SHELL := /bin/bash
MAKEOVERRIDES := $(filter-out SHELL=%,$(MAKEOVERRIDES))

.DEFAULT_GOAL := help
.PHONY: help run stop up down wasm module tool test test-all test-kong sim soak fuzz miri mutants fmt lint bench audit sbom reproducible dist clean

help: ## Lists these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Builds and starts the whole system here: Keycloak, Envoy with the filter, a service; OBSERVE=1 adds Prometheus, GATEWAY=nginx another gateway, SHELL=module (or GATEWAY=envoy-module) the filter as Envoy's own dynamic module
	@scripts/run.sh

stop: ## Stops the processes that make run started
	@scripts/stop.sh

up: ## The same with Kong, in containers: needs a Docker engine
	@scripts/up.sh

down: ## Stops the containers that make up started, and removes their data
	docker compose down --volumes

wasm: ## Builds the filter: target/wasm/apikey_jwt_exchange.wasm
	@scripts/build-wasm.sh

module: ## Builds the filter as Envoy's dynamic module: target/module/libapikeys_envoy.so
	@scripts/build-module.sh

tool: ## Builds the command-line tool: target/release/apikeys
	@scripts/build-tool.sh

test: ## Before a commit: format, lints, unit, scripted and property tests, some seeds, a pass on real Envoy and Keycloak
	@scripts/test.sh quick

test-all: ## Every check: make test, and all of the suites
	@scripts/test.sh all

test-kong: ## Runs the end-to-end suite against Kong, in its own containers: needs a Docker engine
	@scripts/test-kong.sh

sim: ## Simulates more runs than make test does: make sim SEEDS=20000 FROM=2000
	@scripts/sim.sh range

soak: ## Load while keys are revoked and Keycloak fails, on its own stack: make soak MINUTES=30
	@scripts/soak.sh

fuzz: ## Runs libFuzzer on every property of crates/core/tests/properties: SECONDS_EACH=60, TARGETS="users tokens"
	@scripts/fuzz.sh

miri: ## Runs the tests of crates/envoy-abi, the one with unsafe code, in Miri; needs rustup's nightly with miri
	cargo +nightly miri test --locked --package envoy-abi --tests

mutants: ## Breaks the core and counts the breaks that tests notice: SHARD=7/30 for a sample, FILES="crates/core/src/cache/*.rs"
	@scripts/mutants.sh

fmt: ## Formats the Rust code
	cargo fmt

lint: ## Only the lints: Rust (native and Wasm) and the scripts
	@scripts/lint.sh

bench: ## Measures it side by side with the alternatives (20 minutes): BENCH_GROUPS="warm cold"
	@scripts/bench.sh

audit: ## Looks all dependencies up in the database of advisories, which it fetches from the network
	@scripts/audit.sh

sbom: ## Lists the crates of the filter and of the tool, as CycloneDX: target/sbom/
	@scripts/sbom.sh

reproducible: ## Builds the filter twice, in two folders, and compares the bytes
	@scripts/reproducible.sh

dist: ## Makes a release: filter, schema, OCI image, tool, checksums, in target/dist
	@scripts/dist.sh

clean: ## Removes builds, and the run folder of a stopped stack
	@scripts/clean.sh
