# shellcheck shell=bash
# Shared by the checks for Kong: messages, and Debian's programs. To be sourced, not run.

set -euo pipefail

step() { printf '\n== %s\n' "$1"; }

fail() {
    printf 'check.sh: %s\n' "$1" >&2
    exit 1
}

apt_updated=''

# apt_install PACKAGE…: with apt-get as root, else stops with the reason.
apt_install() {
    if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
        fail "missing: $*. On Debian or Ubuntu: sudo apt-get install $*"
    fi
    if [[ -z $apt_updated ]]; then
        apt-get update -qq
        apt_updated=yes
    fi
    # Only nginx's program, no service on port 80.
    local policy=/usr/sbin/policy-rc.d ours=''
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        ours=yes
    fi
    local status=0
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || status=$?
    [[ -z $ours ]] || rm -f "$policy"
    [[ $status -eq 0 ]] || fail "apt-get could not install $*; see its message above"
}

# need_nginx: installs nginx with its Lua module, and adds Debian's folder for it to PATH.
need_nginx() {
    PATH=$PATH:/usr/sbin:/sbin # where Debian has nginx, for users too
    local lua=/usr/lib/nginx/modules/ngx_http_lua_module.so
    if ! command -v nginx >/dev/null || [[ ! -e $lua ]]; then
        apt_install nginx-light libnginx-mod-http-lua
    fi
}

# need_compose: sets COMPOSE to docker's plugin, or to Debian's older program, which reads the same file.
need_compose() {
    if docker compose version >/dev/null 2>&1; then
        COMPOSE=(docker compose)
    else
        command -v docker-compose >/dev/null || apt_install docker-compose
        # shellcheck disable=SC2034 # read by the scripts that source this one
        COMPOSE=(docker-compose)
    fi
}
