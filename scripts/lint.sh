#!/usr/bin/env bash
# All lints, by the names that test.sh lists, so that each can be run alone.
#
# usage: lint.sh [clippy-native|clippy-wasm|scripts]...   (default: all three)
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

need_clippy() {
  need_rust
  cargo clippy --version >/dev/null 2>&1 || die "cargo has no clippy" "rustup component add clippy"
}

clippy_native() {
  need_clippy
  cargo clippy --locked --workspace --all-targets -- -D warnings
  # Cargo leaves the targets out that `cargo test` alone does not run.
  cargo clippy --locked --package suites --test cli --test e2e --test soak --test writes -- -D warnings
}

# Lints the code that only the filter compiles.
clippy_wasm() {
  need_clippy
  "$PROJECT_ROOT/scripts/build-wasm.sh" --has-target ||
    die "clippy needs the target wasm32-wasip1 in the installed Rust" "rustup target add wasm32-wasip1"
  cargo clippy --locked --package apikey-jwt-exchange --lib --target wasm32-wasip1 -- -D warnings
}

scripts() {
  need shellcheck "apt-get install shellcheck"
  shellcheck --external-sources --source-path=SCRIPTDIR scripts/*.sh .ci/run
  need python3 "apt-get install python3"
  python3 -c 'import ast, sys; [ast.parse(open(path).read(), path) for path in sys.argv[1:]]' \
    deploy/demo/orders.py scripts/sbom.py scripts/oci_layout.py
}

[ $# -gt 0 ] || set -- clippy-native clippy-wasm scripts
for lint in "$@"; do
  case $lint in
    clippy-native) clippy_native ;;
    clippy-wasm) clippy_wasm ;;
    scripts) scripts ;;
    *) die "there is no lint '$lint'" "usage: lint.sh [clippy-native|clippy-wasm|scripts]..." ;;
  esac
done
