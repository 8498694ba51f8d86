#!/usr/bin/env bash
# `make run`: the whole system on one machine: Keycloak, the gateway with the filter, and a service
# behind a validator of JWTs, with owners and keys, proven by one request. It ends in a running stack
# or in none: if a later step fails, it stops the parts that it started.
#
# usage: run.sh
#   RUN_DIR     the run folder, default .run; a second stack takes another, and other ports
#   REALM, GATEWAY_PORT, KEYCLOAK_PORT, KEYCLOAK_MANAGEMENT_PORT, ENVOY_ADMIN_PORT, SERVICE_PORT,
#   DEMO_PORT, YIELD_PORT, ENVOY_CONCURRENCY, APIKEYS_CACHE_DIR, APIKEYS_WASM_TOOLCHAIN
#   GATEWAY     envoy (default): with the Wasm filter. envoy-module (make run SHELL=module): with the filter as
#               Envoy's dynamic module. nginx, caddy, haproxy, envoy-ext-authz: with `apikeys serve`
#               on APIKEYS_PORT, APIKEYS_OPERATIONS_PORT, APIKEYS_GRPC_PORT and APIKEYS_MANAGEMENT_PORT
#   OBSERVE=1   Prometheus beside it, on PROMETHEUS_PORT (9095), with rules and alerts
#   API_KEY_ENABLED, API_KEY_STORAGE, API_KEY_HASH_ALGORITHM, API_KEY_PREFIX, API_KEY_MAX_PER_USER,
#   API_KEY_EXCHANGE_CACHE_TTL   go into the filter's configuration, and into the keys made here
#
# Writes demo.env (mode 0600) into the run folder. Each run begins with an empty Keycloak database.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# Keys, passwords and tokens pass through the run folder.
umask 077

SCRIPTS=$PROJECT_ROOT/scripts
DEMO_ENV=$RUN_DIR/demo.env
: "${GATEWAY:=envoy}"
case $GATEWAY in
  envoy) PARTS=(envoy orders keycloak) LOG=$RUN_DIR/envoy.log PORTS=(YIELD_PORT ENVOY_ADMIN_PORT) ;;
  envoy-module) PARTS=(envoy validator orders keycloak) LOG=$RUN_DIR/envoy.log PORTS=(ENVOY_ADMIN_PORT) ;;
  nginx | caddy | haproxy | envoy-ext-authz)
    PARTS=(gateway gateway-apikeys validator orders keycloak) LOG=$RUN_DIR/gateway-apikeys.log
    PORTS=(APIKEYS_PORT APIKEYS_OPERATIONS_PORT APIKEYS_GRPC_PORT APIKEYS_MANAGEMENT_PORT ENVOY_ADMIN_PORT)
    ;;
  *) die "GATEWAY is '$GATEWAY'" "set it to envoy, envoy-module, nginx, caddy, haproxy or envoy-ext-authz" ;;
esac
# Also stops Prometheus, and the parts of a run with another gateway.
ALL_PARTS=(prometheus envoy gateway gateway-apikeys validator orders keycloak)
TARGET_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}

export API_KEY_ENABLED=${API_KEY_ENABLED:-true}
export API_KEY_STORAGE=${API_KEY_STORAGE:-keycloak}
export API_KEY_HASH_ALGORITHM=${API_KEY_HASH_ALGORITHM:-bcrypt}
export API_KEY_PREFIX=${API_KEY_PREFIX:-sk_live_}
export API_KEY_MAX_PER_USER=${API_KEY_MAX_PER_USER:-5}
export API_KEY_EXCHANGE_CACHE_TTL=${API_KEY_EXCHANGE_CACHE_TTL:-300}

