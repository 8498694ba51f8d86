#!/usr/bin/env bash
# Starts and stops a gateway of deploy/gateways with its own `apikeys serve`, in the run folder. Each has its own name,
# so several can run side by side.
#
# usage: gateway.sh start KIND NAME CONFIG | gateway.sh stop NAME
#   KIND    nginx, caddy, haproxy or envoy-ext-authz, from Debian or fetch.sh
#   CONFIG  the configuration of `apikeys serve`, which runs as NAME-apikeys
#
#   GATEWAY_PORT, SERVICE_PORT, APIKEYS_PORT, APIKEYS_GRPC_PORT, APIKEYS_MANAGEMENT_PORT,
#   APIKEYS_OPERATIONS_PORT, ENVOY_ADMIN_PORT   as in run.sh; CONFIG must listen on the APIKEYS_ ports
#   GATEWAY_WORKERS         threads or processes of the gateway, default 2
#   BEHIND_LOAD_BALANCER=1  the gateway trusts the x-forwarded-for of a request
#
# Writes NAME.log and NAME-apikeys.log into the run folder, and the gateway's files into NAME.d.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
umask 077

# haproxy.cfg uses it.
export GATEWAYS=$PROJECT_ROOT/deploy/gateways
TARGET_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}
WORKERS=${GATEWAY_WORKERS:-2}

# program NAME: prints the path of that program from Debian's package.
program() { printf '%s/%s' "$("$PROJECT_ROOT/scripts/debian-program.sh" "$1")" "$1"; }

# rendered FILE: fills in the gateway's file of that name, and prints the path.
rendered() {
  local to=$FOLDER/$1
  "$PROJECT_ROOT/scripts/render.sh" "$GATEWAYS/$1" "$to"
  # Turns on the files' lines for load balancers.
  [ "${BEHIND_LOAD_BALANCER:-}" != 1 ] || sed -E -i "$to" \
    -e 's/# (set_real_ip_from|real_ip_header|http-request set-src)/\1/' \
    -e 's/(X-Forwarded-For) \{remote_host\}/\1 {header.X-Forwarded-For}/' \
    -e 's/(xff_num_trusted_hops:) 0/\1 1/' -e '/remove: x-forwarded-for /d'
  printf '%s' "$to"
}

start() {
  local kind=$1 name=$2 config=$3
  FOLDER=$RUN_DIR/$name.d
  mkdir -p "$FOLDER"
  start_daemon "$name-apikeys" "$RUN_DIR/$name-apikeys.log" "$TARGET_DIR/release/apikeys" serve --config "$config"
  wait_for_http "$name-apikeys" "$RUN_DIR/$name-apikeys.log" 60 "http://127.0.0.1:$APIKEYS_OPERATIONS_PORT/livez"
  case $kind in
    nginx) start_nginx "$name" ;;
    caddy) start_caddy "$name" ;;
    haproxy) start_haproxy "$name" ;;
    envoy-ext-authz) ENVOY_CONCURRENCY=$WORKERS "$PROJECT_ROOT/scripts/envoy.sh" start "$name" "$(rendered envoy-ext-authz.yaml)" ;;
    *) die "there is no gateway '$kind'" "the gateways are: nginx, caddy, haproxy, envoy-ext-authz" ;;
  esac
  # An open port is enough.
  wait_for_port "$name" "$RUN_DIR/$name.log" "$GATEWAY_PORT"
}

start_nginx() {
  local user='' temp
  # As root, nginx would run its workers as a user without access to the run folder.
  [ "$(id -u)" != 0 ] || user="user root;"
  rendered nginx.conf >/dev/null
  {
    printf 'worker_processes %s;\ndaemon off;\npid %s/nginx.pid;\n%s\n' "$WORKERS" "$FOLDER" "$user"
    printf 'events { worker_connections 4096; }\nhttp {\n'
    for temp in client_body proxy fastcgi uwsgi scgi; do printf '  %s_temp_path %s/%s;\n' "$temp" "$FOLDER" "$temp"; done
    printf '  include nginx.conf;\n}\n'
  } >"$FOLDER/main.conf"
  start_daemon "$1" "$RUN_DIR/$1.log" "$(program nginx)" -p "$FOLDER" -c "$FOLDER/main.conf" -e stderr
}

start_caddy() {
  local caddy
  caddy=$(program caddy)
  rendered Caddyfile >/dev/null
  # By default Caddy sends on heads of up to 1 MB, which `apikeys serve` does not read.
  printf '{\n\tadmin off\n\tservers {\n\t\tmax_header_size 96KB\n\t}\n}\nimport Caddyfile\n' \
    >"$FOLDER/main.caddyfile"
  XDG_DATA_HOME=$FOLDER XDG_CONFIG_HOME=$FOLDER GOMAXPROCS=$WORKERS \
    start_daemon "$1" "$RUN_DIR/$1.log" "$caddy" run --adapter caddyfile --config "$FOLDER/main.caddyfile"
}

start_haproxy() {
  local haproxy
  haproxy=$(program haproxy)
  printf 'global\n  nbthread %s\n' "$WORKERS" >"$FOLDER/main.cfg"
  LD_LIBRARY_PATH=$(echo "${haproxy%/*}"/../lib/*-linux-gnu) \
    start_daemon "$1" "$RUN_DIR/$1.log" "$haproxy" -db -f "$FOLDER/main.cfg" -f "$(rendered haproxy.cfg)"
}

stop() {
  stop_daemon "$1" 5
  stop_daemon "$1-apikeys" 15
}

case ${1:-} in
  start) [ $# -eq 4 ] || die "usage: gateway.sh start KIND NAME CONFIG"; start "$2" "$3" "$4" ;;
  stop) [ $# -eq 2 ] || die "usage: gateway.sh stop NAME"; stop "$2" ;;
  *) die "usage: gateway.sh start KIND NAME CONFIG | gateway.sh stop NAME" ;;
esac
