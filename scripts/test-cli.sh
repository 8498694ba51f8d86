#!/usr/bin/env bash
# The apikeys tool's own suite, against a Keycloak that lives for just as long: empty database, run
# folder and ports apart from those of `make run`.
#
# usage: test-cli.sh   (TEST_KEYCLOAK_PORT and TEST_KEYCLOAK_MANAGEMENT_PORT, default 18480 and 18490)
export RUN_DIR=${TEST_RUN_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.run/test-cli}
export KEYCLOAK_PORT=${TEST_KEYCLOAK_PORT:-18480}
export KEYCLOAK_MANAGEMENT_PORT=${TEST_KEYCLOAK_MANAGEMENT_PORT:-18490}
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
umask 077

SCRIPTS=$PROJECT_ROOT/scripts
mkdir -p "$RUN_DIR"
"$SCRIPTS/keycloak.sh" stop
rm -rf "$RUN_DIR/keycloak" "$RUN_DIR/keycloak-admin-password"
check_ports KEYCLOAK_PORT KEYCLOAK_MANAGEMENT_PORT
trap '"$SCRIPTS/keycloak.sh" stop' EXIT
trap 'exit 130' INT TERM
note "a Keycloak for the tool's tests on $KEYCLOAK_URL ..."
"$SCRIPTS/keycloak.sh" start
"$SCRIPTS/keycloak.sh" wait
KEYCLOAK_ADMIN_USER=admin KEYCLOAK_ADMIN_PASSWORD=$(<"$RUN_DIR/keycloak-admin-password")
export KEYCLOAK_ADMIN_USER KEYCLOAK_ADMIN_PASSWORD
cd "$PROJECT_ROOT"
cargo test --locked --features cli,e2e --test cli
