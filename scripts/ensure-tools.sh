#!/usr/bin/env bash
# Makes sure that all programs of the checks are there: installs them as root on Debian and Ubuntu,
# else names all missing ones at once.
#
# usage: ensure-tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cannot_install() {
  tell_full_disks
  die "these packages are missing and could not be installed: ${WANTED_PACKAGES[*]}" \
    "is this machine online? apt's sources are in /etc/apt" "by hand: apt-get install ${WANTED_PACKAGES[*]}"
}

# tests/kong/check.sh checks its own needs (nginx with Lua, docker-compose).
want cc gcc
want curl curl
want flock util-linux
want git git
want jq jq
want java openjdk-17-jre-headless
want mvn maven
want openssl openssl
want python3 python3
want shellcheck shellcheck
want ss iproute2
want unzip unzip
if command -v python3 >/dev/null 2>&1; then
  python3 -c 'import ensurepip' 2>/dev/null || WANTED_PACKAGES+=(python3-venv)
else
  WANTED_PACKAGES+=(python3-venv)
fi

[ -n "$(postgres_programs)" ] || WANTED_PACKAGES+=(postgresql)

if [ ${#WANTED_PACKAGES[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    mkdir -p "$RUN_DIR"
    with_progress "apt-get update" "$RUN_DIR/apt.log" apt-get update || cannot_install
    # Only the programs of PostgreSQL, no service: apt-get asks this file whether it may start one.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod +x "$policy"
    fi
    with_progress "installing ${WANTED_PACKAGES[*]}" "$RUN_DIR/apt.log" \
      env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      "${WANTED_PACKAGES[@]}" || cannot_install
  else
    die "these packages are missing: ${WANTED_PACKAGES[*]}" \
      "on Debian or Ubuntu, as root: apt-get install ${WANTED_PACKAGES[*]}"
  fi
fi

need_rust
need_java
cargo fmt --version >/dev/null 2>&1 || die "cargo has no rustfmt" "rustup component add rustfmt"
cargo clippy --version >/dev/null 2>&1 || die "cargo has no clippy" "rustup component add clippy"
