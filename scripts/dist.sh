#!/usr/bin/env bash
# `make dist`: puts a release into one folder: the filter and its schema for Kong, the filter as an OCI
# image that Istio and Envoy Gateway pull, Envoy's module and the command-line tool for this machine, the
# SBOM of filter and tool, and checksums of all files.
#
# usage: dist.sh
#
# Writes target/dist/ anew and prints its path on stdout. The image is a tar of an OCI image layout; to
# copy it to your registry: skopeo copy oci-archive:FILE docker://REGISTRY/NAME:TAG
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

TARGET_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}
DIST=$TARGET_DIR/dist
NAME=apikey_jwt_exchange

need python3 "apt-get install python3"
need sha256sum "apt-get install coreutils"

export_source_commit
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
revision=${APIKEYS_COMMIT:-unknown}
case $revision in
  unknown | *-modified) warn "the source is of no commit ($revision): this is no release" ;;
esac
grep -qF "## [$version]" CHANGELOG.md || warn "CHANGELOG.md has no entry [$version]: this is no release"

step "Building $NAME $version"
wasm=$(scripts/build-wasm.sh)
tool=$(scripts/build-tool.sh)
module=$(scripts/build-module.sh)

step "Putting it together"
umask 022
rm -rf "$DIST"
mkdir -p "$DIST"
# Readable by everybody, under any umask.
install -m 0644 "$wasm" "$DIST/$NAME.wasm"
install -m 0644 kong/apikey_jwt_exchange.meta.json "$DIST/$NAME.meta.json"
install -m 0755 "$tool" "$DIST/apikeys-linux-$(uname -m)"
install -m 0644 "$module" "$DIST/libapikeys_envoy-linux-$(uname -m).so"
install -m 0644 LICENSE CHANGELOG.md "$DIST/"
scripts/sbom.sh >&2
install -m 0644 "$TARGET_DIR"/sbom/*.json "$DIST/"
python3 scripts/oci_layout.py "$wasm" "$NAME" "$version" "$revision" "$DIST/$NAME-$version.oci.tar"
(cd "$DIST" && sha256sum -- * >SHA256SUMS)
(cd "$DIST" && cat SHA256SUMS) >&2

step "Looking at it as who downloads it does"
(cd "$DIST" && sha256sum --check --strict --quiet SHA256SUMS) || die "the checksums do not fit"
said=$("$DIST/apikeys-linux-$(uname -m)" --version)
[ "$said" = "apikeys $version (commit $revision)" ] ||
  die "the tool calls itself: $said" "it should name $version and $revision"
for file in "$DIST/$NAME.wasm" "$DIST"/libapikeys_envoy-*.so; do
  grep -qaF "$revision" "$file" || die "${file##*/} does not name commit $revision"
done
tar -xOf "$DIST/$NAME-$version.oci.tar" index.json | grep -qF "\"$version\"" ||
  die "the image does not name $version"
note "$said"
printf '%s\n' "$DIST"