main() {
  need flock "apt-get install util-linux"
  mkdir -p "$RUN_DIR" || die "cannot make the run folder $RUN_DIR" "choose another: RUN_DIR=<folder> make run"
  take_lock
  if already_running; then
    note "already running (run folder $RUN_DIR); to start anew: make stop run"
    observe
    show_how_to_call
    return
  fi
  check_settings
  check_tools
  check_room
  stop_leftovers
  check_ports GATEWAY_PORT SERVICE_PORT DEMO_PORT KEYCLOAK_PORT KEYCLOAK_MANAGEMENT_PORT "${PORTS[@]}"

  trap on_exit EXIT
  trap 'exit 130' INT TERM
  doing "fetching what is missing"
  "$SCRIPTS/fetch.sh" all >/dev/null

  doing "building"
  case $GATEWAY in
    envoy) WASM_FILE=$("$SCRIPTS/build-wasm.sh"); export WASM_FILE ;;
    envoy-module) "$SCRIPTS/build-module.sh" >/dev/null ;;
  esac
  "$SCRIPTS/build-tool.sh" >/dev/null

  start_keycloak
  provision
  start_service
  start_gateway
  prove
  write_demo_env
  live_through_a_key
  observe
  trap - EXIT
  step "Running, after $(seconds_since "$BEGAN")"
  show_how_to_call
}

# ---- one run at a time, all or nothing -----------------------------------------------------------

take_lock() {
  exec 9>"$RUN_DIR/lock" || die "cannot write into the run folder $RUN_DIR" \
    "choose another: RUN_DIR=<folder> make run"
  flock -n 9 || die "another run is just starting in $RUN_DIR" "wait for it, or set RUN_DIR to another folder"
}

already_running() {
  local part
  # With the same gateway.
  grep -qx "GATEWAY=$GATEWAY" "$DEMO_ENV" 2>/dev/null || return 1
  for part in "${PARTS[@]}"; do
    daemon_pid "$part" >/dev/null || return 1
  done
}

stop_leftovers() {
  local part
  for part in "${ALL_PARTS[@]}"; do
    if daemon_pid "$part" >/dev/null; then
      note "an earlier run left its $part behind; stopping it"
    fi
    stop_daemon "$part"
  done
  # Begin with an empty database: each run adds keys, and an owner may hold only so many.
  rm -rf "$RUN_DIR/keycloak" "$RUN_DIR/keycloak-admin-password" "$DEMO_ENV"
}

doing() {
  DOING=$1
  LOG_TO_READ=${2:-}
}

on_exit() {
  local status=$?
  [ "$status" -ne 0 ] || status=1
  trap - EXIT INT TERM
  printf '\nThe run failed while %s.\n' "$DOING" >&2
  tell_full_disks
  [ -z "$LOG_TO_READ" ] || printf 'The log to read: %s\n' "$LOG_TO_READ" >&2
  local part
  for part in "${ALL_PARTS[@]}"; do
    stop_daemon "$part" || true
  done
  rm -f "$DEMO_ENV"
  printf 'What it had started is stopped.\n' >&2
  exit "$status"
}

# ---- before anything is started -----------------------------------------------------------------

check_settings() {
  local name
  # JSON holds these without quotation marks, so a wrong value there would be a riddle.
  case $API_KEY_ENABLED in
    true | false) ;;
    *) die "API_KEY_ENABLED is '$API_KEY_ENABLED'" "set it to true or false" ;;
  esac
  for name in API_KEY_MAX_PER_USER API_KEY_EXCHANGE_CACHE_TTL; do
    [[ ${!name} =~ ^(0|[1-9][0-9]{0,8})$ ]] || die "$name is '${!name}'" "set it to a whole number"
  done
  [[ $REALM =~ ^[A-Za-z0-9_.-]+$ ]] ||
    die "REALM is '$REALM'" "set it to letters, digits, dots, dashes and underscores"
}

check_tools() {
  want curl curl
  want java openjdk-17-jre-headless
  want python3 python3 python3-venv
  want setsid util-linux
  want cc gcc
  # Fetch Keycloak, once.
  if ! "$SCRIPTS/fetch.sh" has keycloak; then
    want mvn maven
    want unzip unzip
  fi
  need_wanted
  need_rust
  need_java
}

