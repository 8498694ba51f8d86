#!/usr/bin/env bash
# `make reproducible`: builds the filter a second time, in another folder and with another cargo home,
# and compares the bytes with those of scripts/build-wasm.sh here. Whoever is given a wasm can so find
# out whether it was made from this source. The compiler is the same: another one's wasm is another.
#
# usage: reproducible.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need_rust
need sha256sum "coreutils"
home=${CARGO_HOME:-$HOME/.cargo}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The second folder knows no git; what a build names as its commit is a part of it.
export_source_commit
first=$("$PROJECT_ROOT/scripts/build-wasm.sh")

# The sources as they are, whatever git knows of them, without what was built.
mkdir -p "$work/another folder/source" "$work/cargo-home/registry"
tar -C "$PROJECT_ROOT" --exclude=./target --exclude=./.run --exclude=./.git --exclude=./dist -c . |
  tar -C "$work/another folder/source" -x
# What was downloaded is not downloaded again, and is unpacked elsewhere.
for part in config.toml config registry/index registry/cache; do
  [ ! -e "$home/$part" ] || ln -s "$home/$part" "$work/cargo-home/$part"
done
step "The same in another folder"
second=$(CARGO_HOME=$work/cargo-home CARGO_TARGET_DIR="$work/another folder/target" \
  "$work/another folder/source/scripts/build-wasm.sh")

cmp "$first" "$second" || die "two builds gave two digests" \
  "look for what differs:   strings -n 8, or wasm-objdump, over a copy of each"
note "one digest: $(sha256sum "$first" | cut -d ' ' -f 1)"
