#!/usr/bin/env bash
# Unpacks Debian's newer Rust (packaged for browsers), its source, the Wasm linker and WASI's C library
# into the per-user cache. Needs no root, and leaves the installed Rust alone. Looks the versions up,
# since a security release changes them.
#
# usage: debian-wasm-toolchain.sh
# Prints the folder on stdout.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PREFIX=$CACHE_DIR/debian-wasm-rust

# depends_on PACKAGE PATTERN: the first dependency of the package with a name of this pattern.
depends_on() {
  apt-cache depends "$1" 2>/dev/null | sed -n 's/^ *Depends: //p' | grep -m 1 -E "^$2\$"
}

no_download() {
  tell_full_disks
  die "Debian's Rust could not be downloaded" "is this machine online? apt's sources are in /etc/apt" \
    "or, with rustup: rustup target add wasm32-wasip1"
}

fetch() {
  local work=$1 std llvm number
  need apt-get "a Debian or Ubuntu system; elsewhere install rustup and run: rustup target add wasm32-wasip1"
  need dpkg "the Debian package tools"
  if [ -z "$(apt-cache show rustc-web 2>/dev/null)" ] && [ "$(id -u)" = 0 ]; then
    with_progress "apt-get update" "$CACHE_DIR/apt-update.log" apt-get update || no_download
  fi
  std=$(depends_on libstd-rust-web-dev 'libstd-rust-web-[0-9.]+') || std=
  llvm=$(depends_on "${std:-none}" 'libllvm[0-9]+') || llvm=
  [ -n "$llvm" ] ||
    die "apt knows no package rustc-web, which is Debian 12's newer Rust" \
      "run apt-get update as root (Debian 12 with its security archive)," \
      "or install rustup and run: rustup target add wasm32-wasip1"
  number=${llvm#libllvm}

  mkdir "$work/packages" "$work/prefix"
  cd "$work/packages"
  # The last three are libraries of the compiler itself that a small system may lack.
  with_progress "downloading rustc-web, $std, its source, lld-$number and wasi-libc" "$CACHE_DIR/apt.log" \
    apt-get download rustc-web libstd-rust-web-dev "$std" rust-web-src "$llvm" "lld-$number" \
    "libclang-rt-$number-dev-wasm32" wasi-libc libz3-4 libedit2 libxml2 || no_download
  local package
  for package in *.deb; do
    dpkg -x "$package" "$work/prefix"
  done
  LD_LIBRARY_PATH=$work/prefix/usr/lib/$(uname -m)-linux-gnu "$work/prefix/usr/bin/rustc" --version >/dev/null ||
    die "Debian's Rust does not run on this system"
}

if [ ! -x "$PREFIX/usr/bin/rustc" ]; then
  mkdir -p "$CACHE_DIR"
  need_room 1500 "$CACHE_DIR" "APIKEYS_CACHE_DIR=<folder>"
  work=$(mktemp -d "$CACHE_DIR/unpacking.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  step "Fetching Debian's Rust for the Wasm target (once)"
  (fetch "$work")
  # A rename: whole or not at all. If another run was first, use its folder.
  mv -T "$work/prefix" "$PREFIX" 2>/dev/null || [ -x "$PREFIX/usr/bin/rustc" ] ||
    die "cannot write $PREFIX" "remove it and try again"
fi
echo "$PREFIX"
