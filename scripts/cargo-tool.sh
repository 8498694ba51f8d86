#!/usr/bin/env bash
# Brings a tool that cargo itself can build into the per-user cache, once: they are needed by who
# works on the project, never to build or run it.
#
# usage: cargo-tool.sh TOOL
# Prints the path of the program on stdout.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TOOLS="cargo-cyclonedx cargo-deny cargo-fuzz cargo-mutants oha"
# What make test itself runs is built without optimisation: it is done in half of the time, and the
# tool has little to do.
profile=()
case ${1:-} in
  cargo-cyclonedx) version=0.5.9 profile=(--debug) ;;
  cargo-deny) version=0.20.2 profile=(--debug) ;;
  cargo-fuzz) version=0.13.2 ;;
  cargo-mutants) version=27.1.0 ;;
  oha) version=1.16.0 ;;
  *) die "there is no tool '${1:-}'" "usage: cargo-tool.sh TOOL, one of: $TOOLS" ;;
esac
tool=$1
home=$CACHE_DIR/$tool-$version
if [ ! -x "$home/bin/$tool" ]; then
  need_rust
  step "Installing $tool $version into $home (once, a minute or more)"
  mkdir -p "$home"
  # Not into ~/.cargo/bin: what a developer has there stays as it is.
  # Quickly built rather than to the last percent: oha's own release links for minutes.
  CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    with_progress "building it" "$home/install.log" \
    cargo install --locked "${profile[@]}" --root "$home" --version "=$version" "$tool"
fi
echo "$home/bin/$tool"
