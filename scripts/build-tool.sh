#!/usr/bin/env bash
# `make tool`: builds the command-line tool. A script since a build is to name its commit, which
# cargo does not know.
#
# usage: build-tool.sh
#   APIKEYS_COMMIT   the commit to name, where this folder knows no git
#
# Prints the path of the tool on stdout: target/release/apikeys
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TARGET_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}

need_rust
step "Building the apikeys tool"
export_source_commit
# What cargo tells a test of its own package: ring's build script looks at these, and a build that the
# end-to-end suite starts would compile TLS anew, and the next one by hand once more.
unset "${!CARGO_PKG_@}" "${!CARGO_MANIFEST_@}"
CARGO_TARGET_DIR=$TARGET_DIR cargo build --release --locked --package apikeys \
  --manifest-path "$PROJECT_ROOT/Cargo.toml" >&2 || cargo_failed "the apikeys tool"
echo "$TARGET_DIR/release/apikeys"
