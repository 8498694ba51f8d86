#!/usr/bin/env bash
# `make tool`: builds the command-line tool. A script, because a build names its commit, and cargo
# does not know it.
#
# usage: build-tool.sh
#   APIKEYS_COMMIT   the commit to name, if this folder is no git repository
#
# Prints the path of the tool on stdout: target/release/apikeys
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TARGET_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}

need_rust
step "Building the apikeys tool"
export_source_commit
# Variables that cargo sets for a test of its own package. ring's build script reads them, so a build
# started by the end-to-end suite would compile TLS anew, and so would the next one by hand.
unset "${!CARGO_PKG_@}" "${!CARGO_MANIFEST_@}"
CARGO_TARGET_DIR=$TARGET_DIR cargo build --release --locked --package apikeys \
  --manifest-path "$PROJECT_ROOT/Cargo.toml" >&2 || cargo_failed "the apikeys tool"
echo "$TARGET_DIR/release/apikeys"
