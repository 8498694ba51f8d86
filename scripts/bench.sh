#!/usr/bin/env bash
# `make bench`: starts a stack of its own, measures it, and stops it. Apart from `make run`, so that
# nobody's demo is measured or changed, and apart from `make test`, since a busy machine must not
# turn a test red.
#
# usage: bench.sh
#   BENCH_PORT   the first of twelve ports in a row, default 18300
#
# Prints the figures and writes them to bench/results.json.
: "${BENCH_PORT:=18300}"
export RUN_DIR=${BENCH_RUN_DIR:-target/bench}
export GATEWAY_PORT=$((BENCH_PORT)) SERVICE_PORT=$((BENCH_PORT + 1)) DEMO_PORT=$((BENCH_PORT + 2))
export YIELD_PORT=$((BENCH_PORT + 3)) KEYCLOAK_PORT=$((BENCH_PORT + 4))
export KEYCLOAK_MANAGEMENT_PORT=$((BENCH_PORT + 5)) ENVOY_ADMIN_PORT=$((BENCH_PORT + 6))
# The quick compiler that the demo's Keycloak starts with is not what it runs with in earnest.
export JAVA_OPTS_APPEND=${JAVA_OPTS_APPEND:--Dnone=}
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

trap '"$PROJECT_ROOT/scripts/stop.sh"' EXIT
"$PROJECT_ROOT/scripts/run.sh"
set -a
# shellcheck disable=SC1091 # made by the run
source "$RUN_DIR/demo.env"
set +a
WASM_FILE=$("$PROJECT_ROOT/scripts/build-wasm.sh")
# What run.sh sets of these, for the second gateway.
export WASM_FILE API_KEY_ENABLED=true API_KEY_STORAGE=keycloak API_KEY_HASH_ALGORITHM=bcrypt
export API_KEY_PREFIX=sk_live_ API_KEY_MAX_PER_USER=5 BENCH_PORT=$((BENCH_PORT + 7))
step "Measuring: about three minutes"
python3 "$PROJECT_ROOT/bench/bench.py" "$PROJECT_ROOT/bench/results.json"
