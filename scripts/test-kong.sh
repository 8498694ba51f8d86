#!/usr/bin/env bash
# `make test-kong`: the end-to-end suite against Kong 3.9 in containers. It starts the demo of
# docker-compose.yml with its own project name, ports and run folder, so a running demo stays as it
# is. At the end, also after a failure, it removes all of it. After a failure it keeps the end of
# Kong's log in target/test-kong.
#
# usage: test-kong.sh [TEST]...   (names for the suite, as after `cargo test … --`)
: "${GATEWAY_PORT:=18000}" "${KEYCLOAK_PORT:=18080}"
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need docker "Docker Engine with the compose plugin"
docker compose version >/dev/null 2>&1 ||
  die "docker has no 'compose'" "install the compose plugin (apt-get install docker-compose-plugin)"
docker info >/dev/null 2>&1 ||
  die "no Docker engine answers" "start it, or see whether this user may talk to it (docker info)"
need_rust
cd "$PROJECT_ROOT"

export COMPOSE_PROJECT_NAME=apikeys-test-kong
# To the container, all requests come from one address, that of Docker's bridge.
export API_KEY_THROTTLE=0
RUN_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}/test-kong
case $RUN_DIR in /*) ;; *) RUN_DIR=$PWD/$RUN_DIR ;; esac
LOG=$RUN_DIR/kong.log
LOG_BYTES_MAX=20000000
mkdir -p "$RUN_DIR"
rm -f "$RUN_DIR/demo.env" "$LOG"

finish() {
  local status=$?
  trap - EXIT
  if [ "$status" -ne 0 ]; then
    docker compose ps --all >&2 || true
    # The cause is mostly in Kong's log; the last lines of the others are enough.
    docker compose logs --no-color --tail 20 postgres keycloak orders service setup >&2 || true
    docker compose logs --no-color kong 2>&1 | tail -c "$LOG_BYTES_MAX" >"$LOG" || true
    warn "the end of Kong's log: $LOG"
  fi
  docker compose down --volumes --remove-orphans || status=1
  rm -f "$RUN_DIR/demo.env"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

step "Kong, Keycloak and a service, in containers"
# A killed run left its containers.
docker compose down --volumes --remove-orphans
docker compose up --build --wait

step "The end-to-end suite against it"
# The suite takes a gateway by URL: tests/servers/e2e/main.rs lists its variables, most are in demo.env.
set -a
# shellcheck source=/dev/null
. "$RUN_DIR/demo.env"
set +a
export E2E_GATEWAY_LOGS='docker compose logs --no-color --no-log-prefix kong'
export E2E_KEYCLOAK_STOP='docker compose stop keycloak'
export E2E_KEYCLOAK_START='docker compose up --wait keycloak'
cargo test --locked --package suites --test e2e -- "$@"