# Room for a first run, roughly. On a full disk it fails halfway, and the errors name no disk.
check_room() {
  need_room 100 "$RUN_DIR" "RUN_DIR=<folder> make run"
  "$SCRIPTS/fetch.sh" has all || need_room 1000 "$CACHE_DIR" "APIKEYS_CACHE_DIR=<folder> make run"
  [ -x "$TARGET_DIR/release/apikeys" ] || need_room 1500 "$TARGET_DIR" "CARGO_TARGET_DIR=<folder> make run"
}

# ---- the parts ----------------------------------------------------------------------------------

start_keycloak() {
  doing "starting Keycloak" "$RUN_DIR/keycloak.log"
  local began
  began=$(now_ms)
  step "Starting Keycloak on $KEYCLOAK_URL (10 to 40 s)"
  "$SCRIPTS/keycloak.sh" start
  "$SCRIPTS/keycloak.sh" wait
  note "up after $(seconds_since "$began")"
}

apikeys() {
  local command=$1
  shift
  "$TARGET_DIR/release/apikeys" "$command" \
    --keycloak-url "$KEYCLOAK_URL" --realm "$REALM" --admin-user admin "$@"
}

provision() {
  doing "preparing the realm" "$RUN_DIR/keycloak.log"
  step "Preparing realm '$REALM' and making keys"
  KEYCLOAK_ADMIN_PASSWORD=$(<"$RUN_DIR/keycloak-admin-password")
  export KEYCLOAK_ADMIN_PASSWORD
  apikeys setup --signing-key-file "$RUN_DIR/signing-key.pem" >"$RUN_DIR/setup.log" 2>&1 || {
    cat "$RUN_DIR/setup.log" >&2
    die "the realm could not be prepared" "Keycloak's log: $RUN_DIR/keycloak.log"
  }
  note "apikeys setup: done; what it changed: $RUN_DIR/setup.log"

  doing "making keys" "$RUN_DIR/keycloak.log"
  EXPIRES_AT=$(($(date +%s) + 8))
  # Bob's key, since alice may hold only one (API_KEY_MAX_PER_USER=1).
  EXPIRED_API_KEY=$(new_key --owner bob --name "Demo: ends at once" \
    --expires-at "$(date -u -d "@$EXPIRES_AT" +%Y-%m-%dT%H:%M:%SZ)")
  API_KEY=$(new_key --owner alice --name "Demo")
  SERVICE_API_KEY=$(new_key --service-account billing-service --name "Demo: nightly billing")
  note "keys: alice's, one of the service principal billing-service, and one that has ended"
}

new_key() {
  apikeys create --output json --key-prefix "$API_KEY_PREFIX" \
    --hash-algorithm "$API_KEY_HASH_ALGORITHM" --max-keys-per-user "$API_KEY_MAX_PER_USER" "$@" |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["api_key"])'
}

start_service() {
  doing "starting the demo service" "$RUN_DIR/orders.log"
  step "Starting the demo service and the gateway"
  start_daemon orders "$RUN_DIR/orders.log" \
    python3 "$PROJECT_ROOT/deploy/demo/orders.py" --host 127.0.0.1 --port "$DEMO_PORT"
  wait_for_http orders "$RUN_DIR/orders.log" 30 "http://127.0.0.1:$DEMO_PORT/healthz"
}

start_gateway() {
  doing "starting the gateway ($GATEWAY)" "$LOG"
  if [ "$GATEWAY" = envoy ]; then
    "$SCRIPTS/render.sh" "$PROJECT_ROOT/deploy/envoy/envoy.yaml" "$RUN_DIR/envoy.yaml"
    "$SCRIPTS/envoy.sh" start envoy "$RUN_DIR/envoy.yaml"
    return
  fi
  "$SCRIPTS/render.sh" "$PROJECT_ROOT/deploy/gateways/validator.yaml" "$RUN_DIR/validator.yaml"
  "$SCRIPTS/envoy.sh" start validator "$RUN_DIR/validator.yaml"
  if [ "$GATEWAY" = envoy-module ]; then
    "$SCRIPTS/render.sh" "$PROJECT_ROOT/deploy/envoy/module.yaml" "$RUN_DIR/envoy.yaml"
    "$SCRIPTS/envoy.sh" start envoy "$RUN_DIR/envoy.yaml"
    return
  fi
  REMOVES_HEADERS=true
  case $GATEWAY in nginx | caddy) REMOVES_HEADERS=false ;; esac
  export REMOVES_HEADERS
  "$SCRIPTS/render.sh" "$PROJECT_ROOT/deploy/gateways/apikeys.yaml" "$RUN_DIR/apikeys.yaml"
  "$SCRIPTS/gateway.sh" start "$GATEWAY" gateway "$RUN_DIR/apikeys.yaml"
}

