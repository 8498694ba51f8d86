#!/usr/bin/env bash
# `make dist`: what a release is, in one folder: the filter and its schema for Kong, the filter as an
# OCI image that Istio and Envoy Gateway pull, the command-line tool, what both are made
# of (SBOM), checksums over all of it.
#
# usage: dist.sh
#
# Writes target/dist/ anew and prints its path on stdout. The image is a tar of an OCI image layout;
# to a registry of yours it goes with: skopeo copy oci-archive:FILE docker://REGISTRY/NAME:TAG
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

TARGET_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}
DIST=$TARGET_DIR/dist
NAME=apikey_jwt_exchange

need git "apt-get install git"
need python3 "apt-get install python3"
need sha256sum "apt-get install coreutils"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || warn "there are changes that are not committed: this is no release"

step "Building $NAME $version"
wasm=$(scripts/build-wasm.sh)
CARGO_TARGET_DIR=$TARGET_DIR cargo build --release --locked --features cli --bin apikeys >&2

step "Putting it together"
rm -rf "$DIST"
mkdir -p "$DIST"
cp "$wasm" "$DIST/$NAME.wasm"
cp kong/apikey_jwt_exchange.meta.json "$DIST/$NAME.meta.json"
cp "$TARGET_DIR/release/apikeys" "$DIST/apikeys-linux-$(uname -m)"
cp LICENSE CHANGELOG.md "$DIST/"
scripts/sbom.sh >&2
cp "$TARGET_DIR"/sbom/*.json "$DIST/"
python3 scripts/oci_layout.py "$wasm" "$NAME" "$version" "$revision" "$DIST/$NAME-$version.oci.tar"
(cd "$DIST" && sha256sum -- * >SHA256SUMS)
(cd "$DIST" && cat SHA256SUMS) >&2
printf '%s\n' "$DIST"
