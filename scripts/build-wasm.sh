#!/usr/bin/env bash
# Builds the filter, apikey_jwt_exchange.wasm. If rustup cannot download Rust's Wasm target (many build
# machines reach only a mirror of Debian and of the crates registry), uses Debian's own Rust. Says
# which of the two it used.
#
# usage: build-wasm.sh [--has-target | --noop]
#   --has-target   builds nothing; succeeds if the installed Rust has the target or rustup adds it
#   --noop         builds crates/bench/noop_filter instead, the baseline of make bench
#   APIKEYS_WASM_TOOLCHAIN   auto (default), rustup: only the installed Rust, debian: only Debian's
#   APIKEYS_COMMIT   the commit to name in the filter's log, if this folder is no git repository
#
# One commit and one compiler give the same bytes on every machine: reproducible.sh shows it. So no
# path of this machine and no RUSTFLAGS of its user go into the wasm.
#
# Prints the path of the wasm on stdout: target/wasm/apikey_jwt_exchange.wasm, or noop_filter.wasm
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TARGET=wasm32-wasip1
NAME=apikey_jwt_exchange.wasm PACKAGE=apikey-jwt-exchange
WHAT="the filter" MANIFEST=$PROJECT_ROOT/Cargo.toml
if [ "${1:-}" = --noop ]; then
  NAME=noop_filter.wasm PACKAGE=noop-filter WHAT="a filter that does nothing" MANIFEST=$PROJECT_ROOT/crates/bench/noop_filter/Cargo.toml
fi
TARGET_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}
CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
BUILD=(cargo build --release --lib --locked --target "$TARGET" --manifest-path "$MANIFEST" --package "$PACKAGE")
# Without the instructions for blocks of memory: V8 leaves its compiled code for each of them, and most
# blocks copied or wiped here are short. A warm request takes some 2 % less time without.
CODE=(-C "target-feature=-bulk-memory,-bulk-memory-opt")

# has_target: whether the installed Rust has the target's standard library.
has_target() {
  local libraries
  libraries=$(cd "$PROJECT_ROOT" && rustc --print target-libdir --target "$TARGET" 2>/dev/null) || return 1
  [ -d "$libraries" ]
}

# add_target: lets rustup fetch it; true if it is there afterwards.
add_target() {
  command -v rustup >/dev/null 2>&1 || {
    note "rustup is not installed, and the installed Rust has no $TARGET"
    return 1
  }
  note "rustup target add $TARGET"
  (cd "$PROJECT_ROOT" && rustup target add "$TARGET") >&2 || {
    note "rustup could not add it"
    return 1
  }
  has_target
}

# machine_paths: the folders of the dependencies' sources on this machine. Panics name them, so the build
# replaces each one whole: its name is that of the registry or of a mirror.
machine_paths() {
  local sources=$CARGO_HOME/registry/src folder
  for folder in "$sources"/*/; do
    [ -d "$folder" ] && printf '%s=/dependencies\n' "${folder%/}"
  done
  return 0
}

# build FOLDER [FLAG]... -- [OPTION]...: builds into the folder with these flags of rustc. They replace
# RUSTFLAGS, and because of --target they do not reach build scripts.
build() {
  local folder=$1 flags=("${CODE[@]}") paths path built
  shift
  while [ "$1" != -- ]; do
    flags+=("$1")
    shift
  done
  shift
  paths=$(machine_paths)
  if [ -z "$paths" ]; then
    # No dependency was unpacked here yet, so the name of their folder is unknown: unpack them now.
    local host
    host=$(rustc -vV | sed -n 's/^host: //p')
    (cd "$PROJECT_ROOT" && cargo fetch --locked --target "$TARGET" --target "$host") >&2 ||
      cargo_failed "$WHAT"
    paths=$(machine_paths)
  fi
  while read -r path; do
    [ -z "$path" ] || flags+=("--remap-path-prefix=$path")
  done <<<"$paths"$'\n'"$folder=/target"
  CARGO_TARGET_DIR=$folder CARGO_ENCODED_RUSTFLAGS=$(joined "${flags[@]}") "${BUILD[@]}" "$@" >&2 ||
    cargo_failed "$WHAT"
  built=$folder/$TARGET/release/$NAME
  if grep -qaF "$CARGO_HOME/registry/" "$built"; then
    die "the wasm holds a path of this machine: it is not what others build" \
      "a registry was new to cargo, perhaps: build again"
  fi
  place "$built"
}

# joined FLAG...: in the form of CARGO_ENCODED_RUSTFLAGS, so that a flag may have spaces.
joined() {
  local IFS=$'\x1f'
  printf '%s' "$*"
}

build_with_installed_rust() {
  note "with the installed $(cd "$PROJECT_ROOT" && rustc --version)"
  build "$TARGET_DIR" --
}

build_with_debian_rust() {
  local prefix libraries built=$TARGET_DIR/debian-wasm linker
  prefix=$("$PROJECT_ROOT/scripts/debian-wasm-toolchain.sh")
  libraries=$prefix/usr/lib/$(uname -m)-linux-gnu
  linker=$(echo "$prefix"/usr/bin/wasm-ld-*)
  export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export RUSTC=$prefix/usr/bin/rustc
  # Builds the standard library for Wasm from source; a release's rustc allows that only with this.
  export RUSTC_BOOTSTRAP=1
  export CARGO_TARGET_WASM32_WASIP1_LINKER=$linker
  note "with Debian's $("$RUSTC" --version), its standard library built from source"
  # A folder of its own: two compilers in one would rebuild everything after each switch.
  build "$built" -L "native=$prefix/usr/lib/wasm32-wasi" -C link-self-contained=no \
    "--remap-path-prefix=$prefix=/debian" -- -Zbuild-std=std,panic_abort
}

# place FILE: moves the wasm to the same path for both compilers. A rename, so that a gateway starting
# at this moment reads a whole file.
place() {
  mkdir -p "$TARGET_DIR/wasm"
  cp "$1" "$TARGET_DIR/wasm/$NAME.new"
  mv "$TARGET_DIR/wasm/$NAME.new" "$TARGET_DIR/wasm/$NAME"
  note "$NAME: $(($(stat -c %s "$TARGET_DIR/wasm/$NAME") / 1024)) KiB"
  note "sha256 $(sha256sum "$TARGET_DIR/wasm/$NAME" | cut -d ' ' -f 1)"
  echo "$TARGET_DIR/wasm/$NAME"
}

need_rust
if [ "${1:-}" = --has-target ]; then
  has_target || add_target
  exit
fi
step "Building $WHAT"
export_source_commit
case ${APIKEYS_WASM_TOOLCHAIN:-auto} in
  auto)
    if has_target || add_target; then
      build_with_installed_rust
    else
      note "falling back to Debian's Rust"
      build_with_debian_rust
    fi
    ;;
  rustup)
    has_target || add_target ||
      die "the installed Rust has no target $TARGET" "rustup target add $TARGET" \
        "or let Debian's Rust build it: APIKEYS_WASM_TOOLCHAIN=debian"
    build_with_installed_rust
    ;;
  debian) build_with_debian_rust ;;
  *) die "APIKEYS_WASM_TOOLCHAIN is '$APIKEYS_WASM_TOOLCHAIN'" "set it to auto, rustup or debian" ;;
esac
