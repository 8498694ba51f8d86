#!/usr/bin/env bash
# Sees to it that all programs the checks need are there: installs them as root on Debian and Ubuntu,
# else names everything to install at once, instead of one failure after the other.
#
# usage: ensure-tools.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages=()
# want PROGRAM PACKAGE
want() {
  command -v "$1" >/dev/null 2>&1 || packages+=("$2")
}

# What the Kong checks alone need (nginx with Lua, docker-compose), tests/kong/check.sh sees to.
want cc gcc
want curl curl
want flock util-linux
want jq jq
want java openjdk-17-jre-headless
want mvn maven
want python3 python3
want shellcheck shellcheck
want ss iproute2
want unzip unzip
if command -v python3 >/dev/null 2>&1; then
  python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv)
else
  packages+=(python3-venv)
fi

[ -n "$(postgres_programs)" ] || packages+=(postgresql)

if [ ${#packages[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    mkdir -p "$RUN_DIR"
    with_progress "apt-get update" "$RUN_DIR/apt.log" apt-get update
    # PostgreSQL is wanted as programs, not as a service; apt-get asks this whether it may start one.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod +x "$policy"
    fi
    with_progress "installing ${packages[*]}" "$RUN_DIR/apt.log" \
      env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
  else
    die "these packages are missing: ${packages[*]}" "as root: apt-get install ${packages[*]}"
  fi
fi

need_rust
cargo fmt --version >/dev/null 2>&1 || die "cargo has no rustfmt" "rustup component add rustfmt"
cargo clippy --version >/dev/null 2>&1 || die "cargo has no clippy" "rustup component add clippy"
