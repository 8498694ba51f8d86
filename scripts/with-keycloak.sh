#!/usr/bin/env bash
# Runs a command beside a Keycloak that lives for just as long: empty database, a run folder and
# ports of its own, so that a stack that a developer has running stays as it is.
#
# usage: with-keycloak.sh COMMAND...
# The command finds KEYCLOAK_URL, KEYCLOAK_ADMIN_USER and KEYCLOAK_ADMIN_PASSWORD in its environment.
RUN_DIR=$(mktemp -d)
export RUN_DIR
trap 'rm -rf "$RUN_DIR"' EXIT
# Below the ports that the system gives to outgoing connections; asked for together, so that they differ.
read -r KEYCLOAK_PORT KEYCLOAK_MANAGEMENT_PORT < <(python3 -c '
import random, socket
found = []
while len(found) < 2:
    probe = socket.socket()
    try:
        probe.bind(("127.0.0.1", random.randrange(20000, 32000)))
    except OSError:
        continue
    found.append(probe)
print(*(probe.getsockname()[1] for probe in found))')
export KEYCLOAK_PORT KEYCLOAK_MANAGEMENT_PORT
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
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
