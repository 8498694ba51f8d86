#!/usr/bin/env bash
# Checks the Kong plugin without Kong: lints it, runs it in Debian's nginx, and lets docker compose read
# the demo with it. Part of `make test-all`.
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

step 'The demo'
need_compose
"${COMPOSE[@]}" -f deploy/compose-kong-plugin/docker-compose.yml config --quiet
echo "${COMPOSE[*]} accepts it"

printf '\nThe Kong plugin holds.\n'
