#!/usr/bin/env bash
# The setup service of docker-compose.yml: prepares the realm, gives the signing key
# to Kong, makes the demo's keys once, writes demo.env, and then stays. It stays
# because `docker compose up --wait` takes a container that has ended for a failure.
#
# KEYS_DIR    private to this service: the signing key, and the demo's keys
# SECRET_DIR  shared with Kong: the signing key as an nginx directive
# OUT_DIR     the project's .run folder: demo.env
# OWNER_FILE  a file of the project; its owner gets demo.env
set -euo pipefail
umask 077

: "${KEYCLOAK_ADDRESS_URL:?the address of Keycloak as containers reach it}"
: "${KEYCLOAK_URL:?the public base URL of Keycloak}"
: "${GATEWAY_URL:?the address of Kong as the host reaches it}"
: "${REALM:?the name of the realm}"
: "${KEYCLOAK_ADMIN_USER:?the administrator of Keycloak}"
: "${KEYCLOAK_ADMIN_PASSWORD:?the password of that administrator}"
keys=${KEYS_DIR:-/keys}
secret=${SECRET_DIR:-/secret}
out=${OUT_DIR:-/out}
owner=${OWNER_FILE:-/opt/owner}
ready=${READY_FILE:-/tmp/ready}
kong_group=${KONG_GROUP:-10001}

rm -f "$ready"

keycloak=(--keycloak-url "$KEYCLOAK_ADDRESS_URL" --realm "$REALM" --admin-user "$KEYCLOAK_ADMIN_USER")

apikeys setup "${keycloak[@]}" --signing-key-file "$keys/signing-key.pem"

# The base64 body alone: it has no character that nginx needs escaped.
body=$(grep -v -- '-----' "$keys/signing-key.pem" | tr -d '[:space:]')
[[ $body =~ ^[A-Za-z0-9+/]+=*$ ]] || {
    echo "setup.sh: $keys/signing-key.pem is not a PEM file; remove the volume (docker compose down -v)" >&2
    exit 1
}
directive=$secret/signing-key.conf
# printf is a builtin, so no process list shows the key as an argument.
printf "set \$apikey_signing_key '%s';\n" "$body" >"$directive.new"
chgrp "$kong_group" "$directive.new"
chmod 0640 "$directive.new"
mv "$directive.new" "$directive"

options=()
[[ -z ${API_KEY_PREFIX:-} ]] || options+=(--key-prefix "$API_KEY_PREFIX")
[[ -z ${API_KEY_HASH_ALGORITHM:-} ]] || options+=(--hash-algorithm "$API_KEY_HASH_ALGORITHM")
[[ -z ${API_KEY_MAX_PER_USER:-} ]] || options+=(--max-keys-per-user "$API_KEY_MAX_PER_USER")

# The key of that name, made if this volume does not hold it yet: a second
# `docker compose up` makes no more keys. Another prefix or hash makes another key.
key() {
    local name=$1 file
    shift
    file=$keys/$REALM.${API_KEY_PREFIX:-default}.${API_KEY_HASH_ALGORITHM:-default}.$name.key
    if [[ ! -s $file ]]; then
        rm -f "$file"
        apikeys create "${keycloak[@]}" "${options[@]}" --output-file "$file" --name "Demo: $name" "$@" >&2
    fi
    cat "$file"
}

user_key=$(key user --owner alice)
service_key=$(key service --service-account billing-service)
# The shortest life that works: a key that has already ended cannot be made.
expired_key=$(key expired --owner bob --expires-at "$(date -u -d '+5 seconds' +%Y-%m-%dT%H:%M:%SZ)")

cat >"$out/demo.env.new" <<END
GATEWAY_URL=$GATEWAY_URL
KEYCLOAK_URL=$KEYCLOAK_URL
REALM=$REALM
API_KEY=$user_key
SERVICE_API_KEY=$service_key
EXPIRED_API_KEY=$expired_key
KEYCLOAK_ADMIN_USER=$KEYCLOAK_ADMIN_USER
KEYCLOAK_ADMIN_PASSWORD=$KEYCLOAK_ADMIN_PASSWORD
END
# Gives the files to the project's owner on the host: this container runs as root, and
# so did Docker if it had to make the folder.
chown --reference="$owner" "$out" "$out/demo.env.new"
mv "$out/demo.env.new" "$out/demo.env"

# Wait until EXPIRED_API_KEY has really expired.
sleep 5
touch "$ready"
# shellcheck disable=SC2016 # for the reader's shell to expand
printf 'Ready. Try it on the host:\n\n  . .run/demo.env && curl -i -H "Authorization: ApiKey $API_KEY" "$GATEWAY_URL/orders"\n\n'
exec sleep infinity