# ---- the proof ----------------------------------------------------------------------------------

# prove: one request like a client's. The key goes in by standard input: arguments are public.
prove() {
  doing "sending a first request through the gateway" "$LOG"
  local status wanted=200
  if [ "$API_KEY_ENABLED" = false ]; then
    warn "API_KEY_ENABLED is false: keys pass untouched, and the service refuses them"
    wanted=401
  fi
  status=$(printf 'Authorization: ApiKey %s\n' "$API_KEY" |
    curl -s -o "$RUN_DIR/first-answer.json" -w '%{http_code}' --max-time 20 -H @- \
      "http://127.0.0.1:$GATEWAY_PORT/orders") || status=none
  if [ "$status" != "$wanted" ]; then
    cat "$RUN_DIR/first-answer.json" >&2 || true
    die "the first request was answered with status $status, not $wanted" "the gateway's log: $LOG"
  fi
  # It holds the request's headers, and with them a token.
  rm -f "$RUN_DIR/first-answer.json"
  note "a first request with alice's key was answered with $status"
  while [ "$(date +%s)" -le "$EXPIRES_AT" ]; do sleep 0.2; done
}

write_demo_env() {
  cat >"$DEMO_ENV.new" <<ENV
GATEWAY=$GATEWAY
GATEWAY_URL=http://127.0.0.1:$GATEWAY_PORT
KEYCLOAK_URL=$KEYCLOAK_URL
REALM=$REALM
API_KEY=$API_KEY
SERVICE_API_KEY=$SERVICE_API_KEY
EXPIRED_API_KEY=$EXPIRED_API_KEY
ENVOY_ADMIN_URL=http://127.0.0.1:$ENVOY_ADMIN_PORT
KEYCLOAK_ADMIN_USER=admin
KEYCLOAK_ADMIN_PASSWORD=$KEYCLOAK_ADMIN_PASSWORD
ENV
  mv "$DEMO_ENV.new" "$DEMO_ENV"
}

live_through_a_key() {
  [ "$API_KEY_ENABLED" = true ] || return 0
  doing "living through the life of a key" "$LOG"
  step "The life of a key (scripts/key-life.sh)"
  "$SCRIPTS/key-life.sh"
}

observe() {
  [ "${OBSERVE:-}" = 1 ] && ! daemon_pid prometheus >/dev/null || return 0
  doing "starting Prometheus" "$RUN_DIR/prometheus.log"
  step "Starting Prometheus"
  [ ! -e "$RUN_DIR/apikeys.yaml" ] || export METRICS_PORT=$APIKEYS_OPERATIONS_PORT METRICS_PATH=/metrics
  "$SCRIPTS/prometheus.sh" start
  note "http://127.0.0.1:${PROMETHEUS_PORT:-9095}: metrics, rules and alerts; docs/observe.md says what to look at"
}

# show_how_to_call: does not print the key, since the output of make ends up in logs.
show_how_to_call() {
  local file=${DEMO_ENV#"$PWD"/}
  case $file in /*) ;; *) file=./$file ;; esac
  # shellcheck disable=SC2016 # for the reader's shell to expand
  printf '\nTry it:\n\n    . %s && curl -i -H "Authorization: ApiKey $API_KEY" "$GATEWAY_URL/orders"\n\n' "$file"
  printf 'Also in %s: SERVICE_API_KEY, EXPIRED_API_KEY. Logs: %s. To end it: make stop\n' "$file" "$RUN_DIR"
}

BEGAN=$(now_ms)
main
