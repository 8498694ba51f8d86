#!/usr/bin/env bash
# `make soak`: load, while keys are revoked and Keycloak is paused, killed and cut off from its database
# (PostgreSQL). Prints figures, and fails on a broken promise: see tests/servers/soak/main.rs.
#
# usage: soak.sh
#   MINUTES     how long, default 3; at least until each kind of outage has happened
#   SOAK_SEED   repeats the choices of a run that printed it
#   GATEWAY     nginx, caddy, haproxy or envoy-ext-authz: that gateway before `apikeys serve`, instead of Envoy with the filter
#   SOAK_BREAK  proves that the judge can fail: see tests/servers/soak/main.rs
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

export SOAK_MINUTES=${MINUTES:-3}
[[ $SOAK_MINUTES =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "MINUTES is '$SOAK_MINUTES'" "set it to a number of minutes"
KEYCLOAK_DB=postgres scripts/fetch.sh keycloak >/dev/null
exec scripts/with-postgres.sh cargo test --locked --package suites --test soak
