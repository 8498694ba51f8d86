#!/usr/bin/env bash
# `make reproducible`: builds the filter again in another folder and with another cargo home, and
# compares the bytes with scripts/build-wasm.sh's here. The receiver of a wasm can check in this way
# that it was made from this source, with the same compiler: another compiler makes other bytes.
#
# usage: reproducible.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_rust
need sha256sum "coreutils"
home=${CARGO_HOME:-$HOME/.cargo}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The second folder has no git, and the commit's name is a part of the build.
export_source_commit
first=$("$PROJECT_ROOT/scripts/build-wasm.sh")

# All sources, known to git or not, without builds.
mkdir -p "$work/another folder/source" "$work/cargo-home/registry"
tar -C "$PROJECT_ROOT" --exclude=./target --exclude=./.run --exclude=./.git --exclude=./dist -c . |
  tar -C "$work/another folder/source" -x
# Shares the downloads, but unpacks them elsewhere.
for part in config.toml config registry/index registry/cache; do
  [ ! -e "$home/$part" ] || ln -s "$home/$part" "$work/cargo-home/$part"
done
step "The same in another folder"
second=$(CARGO_HOME=$work/cargo-home CARGO_TARGET_DIR="$work/another folder/target" \
  "$work/another folder/source/scripts/build-wasm.sh")

cmp "$first" "$second" || die "two builds gave two digests" \
  "look for what differs:   strings -n 8, or wasm-objdump, over a copy of each"
note "one digest: $(sha256sum "$first" | cut -d ' ' -f 1)"
