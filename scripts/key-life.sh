#!/usr/bin/env bash
# The life of a key, on the stack of `make run`: make it, use it, rotate it, use both, wait until the
# old key's grace ends, revoke the new key. Each step is a request to the management API or to the
# service, and the script checks each answer.
#
# usage: key-life.sh   (RUN_DIR names another stack's run folder)
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
umask 077

GRACE_SECONDS=3

main() {
  need curl "apt-get install curl"
  need python3 "apt-get install python3"
  [ -r "$RUN_DIR/demo.env" ] || die "nothing runs in $RUN_DIR" "start it with: make run"
  # shellcheck disable=SC1091 # written by run.sh
  source "$RUN_DIR/demo.env"
  local token key key_id new_key new_id
  token=$(sign_in olga)

  request POST /api/v1/api-keys "$token" '{"name":"A key with a short life","expires_days":1}'
  expect 201 "made, by olga's access token"
  key=$(member api_key) key_id=$(member key_id)
  use "$key" 200 "used"

  request POST "/api/v1/api-keys/$key_id/rotate" "$token" "{\"grace_seconds\":$GRACE_SECONDS}"
  expect 201 "rotated, with a grace of $GRACE_SECONDS seconds"
  new_key=$(member api_key) new_id=$(member key_id)
  use "$key" 200 "the old key, within its grace"
  use "$new_key" 200 "the new key"
  await_refusal "$key" "the old key, after its grace"

  request DELETE "/api/v1/api-keys/$new_id" "$token"
  expect 204 "revoked"
  use "$new_key" 401 "the revoked key, at once"
}

# sign_in USER: an access token, as a portal gets one. The demo's passwords are the users' names.
sign_in() {
  local answer
  answer=$(printf 'grant_type=password&client_id=key-console&username=%s&password=%s' "$1" "$1" |
    curl -s --max-time 10 --data-binary @- "$KEYCLOAK_URL/realms/$REALM/protocol/openid-connect/token") ||
    die "Keycloak does not answer at $KEYCLOAK_URL" "its log: $RUN_DIR/keycloak.log"
  printf '%s' "$answer" | python3 -c '
import json, sys
answer = json.load(sys.stdin)
print(answer["access_token"]) if "access_token" in answer else sys.exit(answer.get("error_description", "no token"))'
}

# request METHOD PATH TOKEN [BODY]: leaves STATUS and ANSWER. Secrets go in by standard input.
request() {
  local headers answer body=()
  headers=$(printf 'Authorization: Bearer %s' "$3")
  [ $# -lt 4 ] || body=(-H 'Content-Type: application/json' --data-binary "$4")
  answer=$(printf '%s\n' "$headers" |
    curl -s --max-time 30 -X "$1" -H @- "${body[@]}" -w '\n%{http_code}' "$GATEWAY_URL$2") ||
    die "the gateway does not answer at $GATEWAY_URL" "its log is in $RUN_DIR"
  STATUS=${answer##*$'\n'}
  ANSWER=${answer%$'\n'*}
}

# expect STATUS STEP
expect() {
  [ "$STATUS" = "$1" ] || die "$2: answered with $STATUS, not $1" \
    "$(printf '%s' "$ANSWER" | python3 -c 'import json, sys; print(json.load(sys.stdin).get("title"))' 2>/dev/null)" \
    "the gateway's log is in $RUN_DIR"
  note "$2: $1"
}

member() {
  printf '%s' "$ANSWER" | python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}

status_of() {
  printf 'Authorization: ApiKey %s\n' "$1" |
    curl -s -o /dev/null -w '%{http_code}' --max-time 20 -H @- "$GATEWAY_URL/orders"
}

# use KEY STATUS STEP
use() {
  STATUS=$(status_of "$1") ANSWER='{}'
  expect "$2" "$3"
}

# await_refusal KEY STEP
await_refusal() {
  local beats=0
  until [ "$(status_of "$1")" = 401 ]; do
    beats=$((beats + 1))
    [ "$beats" -lt 100 ] || die "$2: not refused within 20 s" "the gateway's log is in $RUN_DIR"
    sleep 0.2
  done
  note "$2: 401"
}

main
