#!/usr/bin/env bash
# Unpacks a program of Debian's into the per-user cache, without installing it: that needs no root.
#
# usage: debian-program.sh PACKAGE [PROGRAM]...
#   PROGRAM   a program to find in the package; default: the package's name
#
# Prints the folder with the programs. If this system lacks their libraries, these are beside the folder:
# the caller sets LD_LIBRARY_PATH to ../lib/*-linux-gnu.
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

# lacks_libraries PREFIX PROGRAM: whether a library of the program is missing.
lacks_libraries() {
  local folder
  folder=$(programs_in "$1" "$2") || return 1
  LD_LIBRARY_PATH=$(echo "$1"/usr/lib/*-linux-gnu) ldd "$folder/$2" 2>/dev/null | grep -q 'not found'
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
  local program folder libraries
  for program in "$@"; do
    lacks_libraries "$work/prefix" "$program" || continue
    libraries=$(apt-get install -s --no-install-recommends "$package" | awk '$1 == "Inst" && $2 ~ /^lib/ { print $2 }')
    # shellcheck disable=SC2086 # a name each
    with_progress "downloading its libraries" "$work/apt.log" apt-get download $libraries
    for file in lib*.deb; do dpkg -x "$file" "$work/prefix"; done
    break
  done
  for program in "$@"; do
    programs_in "$work/prefix" "$program" >/dev/null || die "Debian's $package holds no $program"
    ! lacks_libraries "$work/prefix" "$program" ||
      die "Debian's $program does not run on this system" "its libraries: apt-get install $package"
  done
}

if ! programs_in "$PREFIX" "$1" >/dev/null; then
  mkdir -p "$CACHE_DIR"
  work=$(mktemp -d "$CACHE_DIR/unpacking.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  step "Fetching Debian's $package (once)"
  (download "$work" "$@")
  # A rename: whole or not at all. If another run was first, use its folder.
  mv -T "$work/prefix" "$PREFIX" 2>/dev/null || programs_in "$PREFIX" "$1" >/dev/null ||
    die "cannot write $PREFIX" "remove it and try again"
fi
programs_in "$PREFIX" "$1"
