#!/usr/bin/env bash
# Runs a command beside a PostgreSQL that lives as long as the command, for a Keycloak with its data
# there: H2, Keycloak's own database for development, has neither PostgreSQL's locking nor its index on
# long attribute values. Only on loopback, with its own cluster in a temporary folder, and with settings
# for speed that only a test may use: its data does not survive a crash of the machine.
#
# usage: with-postgres.sh COMMAND...
# The command finds KEYCLOAK_DB=postgres and KC_DB_*, for scripts/keycloak.sh and with it run.sh and
# with-keycloak.sh; PG*, for psql; and POSTGRES_DIR, with which scripts/postgres.sh stops and starts it.
# The run folder is left to the command.
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
  # Clients that are still connected belong to the command, which is over.
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
