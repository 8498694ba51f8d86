#!/usr/bin/env bash
# `make bench`: starts servers of its own, measures them, and stops them (crates/bench/src/main.rs). Apart from
# `make run`, so that nobody's demo is measured or changed, and apart from `make test`, since a busy
# machine must not turn a test red.
#
# usage: bench.sh
#   BENCH_GROUPS   what to measure, of: warm cold hit_rate capacity caches store; all unless
#                  told; page makes plots and page anew of what was measured
#
# Prints a table, and writes crates/bench/results.json and the plots beside it. 19 minutes on two
# cores; what is fetched and built the first time comes on top.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

need taskset "apt-get install util-linux"
# First what may be missing, then what takes minutes to build.
WRK=$(scripts/debian-program.sh wrk)/wrk
# Not by its own name, by which nginx finds sockets that it is to inherit.
NGINX_PROGRAM=$(scripts/debian-program.sh nginx)/nginx
OHA=$(scripts/cargo-tool.sh oha)
export OHA WRK NGINX_PROGRAM
scripts/fetch.sh all >/dev/null
KEYCLOAK_DB=postgres scripts/fetch.sh keycloak >/dev/null
scripts/build-wasm.sh >/dev/null
scripts/build-wasm.sh --noop >/dev/null
scripts/build-tool.sh >/dev/null
# The quick compiler that the demo's Keycloak starts with is not what it runs with in earnest.
export JAVA_OPTS_APPEND=${JAVA_OPTS_APPEND:--Dnone=}
step "Measuring: let nothing else run beside it"
BENCH_GROUPS=${BENCH_GROUPS:-} scripts/with-postgres.sh \
  cargo --config crates/bench/optimised.toml run --quiet --locked --package apikeys-bench
