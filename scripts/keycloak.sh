#!/usr/bin/env bash
# Starts, awaits and stops the run folder's own Keycloak: loopback only, with its database (H2, a
# file) in the run folder. One unpacked Keycloak serves every run folder: each run folder gets a home
# of links to it, and nothing writes into it, so two stacks can be up at once.
#
# usage: keycloak.sh start|wait|stop
#   start  on an empty run folder also imports deploy/demo/realm.json and makes the administrator
#   wait   until the realm answers
#   stop   in about a second; a later start finds all data again
#
# KEYCLOAK_DB: dev-file (H2 in the run folder, the default), or postgres, at KC_DB_URL with
# KC_DB_USERNAME and KC_DB_PASSWORD, which scripts/with-postgres.sh gives to its command.
# The administrator is "admin"; the password is generated into keycloak-admin-password.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
umask 077

HOME_DIR=$RUN_DIR/keycloak
LOG=$RUN_DIR/keycloak.log
PASSWORD_FILE=$RUN_DIR/keycloak-admin-password
WAIT_SECONDS=${KEYCLOAK_WAIT_SECONDS:-180}

# make_home INSTALLATION: kc.sh uses the folder above itself as its home, so a copy of that one file
# makes the home ours; all the rest is links.
make_home() {
  local installed=$1 part
  mkdir -p "$HOME_DIR/bin" "$HOME_DIR/data/import"
  cp "$installed/bin/kc.sh" "$HOME_DIR/bin/kc.sh"
  cp -R "$installed/conf" "$HOME_DIR/"
  cp "$installed/version.txt" "$HOME_DIR/"
  for part in lib providers themes; do
    ln -sfn "$installed/$part" "$HOME_DIR/$part"
  done
}

# place_realm: the demo's realm, under the name in REALM.
place_realm() {
  python3 - "$PROJECT_ROOT/deploy/demo/realm.json" "$HOME_DIR/data/import/realm.json" "$REALM" <<'PYTHON'
import json, sys
source, target, name = sys.argv[1:]
with open(source) as file:
    realm = json.load(file)
realm["realm"] = name
with open(target, "w") as file:
    json.dump(realm, file)
PYTHON
}

make_password() {
  [ -s "$PASSWORD_FILE" ] && return
  od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$PASSWORD_FILE"
}

start() {
  local installed
  need java "Java 17 or newer (apt-get install openjdk-17-jre-headless)"
  need python3 "apt-get install python3"
  if [ "${KEYCLOAK_DB:-}" = postgres ] && [ -z "${KC_DB_URL:-}" ]; then
    die "KEYCLOAK_DB is postgres, and KC_DB_URL names none" "start it as: scripts/with-postgres.sh scripts/keycloak.sh start"
  fi
  installed=$("$PROJECT_ROOT/scripts/fetch.sh" keycloak)
  mkdir -p "$RUN_DIR"
  make_home "$installed"
  place_realm
  make_password
  # In the environment, not in an argument: every process list shows arguments.
  KC_BOOTSTRAP_ADMIN_USERNAME=admin KC_BOOTSTRAP_ADMIN_PASSWORD=$(<"$PASSWORD_FILE")
  export KC_BOOTSTRAP_ADMIN_USERNAME KC_BOOTSTRAP_ADMIN_PASSWORD
  # The quick compiler only: a start takes about half the processor time, and a demo does not run long
  # enough to win it back. To measure at full speed: JAVA_OPTS_APPEND=-Dnone=
  export JAVA_OPTS_APPEND=${JAVA_OPTS_APPEND:--XX:TieredStopAtLevel=1}
  # cache=local: a single node opens no cluster ports, which would not be loopback.
  start_daemon keycloak "$LOG" "$HOME_DIR/bin/kc.sh" start --optimized --import-realm \
    --http-enabled=true --http-host=127.0.0.1 --http-port="$KEYCLOAK_PORT" \
    --http-management-port="$KEYCLOAK_MANAGEMENT_PORT" --hostname="$KEYCLOAK_URL" --cache=local
}

wait_until_ready() {
  need curl "apt-get install curl"
  wait_for_http keycloak "$LOG" "$WAIT_SECONDS" "$KEYCLOAK_URL/realms/$REALM/.well-known/openid-configuration"
}

case ${1:-} in
  start) start ;;
  wait) wait_until_ready ;;
  stop) stop_daemon keycloak 15 ;;
  *) die "usage: keycloak.sh start|wait|stop" ;;
esac
