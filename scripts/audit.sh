#!/usr/bin/env bash
# `make audit`: checks all crates of Cargo.lock against the advisories of RustSec. Not a part of make
# test: the database comes from the network and changes by itself, and a test that fails without a
# change says nothing about a change. Run it before a release, and daily for releases in use.
#
# usage: audit.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

need_rust
need git "apt-get install git"
cargo_deny=$(scripts/cargo-tool.sh cargo-deny)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

step "Fetching the advisories"
if ! "$cargo_deny" --locked fetch db >"$log" 2>&1; then
  tail -n 5 "$log" >&2
  die "the advisories cannot be fetched from here: NOTHING was checked" \
    "cargo-deny clones https://github.com/RustSec/advisory-db; run make audit where that can be reached"
fi
step "Advisories"
"$cargo_deny" --locked --workspace check advisories
