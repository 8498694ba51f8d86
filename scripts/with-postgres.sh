#!/usr/bin/env bash
# Runs a command beside a PostgreSQL that lives for just as long, for a Keycloak that keeps its data
# there: Keycloak's own database for development, H2, has neither PostgreSQL's locking nor its index
# on long attribute values. Loopback only, a cluster of its own in a temporary folder, and quick in
# ways that only a test may be: what it holds does not survive the machine.
#
# usage: with-postgres.sh COMMAND...
# The command finds KEYCLOAK_DB=postgres and KC_DB_*, which scripts/keycloak.sh and with it run.sh and
# with-keycloak.sh go by, PG*, which psql goes by, and POSTGRES_DIR, by which scripts/postgres.sh stops
# it and starts it again.
# A run folder is the command's own matter.
COMMANDS_RUN_DIR=${RUN_DIR:-}
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
umask 077

[ $# -gt 0 ] || die "usage: with-postgres.sh COMMAND..."
POSTGRES=$PROJECT_ROOT/scripts/postgres.sh
PROGRAMS=$(postgres_programs)
[ -n "$PROGRAMS" ] || die "there is no PostgreSQL" "install it: apt-get install postgresql"
[[ ! $PROGRAMS/ =~ ^/usr/ ]] || PATH=$PATH:$PROGRAMS

POSTGRES_DIR=$(mktemp -d "${TMPDIR:-/tmp}/apikeys-postgres.XXXXXX")
export POSTGRES_DIR
finish() {
  local status=$?
  trap - EXIT INT TERM
  # Whoever is still connected is of the command's, which is over.
  "$POSTGRES" stop
  rm -rf "$POSTGRES_DIR"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

PGHOST=127.0.0.1 PGUSER=keycloak PGDATABASE=keycloak
PGPORT=$(free_ports 1)
PGPASSWORD=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
export PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE

note "starting a PostgreSQL for this on port $PGPORT ..."
"$POSTGRES" start
export KEYCLOAK_DB=postgres
export KC_DB_URL=jdbc:postgresql://$PGHOST:$PGPORT/$PGDATABASE KC_DB_USERNAME=$PGUSER KC_DB_PASSWORD=$PGPASSWORD
if [ -n "$COMMANDS_RUN_DIR" ]; then
  env RUN_DIR="$COMMANDS_RUN_DIR" "$@"
else
  env -u RUN_DIR "$@"
fi
