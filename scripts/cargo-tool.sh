#!/usr/bin/env bash
# Brings a tool that cargo itself can build into the per-user cache, once: they are needed now and
# then by who works on the project, never to build or run it.
#
# usage: cargo-tool.sh cargo-fuzz|cargo-mutants
# Prints the path of the program on stdout.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case ${1:-} in
  cargo-fuzz) version=0.13.2 ;;
  cargo-mutants) version=27.1.0 ;;
  *) die "usage: cargo-tool.sh cargo-fuzz|cargo-mutants" ;;
esac
tool=$1
home=$CACHE_DIR/$tool-$version
if [ ! -x "$home/bin/$tool" ]; then
  need_rust
  step "Installing $tool $version into $home (once, some minutes)"
  mkdir -p "$home"
  # Not into ~/.cargo/bin: what a developer has there stays as it is.
  with_progress "building it" "$home/install.log" \
    cargo install --locked --root "$home" --version "=$version" "$tool"
fi
echo "$home/bin/$tool"
