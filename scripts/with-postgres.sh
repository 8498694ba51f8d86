#!/usr/bin/env bash
# Runs a command beside a PostgreSQL that lives for just as long, for a Keycloak that keeps its data
# there: Keycloak's own database for development, H2, has neither PostgreSQL's locking nor its index
# on long attribute values. Loopback only, a cluster of its own in a temporary folder, and quick in
# ways that only a test may be: what it holds does not survive the machine.
#
# usage: with-postgres.sh COMMAND...
# The command finds KEYCLOAK_DB=postgres and KC_DB_*, which scripts/keycloak.sh and with it run.sh and
# with-keycloak.sh go by, and PG*, which psql goes by.
# A run folder is the command's own matter: this has another.
COMMANDS_RUN_DIR=${RUN_DIR:-}
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
umask 077

[ $# -gt 0 ] || die "usage: with-postgres.sh COMMAND..."
PROGRAMS=$(postgres_programs)
[ -n "$PROGRAMS" ] || die "there is no PostgreSQL" "install it: apt-get install postgresql"
[[ ! $PROGRAMS/ =~ ^/usr/ ]] || PATH=$PATH:$PROGRAMS

# PostgreSQL does not run as root: its package brings a user for it.
AS=()
if [ "$(id -u)" = 0 ]; then
  need setpriv "apt-get install util-linux"
  id postgres >/dev/null 2>&1 || die "there is no user postgres to run PostgreSQL as" "apt-get install postgresql"
  AS=(setpriv --reuid=postgres --regid=postgres --init-groups --)
fi

FOLDER=$(mktemp -d "${TMPDIR:-/tmp}/apikeys-postgres.XXXXXX")
RUN_DIR=$FOLDER
finish() {
  local status=$?
  trap - EXIT INT TERM
  # Whoever is still connected is of the command's, which is over.
  stop_daemon postgres 5
  rm -rf "$FOLDER"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

PGHOST=127.0.0.1 PGUSER=keycloak PGDATABASE=keycloak
PGPORT=$(free_ports 1)
PGPASSWORD=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
export PGHOST PGPORT PGUSER PGPASSWORD PGDATABASE
LOG=$FOLDER/postgres.log

start() {
  mkdir "$FOLDER/cluster"
  printf '%s' "$PGPASSWORD" >"$FOLDER/cluster/password"
  if [ ${#AS[@]} -gt 0 ]; then
    chmod 711 "$FOLDER"
    chown -R postgres: "$FOLDER/cluster"
  fi
  local cluster=$FOLDER/cluster
  # From a folder that the other user may be in.
  cd /
  ${AS[@]+"${AS[@]}"} "$PROGRAMS/initdb" --pgdata="$cluster/data" --username="$PGUSER" --encoding=UTF8 \
    --no-locale --no-sync --auth=scram-sha-256 --pwfile="$cluster/password" >"$LOG" 2>&1 ||
    die "no cluster could be made" "$(tail -n 3 "$LOG")"
  start_daemon postgres "$LOG" ${AS[@]+"${AS[@]}"} "$PROGRAMS/postgres" -D "$cluster/data" \
    -h "$PGHOST" -p "$PGPORT" -k "$cluster" -c fsync=off -c synchronous_commit=off \
    -c full_page_writes=off -c shared_buffers=256MB -c max_connections=150
  local beats=0
  until psql -d postgres -qc 'create database keycloak' 2>>"$LOG"; do
    daemon_pid postgres >/dev/null || die "PostgreSQL ended while it started" "$(tail -n 3 "$LOG")"
    beats=$((beats + 1))
    [ "$beats" -lt 300 ] || die "PostgreSQL did not answer within 30 s" "$(tail -n 3 "$LOG")"
    sleep 0.1
  done
  cd "$OLDPWD"
}

note "starting a PostgreSQL for this on port $PGPORT ..."
start
export KEYCLOAK_DB=postgres
export KC_DB_URL=jdbc:postgresql://$PGHOST:$PGPORT/$PGDATABASE KC_DB_USERNAME=$PGUSER KC_DB_PASSWORD=$PGPASSWORD
if [ -n "$COMMANDS_RUN_DIR" ]; then
  env RUN_DIR="$COMMANDS_RUN_DIR" "$@"
else
  env -u RUN_DIR "$@"
fi
