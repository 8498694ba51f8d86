#!/usr/bin/env bash
# Builds a tool with cargo into the per-user cache, once. Developers need these tools; a build or a run
# of the project never does.
#
# usage: cargo-tool.sh TOOL
# Prints the path of the program on stdout.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TOOLS="cargo-cyclonedx cargo-deny cargo-fuzz cargo-mutants oha"
# Tools of make test are built without optimisation: in half of the time, and they have little to do.
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
  # Not into ~/.cargo/bin: the developer's own tools stay as they are.
  # A quick build, not the fastest program: oha's own release links for minutes.
  CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    with_progress "building it" "$home/install.log" \
    cargo install --locked "${profile[@]}" --root "$home" --version "=$version" "$tool"
fi
echo "$home/bin/$tool"
