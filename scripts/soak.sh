#!/usr/bin/env bash
# `make soak`: load, while keys die and Keycloak is paused, killed and cut off from its database
# (PostgreSQL). Prints figures, and fails when a promise was not kept: see tests/soak/main.rs.
#
# usage: soak.sh
#   MINUTES     how long, 3 unless told otherwise
#   SOAK_SEED   repeats the choices of a run that printed it
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

export SOAK_MINUTES=${MINUTES:-3} KEYCLOAK_DB=postgres
[[ $SOAK_MINUTES =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "MINUTES is '$SOAK_MINUTES'" "set it to a number of minutes"
cargo test --locked --features cli,e2e --test soak
