#!/usr/bin/env bash
# Brings a program of Debian's into the per-user cache, unpacked beside the system and not installed:
# that needs no root.
#
# usage: debian-program.sh PACKAGE [PROGRAM]...
#   PROGRAM   what to find in its folder; the package's own name if none is given
#
# Prints the folder with the programs.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ $# -ge 1 ] || die "usage: debian-program.sh PACKAGE [PROGRAM]..."
package=$1
shift
[ $# -gt 0 ] || set -- "$package"
PREFIX=$CACHE_DIR/$package

# programs_in PREFIX PROGRAM: the folder that holds it.
programs_in() {
  local folder
  for folder in "$1/usr/bin" "$1/usr/sbin"; do
    [ ! -x "$folder/$2" ] || { echo "$folder"; return; }
  done
  return 1
}

download() {
  local work=$1
  shift
  need apt-get "Debian or Ubuntu; elsewhere put $* into $PREFIX/usr/bin"
  need dpkg "the Debian package tools"
  if [ -z "$(apt-cache show "$package" 2>/dev/null)" ] && [ "$(id -u)" = 0 ]; then
    with_progress "apt-get update" "$work/update.log" apt-get update
  fi
  [ -n "$(apt-cache show "$package" 2>/dev/null)" ] ||
    die "apt knows no package $package" "run apt-get update as root"
  mkdir "$work/packages" "$work/prefix"
  cd "$work/packages"
  with_progress "downloading $package" "$work/apt.log" apt-get download "$package"
  dpkg -x "$package"_*.deb "$work/prefix"
  local program folder
  for program in "$@"; do
    folder=$(programs_in "$work/prefix" "$program") || die "Debian's $package holds no $program"
    ! ldd "$folder/$program" 2>/dev/null | grep -q 'not found' ||
      die "Debian's $program does not run on this system" "its libraries: apt-get install $package"
  done
}

if ! programs_in "$PREFIX" "$1" >/dev/null; then
  mkdir -p "$CACHE_DIR"
  work=$(mktemp -d "$CACHE_DIR/unpacking.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  step "Fetching Debian's $package (once)"
  (download "$work" "$@")
  # Whole or not at all; and whoever was first has it.
  mv -T "$work/prefix" "$PREFIX" 2>/dev/null || programs_in "$PREFIX" "$1" >/dev/null ||
    die "cannot write $PREFIX" "remove it and try again"
fi
programs_in "$PREFIX" "$1"
