#!/usr/bin/env bash
# Starts and stops one Envoy of the run folder under a name of its own, so that several run side by
# side (a second gateway that shares nothing with the first but Keycloak).
#
# usage: envoy.sh start NAME CONFIG | envoy.sh stop NAME
#
#   ENVOY_CONCURRENCY    worker threads, default 2
#   ENVOY_DRAIN_SECONDS  how long the connections of a listener that goes away may last, default 600
#   ENVOY_LOG_LEVEL      default info; the filter's audit lines are info
#   ENVOY_DYNAMIC_MODULES_SEARCH_PATH   the folder of the module, default: that of build-module.sh
#   APIKEY_SIGNING_KEY   the filter's signing key; default: the run folder's signing-key.pem
#
# Writes NAME.log and NAME.admin (the admin address that Envoy bound) into the run folder.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
umask 077

usage() { die "usage: envoy.sh start NAME CONFIG | envoy.sh stop NAME"; }

start() {
  local name=$1 config=$2 envoy log admin=$RUN_DIR/$1.admin
  [ -r "$config" ] || die "cannot read Envoy's configuration $config"
  need curl "apt-get install curl"
  envoy=$("$PROJECT_ROOT/scripts/fetch.sh" envoy)
  log=$RUN_DIR/$name.log
  mkdir -p "$RUN_DIR"

  if [ -z "${APIKEY_SIGNING_KEY:-}" ] && [ -r "$RUN_DIR/signing-key.pem" ]; then
    APIKEY_SIGNING_KEY=$(<"$RUN_DIR/signing-key.pem")
    export APIKEY_SIGNING_KEY
  fi

  : "${ENVOY_DYNAMIC_MODULES_SEARCH_PATH:=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}/module}"
  export ENVOY_DYNAMIC_MODULES_SEARCH_PATH

  # Envoy runs without hot restart: its shared memory would clash with a second Envoy's.
  rm -f "$admin"
  start_daemon "$name" "$log" "$envoy" \
    --config-path "$config" --concurrency "${ENVOY_CONCURRENCY:-2}" --disable-hot-restart \
    --drain-time-s "${ENVOY_DRAIN_SECONDS:-600}" \
    --admin-address-path "$admin" --file-flush-interval-msec 500 --log-level "${ENVOY_LOG_LEVEL:-info}"
  wait_for_admin_address "$name" "$log" "$admin"
  wait_for_http "$name" "$log" 60 "http://$(<"$admin")/ready"
}

# Envoy writes the file after it has read its configuration; a mistake there ends it before.
wait_for_admin_address() {
  local name=$1 log=$2 admin=$3 beats=0
  until [ -s "$admin" ]; do
    if ! daemon_pid "$name" >/dev/null; then
      log_end "$log"
      die "Envoy ($name) ended while it started" "its log: $log"
    fi
    beats=$((beats + 1))
    [ "$beats" -lt 600 ] || die "Envoy ($name) opened no admin port within 60 s" "its log: $log"
    sleep 0.1
  done
}

case ${1:-} in
  start) [ $# -eq 3 ] || usage; start "$2" "$3" ;;
  stop) [ $# -eq 2 ] || usage; stop_daemon "$2" 5; rm -f "$RUN_DIR/$2.admin" ;;
  *) usage ;;
esac
