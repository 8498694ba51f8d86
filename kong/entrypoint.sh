#!/usr/bin/env bash
# Starts Kong in its container: writes the values of the environment into the two
# configuration files (render.sh), checks that the signing key is there, and then
# runs the image's own entrypoint.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
rendered=${APIKEYS_RENDERED_DIR:-/tmp/apikeys}

mkdir -p "$rendered"
for file in kong.yml nginx-apikeys.conf; do
    # To a new name first: a reload must never read half a file.
    "$here/render.sh" "$here/$file" >"$rendered/$file.new"
    mv "$rendered/$file.new" "$rendered/$file"
done

# nginx reads the key from this file itself, so it is in no argument, in no environment
# and not in the configuration that Kong prints.
if [[ ! -r ${KONG_NGINX_PROXY_INCLUDE:-} ]]; then
    printf 'entrypoint.sh: cannot read the signing key in "%s" (KONG_NGINX_PROXY_INCLUDE); %s\n' \
        "${KONG_NGINX_PROXY_INCLUDE:-}" \
        'the setup service writes it, for members of the group that group_add gives Kong' >&2
    exit 1
fi

export KONG_DECLARATIVE_CONFIG=$rendered/kong.yml
export KONG_NGINX_HTTP_INCLUDE=$rendered/nginx-apikeys.conf
exec "${APIKEYS_NEXT_ENTRYPOINT:-/docker-entrypoint.sh}" "$@"
