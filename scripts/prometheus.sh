#!/usr/bin/env bash
# Unpacks Debian's Prometheus into the per-user cache (debian-program.sh) and runs it beside the demo. It
# needs no root, keeps a day of data at most and listens only on loopback.
#
# usage: prometheus.sh fetch|start|stop
#   fetch   prints the folder with the programs prometheus and promtool
#   start   on PROMETHEUS_PORT (default 9095); reads METRICS_PATH on METRICS_PORT, by default those of the
#           Envoy with the admin port ENVOY_ADMIN_PORT
#   stop
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

: "${PROMETHEUS_PORT:=9095}"
: "${PROMETHEUS_INTERVAL:=5s}"
: "${METRICS_PORT:=$ENVOY_ADMIN_PORT}" "${METRICS_PATH:=/stats/prometheus}"

fetch() {
  PROGRAMS=$("$PROJECT_ROOT/scripts/debian-program.sh" prometheus prometheus promtool)
  "$PROGRAMS/promtool" --version >/dev/null 2>&1 || die "Debian's Prometheus does not run on this system"
  echo "$PROGRAMS"
}

start() {
  fetch >/dev/null
  check_ports PROMETHEUS_PORT
  local folder=$RUN_DIR/prometheus
  rm -rf "$folder"
  mkdir -p "$folder"
  cp "$PROJECT_ROOT/deploy/observe/rules.yml" "$folder/rules.yml"
  # The example's configuration, with this demo's port and a shorter interval.
  {
    printf 'global:\n  evaluation_interval: %s\nrule_files: [rules.yml]\n' "$PROMETHEUS_INTERVAL"
    sed -e "s/127\.0\.0\.1:9901/127.0.0.1:$METRICS_PORT/" -e "s#/stats/prometheus#$METRICS_PATH#" \
      -e "s/scrape_interval: .*/scrape_interval: $PROMETHEUS_INTERVAL/" "$PROJECT_ROOT/deploy/observe/prometheus.yml"
  } >"$folder/prometheus.yml"
  start_daemon prometheus "$RUN_DIR/prometheus.log" "$PROGRAMS/prometheus" \
    --config.file="$folder/prometheus.yml" --storage.tsdb.path="$folder/data" \
    --storage.tsdb.retention.time=1d --storage.tsdb.retention.size=256MB \
    --web.listen-address="127.0.0.1:$PROMETHEUS_PORT"
  wait_for_http prometheus "$RUN_DIR/prometheus.log" 30 "http://127.0.0.1:$PROMETHEUS_PORT/-/ready"
}

case ${1:-} in
  fetch) fetch ;;
  start) start ;;
  stop) stop_daemon prometheus ;;
  *) die "usage: prometheus.sh fetch|start|stop" ;;
esac
