#!/usr/bin/env bash
# Checks the Kong plugin without Kong: lints it, runs it in Debian's nginx, first with a stand-in for the
# service, then with the service itself, and lets docker compose read the plugin's demo. Part of
# `make test-all`.
#
# KEYCLOAK_URL, KEYCLOAK_ADMIN_USER and KEYCLOAK_ADMIN_PASSWORD: a running Keycloak with the demo's realm,
# as scripts/with-keycloak.sh gives it. APIKEYS: the built apikeys tool.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/kong/lib.sh

step 'Tools'
command -v openssl >/dev/null || apt_install openssl
command -v curl >/dev/null || apt_install curl
command -v luacheck >/dev/null || apt_install lua-check
need_nginx
nginx -v 2>&1

step 'Lua'
luacheck --std ngx_lua --globals kong --no-self --no-max-line-length --quiet \
    kong/plugins tests/kong_plugin

step 'The plugin in nginx'
python3 tests/kong_plugin/test_plugin.py

step 'The plugin with apikeys serve'
python3 tests/kong_plugin/test_serve.py

step 'The demo'
need_compose
"${COMPOSE[@]}" -f deploy/compose-kong-plugin/docker-compose.yml config --quiet
echo "${COMPOSE[*]} accepts it"

printf '\nThe Kong plugin passes all checks.\n'
