#!/usr/bin/env bash
# `make sbom`: lists the crates of the filter and of the command-line tool, as CycloneDX 1.5 in JSON:
# target/sbom/apikey_jwt_exchange.wasm.cdx.json and apikeys.cdx.json. Each component has its version, its
# licence and its digest from Cargo.lock. One commit gives the same bytes on every machine.
#
# usage: sbom.sh [check]
#   check   also makes both again in another folder, and compares them with cargo's own lists: every
#           crate that cargo builds in is listed with the lock's digest, and no other crate
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

SBOM_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}/sbom
# Each with its target, its crate and the crate's folder.
BOMS=("apikey_jwt_exchange.wasm wasm32-wasip1 apikey-jwt-exchange ." "apikeys x86_64-unknown-linux-gnu apikeys crates/tool")

# The time is the commit's, not the list's.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH

# built_in TARGET CRATE: name and version of all crates that cargo builds in, with build scripts and macros.
built_in() {
  cargo tree --locked --target "$1" --package "$2" --edges normal,build --prefix none --format '{p}' |
    sed -n 's/^\([^ ]*\) v\([^ ]*\).*/\1 \2/p' | LC_ALL=C sort -u
}

# write FOLDER: both lists, made in a copy, since the tool writes beside Cargo.toml.
write() {
  local folder=$1 copy bom name target crate at
  copy=$(mktemp -d "$work/copy.XXXXXX")
  cp -r Cargo.toml Cargo.lock src crates tests "$copy"
  mkdir -p "$folder"
  for bom in "${BOMS[@]}"; do
    read -r name target crate at <<<"$bom"
    "$cargo_cyclonedx" cyclonedx --quiet --manifest-path "$copy/$at/Cargo.toml" --format json \
      --spec-version 1.5 --target "$target" \
      --override-filename bom >&2
    cmp -s Cargo.lock "$copy/Cargo.lock" || die "Cargo.lock is not up to date" "run: cargo check"
    built_in "$target" "$crate" |
      python3 scripts/sbom.py write "$copy/$at/bom.json" "$copy" "$folder/$name.cdx.json"
  done
}

need_rust
need python3 "apt-get install python3"
cargo_cyclonedx=$(scripts/cargo-tool.sh cargo-cyclonedx)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step "Listing what is built in"
write "$SBOM_DIR"
for bom in "${BOMS[@]}"; do note "$SBOM_DIR/${bom%% *}.cdx.json"; done
case ${1:-} in
  "") ;;
  check)
    write "$work/again"
    for bom in "${BOMS[@]}"; do
      read -r name target crate _ <<<"$bom"
      cmp "$SBOM_DIR/$name.cdx.json" "$work/again/$name.cdx.json" || die "two lists of $name differ"
      ! grep -qF -e "$HOME" -e "$PROJECT_ROOT" -e "$work" "$SBOM_DIR/$name.cdx.json" ||
        die "$name.cdx.json holds a path of this machine"
      note "$name: $(built_in "$target" "$crate" |
        python3 scripts/sbom.py check "$SBOM_DIR/$name.cdx.json" Cargo.lock)"
    done
    ;;
  *) die "there is no '$1'" "usage: sbom.sh [check]" ;;
esac
