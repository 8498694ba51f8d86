#!/usr/bin/env bash
# Runs a command beside a Keycloak that lives as long as the command: with an empty database, and with
# its own run folder and ports, so that a developer's running stack stays as it is.
#
# usage: with-keycloak.sh COMMAND...
# KEYCLOAK_DB as in keycloak.sh. The command finds KEYCLOAK_URL, KEYCLOAK_ADMIN_USER and KEYCLOAK_ADMIN_PASSWORD in its environment.
RUN_DIR=$(mktemp -d)
export RUN_DIR
trap 'rm -rf "$RUN_DIR"' EXIT
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
read -r KEYCLOAK_PORT KEYCLOAK_MANAGEMENT_PORT < <(free_ports 2)
KEYCLOAK_URL=http://127.0.0.1:$KEYCLOAK_PORT
umask 077

[ $# -gt 0 ] || die "usage: with-keycloak.sh COMMAND..."
KEYCLOAK=$PROJECT_ROOT/scripts/keycloak.sh
trap '"$KEYCLOAK" stop; rm -rf "$RUN_DIR"' EXIT
trap 'exit 130' INT TERM
note "starting a Keycloak for this on $KEYCLOAK_URL ..."
"$KEYCLOAK" start
"$KEYCLOAK" wait
KEYCLOAK_ADMIN_USER=admin KEYCLOAK_ADMIN_PASSWORD=$(<"$RUN_DIR/keycloak-admin-password")
export KEYCLOAK_ADMIN_USER KEYCLOAK_ADMIN_PASSWORD
"$@"
