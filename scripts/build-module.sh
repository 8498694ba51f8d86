#!/usr/bin/env bash
# `make module`: builds the filter as a dynamic module of Envoy, for this machine's architecture and a glibc as old as
# this machine's or newer. With the profile `module`: like release, but a panic ends one request and not Envoy.
#
# usage: build-module.sh [--noop]
#   --noop           builds a module that does nothing instead (crates/envoy-abi/examples), the baseline of make bench
#   APIKEYS_COMMIT   the commit to name in the module's log, if this folder is no git repository
#
# Prints the path of the module on stdout: target/module/libapikeys_envoy.so, or libnoop_module.so
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TARGET_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}
MODULE=$TARGET_DIR/module/libapikeys_envoy.so WHAT="Envoy's module" BUILD=(--package envoy-module --crate-type cdylib)
if [ "${1:-}" = --noop ]; then
  MODULE=$TARGET_DIR/module/libnoop_module.so WHAT="a module that does nothing"
  BUILD=(--package envoy-abi --example noop_module)
fi

need_rust
step "Building $WHAT"
export_source_commit
# As in build-tool.sh.
unset "${!CARGO_PKG_@}" "${!CARGO_MANIFEST_@}"
# Links GCC's unwinder into the module: Envoy's distroless images have no libgcc_s.so.1.
mkdir -p "$TARGET_DIR/module-link"
echo 'INPUT(-lgcc_eh -lgcc)' >"$TARGET_DIR/module-link/libgcc_s.so"
CARGO_TARGET_DIR=$TARGET_DIR cargo rustc --profile module --locked "${BUILD[@]}" \
  --manifest-path "$PROJECT_ROOT/Cargo.toml" -- -L "native=$TARGET_DIR/module-link" >&2 || cargo_failed "$WHAT"
# Envoy looks for modules in one folder.
[ "${1:-}" != --noop ] || cp "$TARGET_DIR/module/examples/${MODULE##*/}" "$MODULE"
note "${MODULE##*/}: $(($(stat -c %s "$MODULE") / 1024)) KiB"
echo "$MODULE"
