#!/usr/bin/env bash
# `make bench`: starts its own servers, measures them, and stops them (crates/bench/src/main.rs). Apart
# from `make run`, so that it measures and changes nobody's demo, and apart from `make test`, since a
# busy machine must not turn a test red.
#
# usage: bench.sh
#   BENCH_GROUPS   the groups to measure, of: warm serve module cold capacity caches store hit_rate;
#                  default all;
#                  page makes plots and page anew from the last measurements
#
# Prints a table, and writes crates/bench/results.json and the plots beside it. Takes 19 minutes on
# two cores, and longer the first time, which fetches and builds.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

need taskset "apt-get install util-linux"
# Programs that may be missing come first, and builds of minutes after them.
WRK=$(scripts/debian-program.sh wrk)/wrk
# Libraries that this system lacks are beside wrk.
LD_LIBRARY_PATH=$(echo "${WRK%/*}"/../lib/*-linux-gnu)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
# Not as NGINX: nginx reads that variable for sockets to inherit.
NGINX_PROGRAM=$(scripts/debian-program.sh nginx)/nginx
OHA=$(scripts/cargo-tool.sh oha)
export OHA WRK NGINX_PROGRAM
scripts/fetch.sh all >/dev/null
KEYCLOAK_DB=postgres scripts/fetch.sh keycloak >/dev/null
scripts/build-wasm.sh >/dev/null
scripts/build-wasm.sh --noop >/dev/null
scripts/build-module.sh >/dev/null
scripts/build-module.sh --noop >/dev/null
scripts/build-tool.sh >/dev/null
# The demo's Keycloak starts with the quick compiler only; measure with the full one.
export JAVA_OPTS_APPEND=${JAVA_OPTS_APPEND:--Dnone=}
step "Measuring: let nothing else run beside it"
BENCH_GROUPS=${BENCH_GROUPS:-} scripts/with-postgres.sh \
  cargo --config crates/bench/optimised.toml run --quiet --locked --package apikeys-bench
