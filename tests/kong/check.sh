#!/usr/bin/env bash
# Checks the Kong side without a Docker engine: the scripts; the compose file, as docker compose
# reads it; the loopback server and the start scripts, live, in a real nginx in front of a real
# Keycloak. Part of `make test`.
#
# KEYCLOAK_URL and KEYCLOAK_ADMIN_PASSWORD (and KEYCLOAK_ADMIN_USER): a running Keycloak,
# over http; without both, scripts/keycloak.sh starts one, and it is stopped at the end.
# APIKEYS: the built apikeys tool; without it cargo builds one.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."

source tests/kong/lib.sh

step 'Tools'
command -v shellcheck >/dev/null || apt_install shellcheck
command -v openssl >/dev/null || apt_install openssl
command -v curl >/dev/null || apt_install curl
need_nginx
need_compose
nginx -v 2>&1
"${COMPOSE[@]}" version --short

step 'Scripts'
shellcheck --external-sources kong/*.sh tests/kong/*.sh tests/kong_plugin/*.sh
echo 'shellcheck: nothing to say'

step 'docker-compose.yml'
# With no variable set, and with every one set. -f keeps override files out.
env -u API_KEY_PREFIX "${COMPOSE[@]}" -f docker-compose.yml config >/dev/null
configured=$(GATEWAY_PORT=18900 KEYCLOAK_PORT=18901 API_KEY_ENABLED=false API_KEY_PREFIX=acme_ \
    API_KEY_HASH_ALGORITHM=sha256 API_KEY_MAX_PER_USER=7 API_KEY_EXCHANGE_CACHE_TTL=60 \
    API_KEY_STORAGE=keycloak KEYCLOAK_ADMIN_PASSWORD=other POSTGRES_PASSWORD=other \
    RUN_DIR=/srv/run KONG_LOG_LEVEL=debug \
    "${COMPOSE[@]}" -f docker-compose.yml config)
for expected in 18900 18901 acme_ sha256 'http://localhost:18901' 'KC_BOOTSTRAP_ADMIN_PASSWORD: other' \
    /srv/run 'KONG_LOG_LEVEL: debug'; do
    [[ $configured == *"$expected"* ]] || fail "docker-compose.yml: $expected does not arrive where it should"
done
echo "${COMPOSE[*]} accepts it, with and without variables"

step 'Keycloak'
work=$(mktemp -d)
started=''
cleanup() {
    if [[ -n $started ]]; then
        RUN_DIR=$work scripts/keycloak.sh stop || true
    fi
    rm -rf "$work"
}
trap cleanup EXIT
if [[ -z ${KEYCLOAK_URL:-} || -z ${KEYCLOAK_ADMIN_PASSWORD:-} ]]; then
    ports=$(python3 -c '
import socket
probes = [socket.socket() for _ in range(2)]
for probe in probes:
    probe.bind(("127.0.0.1", 0))
print(*(probe.getsockname()[1] for probe in probes))')
    read -r KEYCLOAK_PORT KEYCLOAK_MANAGEMENT_PORT <<<"$ports"
    export KEYCLOAK_PORT KEYCLOAK_MANAGEMENT_PORT
    started=yes
    RUN_DIR=$work scripts/keycloak.sh start
    RUN_DIR=$work scripts/keycloak.sh wait
    KEYCLOAK_URL=http://127.0.0.1:$KEYCLOAK_PORT
    KEYCLOAK_ADMIN_USER='admin'
    KEYCLOAK_ADMIN_PASSWORD=$(<"$work/keycloak-admin-password")
fi
: "${KEYCLOAK_ADMIN_USER:=admin}"
export KEYCLOAK_URL KEYCLOAK_ADMIN_USER KEYCLOAK_ADMIN_PASSWORD
echo "$KEYCLOAK_URL"

if [[ -z ${APIKEYS:-} ]]; then
    step 'The apikeys tool'
    cargo build --locked --quiet --package apikeys
    APIKEYS=${CARGO_TARGET_DIR:-target}/debug/apikeys
fi
[[ -x $APIKEYS ]] || fail "APIKEYS names $APIKEYS, which is no program"
APIKEYS=$(realpath "$APIKEYS")
export APIKEYS

step 'The start scripts of docker compose'
python3 tests/kong/test_start.py

step 'The loopback server'
python3 tests/kong/test_loopback.py

printf '\nThe Kong side holds.\n'
