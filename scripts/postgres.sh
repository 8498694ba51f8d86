#!/usr/bin/env bash
# Starts and stops the PostgreSQL of scripts/with-postgres.sh, and takes Keycloak's database away and
# gives it back, so that the command can watch an outage.
#
# usage: postgres.sh start|stop|drop|restore
#   start    makes cluster and database the first time; finds all data again later
#   stop     at once, even with clients connected
#   drop     saves Keycloak's database under another name, and drops it
#   restore  brings the saved database back
# POSTGRES_DIR names the cluster's folder; psql reads PG*.
RUN_DIR=${POSTGRES_DIR:-}
[ -n "$RUN_DIR" ] || { printf 'error: POSTGRES_DIR names no folder: run this by scripts/with-postgres.sh\n' >&2 && exit 1; }
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
umask 077

CLUSTER=$RUN_DIR/cluster
LOG=$RUN_DIR/postgres.log
PROGRAMS=$(postgres_programs)
[ -n "$PROGRAMS" ] || die "there is no PostgreSQL" "install it: apt-get install postgresql"
[[ ! $PROGRAMS/ =~ ^/usr/ ]] || PATH=$PATH:$PROGRAMS
# A folder that the other user may enter.
cd /

# PostgreSQL does not run as root: its package brings a user for it.
AS=()
if [ "$(id -u)" = 0 ]; then
  need setpriv "apt-get install util-linux"
  id postgres >/dev/null 2>&1 || die "there is no user postgres to run PostgreSQL as" "apt-get install postgresql"
  AS=(setpriv --reuid=postgres --regid=postgres --init-groups --)
fi

make_cluster() {
  mkdir "$CLUSTER"
  printf '%s' "$PGPASSWORD" >"$CLUSTER/password"
  if [ ${#AS[@]} -gt 0 ]; then
    chmod 711 "$RUN_DIR"
    chown -R postgres: "$CLUSTER"
  fi
  ${AS[@]+"${AS[@]}"} "$PROGRAMS/initdb" --pgdata="$CLUSTER/data" --username="$PGUSER" --encoding=UTF8 \
    --no-locale --no-sync --auth=scram-sha-256 --pwfile="$CLUSTER/password" >"$LOG" 2>&1 ||
    die "no cluster could be made" "$(tail -n 3 "$LOG")"
}

start() {
  local is_new='' beats=0
  if [ ! -d "$CLUSTER" ]; then
    is_new=yes
    make_cluster
  fi
  start_daemon postgres "$LOG" ${AS[@]+"${AS[@]}"} "$PROGRAMS/postgres" -D "$CLUSTER/data" \
    -h "$PGHOST" -p "$PGPORT" -k "$CLUSTER" -c fsync=off -c synchronous_commit=off \
    -c full_page_writes=off -c shared_buffers=256MB -c max_connections=150
  until ask 'select 1' >/dev/null 2>>"$LOG"; do
    daemon_pid postgres >/dev/null || die "PostgreSQL ended while it started" "$(tail -n 3 "$LOG")"
    beats=$((beats + 1))
    [ "$beats" -lt 300 ] || die "PostgreSQL did not answer within 30 s" "$(tail -n 3 "$LOG")"
    sleep 0.1
  done
  [ -z "$is_new" ] || ask "create database $PGDATABASE"
}

stop() {
  local pid
  # SIGINT is PostgreSQL's fast stop: it disconnects all clients.
  if pid=$(daemon_pid postgres); then kill -INT "$pid" 2>/dev/null || true; fi
  stop_daemon postgres 5
}

ask() { psql -d postgres -v ON_ERROR_STOP=1 -qAtc "$1"; }

drop() {
  local beats=0
  ask "alter database $PGDATABASE with allow_connections false"
  # A database is copied only without clients; those that were told to go need a moment.
  until ask "select pg_terminate_backend(pid) from pg_stat_activity where datname = '$PGDATABASE'" >/dev/null &&
    ask "create database ${PGDATABASE}_saved template $PGDATABASE" 2>>"$LOG"; do
    beats=$((beats + 1))
    [ "$beats" -lt 50 ] || die "the database could not be saved" "$(tail -n 3 "$LOG")"
    sleep 0.1
  done
  ask "drop database $PGDATABASE with (force)"
}

restore() { ask "alter database ${PGDATABASE}_saved rename to $PGDATABASE"; }

case ${1:-} in
  start) start ;;
  stop) stop ;;
  drop) drop ;;
  restore) restore ;;
  *) die "usage: postgres.sh start|stop|drop|restore" ;;
esac
