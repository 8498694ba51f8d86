# shellcheck shell=bash
# Shared by the scripts of this folder: paths, messages, and how to start, await and stop a background
# process. Sourced, never run. Linux only: it reads a process's identity from /proc, so that a stale pid
# file never ends somebody else's process.

set -euo pipefail

PROJECT_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034 # read by the scripts that source this one
CACHE_DIR=${APIKEYS_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/apikey-jwt-exchange}

: "${RUN_DIR:=$PROJECT_ROOT/.run}"
case $RUN_DIR in
  /*) ;;
  *) RUN_DIR=$PWD/$RUN_DIR ;;
esac
export RUN_DIR

: "${GATEWAY_PORT:=8000}" "${SERVICE_PORT:=8001}" "${DEMO_PORT:=8002}" "${YIELD_PORT:=8003}"
: "${KEYCLOAK_PORT:=8080}" "${KEYCLOAK_MANAGEMENT_PORT:=9000}" "${ENVOY_ADMIN_PORT:=9901}"
: "${REALM:=demo}"
export GATEWAY_PORT SERVICE_PORT DEMO_PORT YIELD_PORT KEYCLOAK_PORT KEYCLOAK_MANAGEMENT_PORT
: "${APIKEYS_PORT:=8181}" "${APIKEYS_OPERATIONS_PORT:=8182}" "${APIKEYS_GRPC_PORT:=8183}" "${APIKEYS_MANAGEMENT_PORT:=8184}"
export ENVOY_ADMIN_PORT REALM APIKEYS_PORT APIKEYS_OPERATIONS_PORT APIKEYS_GRPC_PORT APIKEYS_MANAGEMENT_PORT

# A JWT validator takes two spellings of loopback for two issuers: every script uses this one.
KEYCLOAK_URL=http://127.0.0.1:$KEYCLOAK_PORT
export KEYCLOAK_URL

# ---- messages -----------------------------------------------------------------------------------
# All go to stderr: stdout is for other programs.

step() { printf '\n==> %s\n' "$*" >&2; }
note() { printf '    %s\n' "$*" >&2; }
warn() { printf '    warning: %s\n' "$*" >&2; }
die() {
  printf '\nerror: %s\n' "$1" >&2
  shift
  local line
  for line in "$@"; do printf '       %s\n' "$line" >&2; done
  exit 1
}

# now_ms: the time in milliseconds, without starting a process.
now_ms() {
  local now=${EPOCHREALTIME/[.,]/}
  printf '%s' "$((now / 1000))"
}

seconds_since() {
  local ms=$(($(now_ms) - $1))
  printf '%d.%d s' $((ms / 1000)) $((ms % 1000 / 100))
}

# with_progress TEXT LOG COMMAND...: runs a quiet, long command. Tells the terminal every ten seconds
# that it is alive, and shows the end of its log if it fails.
with_progress() {
  local text=$1 log=$2 started status=0 pid
  shift 2
  started=$(now_ms)
  note "$text ..."
  "$@" >"$log" 2>&1 9>&- &
  pid=$!
  # An interrupted script must not leave the work running behind it.
  # shellcheck disable=SC2064
  trap "kill $pid 2>/dev/null || true; exit 130" INT TERM
  local beats=0
  while is_running "$pid"; do
    sleep 0.5
    beats=$((beats + 1))
    if [ $((beats % 20)) -eq 0 ]; then
      note "... still at it, $(seconds_since "$started"): $(last_words "$log")"
    fi
  done
  wait "$pid" || status=$?
  trap - INT TERM
  if [ "$status" -ne 0 ]; then
    tail -n 25 "$log" >&2
    printf '\nerror: %s failed (status %s); the whole log: %s\n' "$text" "$status" "$log" >&2
    return "$status"
  fi
  note "done in $(seconds_since "$started")"
}

# last_words FILE: the last line of a log, short enough for one line of a terminal.
last_words() {
  local line
  line=$(tail -c 400 "$1" 2>/dev/null | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1) || line=
  printf '%.100s' "$line"
}

# log_end FILE: the part of a log about a failure: its marked errors, else its end.
log_end() {
  grep -E '\[(error|critical)\]| (ERROR|FATAL) ' "$1" 2>/dev/null | tail -n 8 | cut -c 1-600 >&2 ||
    tail -n 25 "$1" >&2 || true
}

# ---- tools --------------------------------------------------------------------------------------

# need TOOL REMEDY
need() {
  command -v "$1" >/dev/null 2>&1 ||
    die "the program '$1' is missing" "install it: $2"
}

# postgres_programs: the folder of the newest PostgreSQL's programs; nothing if there is none. Debian
# keeps them out of the PATH.
postgres_programs() {
  local folder found=
  for folder in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin; do
    [ ! -x "$folder/initdb" ] || found=$folder
  done
  if [ -z "$found" ] && command -v initdb >/dev/null 2>&1; then
    found=$(dirname "$(command -v initdb)")
  fi
  printf '%s' "$found"
}

# want TOOL PACKAGE...: notes a missing program; need_wanted then names all of them at once, instead of
# one failure after the other.
WANTING=()
WANTED_PACKAGES=()
want() {
  command -v "$1" >/dev/null 2>&1 && return
  WANTING+=("$1")
  shift
  WANTED_PACKAGES+=("$@")
}
need_wanted() {
  [ ${#WANTING[@]} -gt 0 ] || return 0
  die "these programs are missing: ${WANTING[*]}" \
    "on Debian or Ubuntu, as root: apt-get install ${WANTED_PACKAGES[*]}"
}

RUST_MIN=1.88
need_rust() {
  local version
  need cargo "Rust $RUST_MIN or newer, by rustup or your distribution"
  version=$(cd "$PROJECT_ROOT" && cargo --version 2>&1) ||
    die "cargo does not run: $version" "install Rust $RUST_MIN or newer, by rustup or your distribution"
  version=${version#cargo }
  is_at_least "${version%%[- ]*}" "$RUST_MIN" ||
    die "this Rust is too old: cargo $version" "install $RUST_MIN or newer: rustup update"
}

JAVA_MIN=17
need_java() {
  local said version
  need java "Java $JAVA_MIN or newer (apt-get install openjdk-17-jre-headless)"
  said=$(java -version 2>&1) || die "java does not run: $(head -n 1 <<<"$said")" \
    "install Java $JAVA_MIN or newer (apt-get install openjdk-17-jre-headless)"
  version=$(sed -n 's/.*version "\([0-9][0-9.]*\).*/\1/p' <<<"$said" | head -n 1)
  # Accept a Java that tells its version in another way.
  [ -z "$version" ] || is_at_least "$version" "$JAVA_MIN" ||
    die "this Java is too old: $version" \
      "install Java $JAVA_MIN or newer (apt-get install openjdk-17-jre-headless), first in PATH or as JAVA_HOME"
}

# is_at_least VERSION LEAST
is_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# ---- room ---------------------------------------------------------------------------------------

# free_mb FOLDER: the free space of its disk, measured at the nearest folder that exists; nothing if
# unknown.
free_mb() {
  local folder=$1
  until [ -e "$folder" ] || [ "$folder" = / ]; do folder=$(dirname "$folder"); done
  df -Pm "$folder" 2>/dev/null | awk 'NR == 2 { print $4 }' || true
}

# need_room MB FOLDER REMEDY
need_room() {
  local free
  free=$(free_mb "$2")
  [[ $free =~ ^[0-9]+$ ]] || return 0
  [ "$free" -ge "$1" ] ||
    die "the disk of $2 is full: $free MB are left, and $1 MB are needed" "free some, or move it: $3"
}

# tell_full_disks: names full disks after a failure. Programs seldom say that a disk was full.
tell_full_disks() {
  local folder free
  for folder in "$RUN_DIR" "$CACHE_DIR" "${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}" "${TMPDIR:-/tmp}"; do
    free=$(free_mb "$folder")
    if [[ $free =~ ^[0-9]+$ ]] && [ "$free" -lt 50 ]; then
      warn "the disk of $folder is full ($free MB left): that may be why"
    fi
  done
}

# cargo_failed NAME: cargo has said why, in its own words.
cargo_failed() {
  tell_full_disks
  die "$1 could not be built" "cargo says above why" \
    "where it could not download crates: is this machine online? It takes a proxy or a mirror from ~/.cargo/config.toml"
}

# export_source_commit: the commit that a build names (crates/core/src/build_info.rs): APIKEYS_COMMIT if
# set, else this folder's in git. If neither is known, the build writes "unknown".
export_source_commit() {
  local commit top
  if [ -z "${APIKEYS_COMMIT:-}" ]; then
    # An archive unpacked inside another project's repository is no part of that.
    top=$(git -C "$PROJECT_ROOT" rev-parse --show-toplevel 2>/dev/null) || top=
    [ "$top" = "$PROJECT_ROOT" ] || return 0
    commit=$(git -C "$PROJECT_ROOT" rev-parse HEAD 2>/dev/null) || return 0
    [ -z "$(git -C "$PROJECT_ROOT" status --porcelain -- src crates Cargo.toml Cargo.lock)" ] ||
      commit=$commit-modified
    APIKEYS_COMMIT=$commit
  fi
  [[ $APIKEYS_COMMIT =~ ^[0-9A-Za-z._-]{1,80}$ ]] ||
    die "APIKEYS_COMMIT is '$APIKEYS_COMMIT'" "set it to the commit's hexadecimal name, or leave it out"
  export APIKEYS_COMMIT
}

# ---- ports --------------------------------------------------------------------------------------

# free_ports COUNT: below the ports that the system gives to outgoing connections. All in one call, so
# that they differ.
free_ports() {
  need python3 "apt-get install python3"
  python3 - "$1" <<'PYTHON'
import random, socket, sys
found = []
while len(found) < int(sys.argv[1]):
    probe = socket.socket()
    try:
        probe.bind(("127.0.0.1", random.randrange(20000, 32000)))
    except OSError:
        continue
    found.append(probe)
print(*(probe.getsockname()[1] for probe in found))
PYTHON
}

port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# port_holder PORT: the program that listens there, as far as this user may see.
port_holder() {
  local who=
  if command -v ss >/dev/null 2>&1; then
    who=$(ss -ltnpH "sport = :$1" 2>/dev/null |
      sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1, pid \2/p' | head -n 1)
  elif command -v lsof >/dev/null 2>&1; then
    who=$(lsof -nP -iTCP:"$1" -sTCP:LISTEN 2>/dev/null | awk 'NR == 2 { print $1 ", pid " $2 }')
  fi
  printf '%s' "${who:-a process that this user cannot see}"
}

# check_ports VARIABLE...: each names a free port, and no two name the same.
check_ports() {
  local name port other
  local -A taken=()
  for name in "$@"; do
    port=${!name}
    if ! [[ $port =~ ^[0-9]{1,5}$ ]] || [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then
      die "$name is '$port', which is no port" "set $name to a number from 1 to 65535"
    fi
    other=${taken[$port]:-}
    if [ -n "$other" ]; then
      die "$other and $name are both $port" "give one of them another port, e.g. $name=$((port + 100))"
    fi
    taken[$port]=$name
  done
  for name in "$@"; do
    port=${!name}
    if port_is_open "$port"; then
      die "port $port ($name) is in use by $(port_holder "$port")" \
        "end that process, or choose another port: $name=<port> make run"
    fi
  done
}

# ---- processes ----------------------------------------------------------------------------------

# is_running PID: alive, and not a zombie that nobody reaps (PID 1 of many containers does not).
is_running() {
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  stat=${stat##*) }
  [ "${stat%% *}" != Z ]
}

# birth PID: the start time of a process in clock ticks. Pid and start time name one process for good.
birth() {
  local stat
  { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
  stat=${stat##*) }
  # shellcheck disable=SC2086 # the fields must be split
  set -- $stat
  printf '%s' "${20}"
}

# daemon_pid NAME: the pid of the process that this run folder started under that name, if it lives.
daemon_pid() {
  local pid
  [ -f "$RUN_DIR/$1.pid" ] && [ -f "$RUN_DIR/$1.birth" ] || return 1
  pid=$(<"$RUN_DIR/$1.pid")
  is_running "$pid" && [ "$(birth "$pid")" = "$(<"$RUN_DIR/$1.birth")" ] || return 1
  printf '%s' "$pid"
}

# start_daemon NAME LOG COMMAND...: starts it in a session of its own, so that it outlives this script
# and a Ctrl-C in its terminal, and so that it can be ended together with its children.
start_daemon() {
  local name=$1 log=$2 pid
  shift 2
  if pid=$(daemon_pid "$name"); then
    die "$name is already running, pid $pid" "stop it first: make stop"
  fi
  # Descriptor 9 is run.sh's lock: a daemon that inherits it would hold it for its whole life.
  setsid "$@" >"$log" 2>&1 </dev/null 9>&- &
  pid=$!
  disown "$pid"
  printf '%s\n' "$pid" >"$RUN_DIR/$name.pid"
  birth "$pid" >"$RUN_DIR/$name.birth" || true
}

# stop_daemon NAME [SECONDS]: asks, waits, then ends the whole process group.
stop_daemon() {
  local name=$1 limit=${2:-10} pid beats=0
  if pid=$(daemon_pid "$name"); then
    kill -TERM "$pid" 2>/dev/null || true
    while is_running "$pid" && [ "$beats" -lt $((limit * 20)) ]; do
      sleep 0.05
      beats=$((beats + 1))
    done
    if is_running "$pid"; then
      warn "$name (pid $pid) did not end within $limit s; killing it"
    fi
    kill -KILL -- "-$pid" 2>/dev/null || true
  fi
  rm -f "$RUN_DIR/$name.pid" "$RUN_DIR/$name.birth"
}

# wait_for_http NAME LOG SECONDS URL: until the URL answers 200 or 204. Gives up early if the process
# has ended.
wait_for_http() {
  local name=$1 log=$2 limit=$3 url=$4 started beats=0
  started=$(now_ms)
  until curl -fs -o /dev/null --max-time 5 "$url" 2>/dev/null; do
    if ! daemon_pid "$name" >/dev/null; then
      log_end "$log"
      die "$name ended while it started" "its log: $log"
    fi
    if [ $(($(now_ms) - started)) -gt $((limit * 1000)) ]; then
      log_end "$log"
      die "$name did not answer at $url within $limit s" "its log: $log"
    fi
    sleep 0.1
    beats=$((beats + 1))
    if [ $((beats % 50)) -eq 0 ]; then
      note "... waiting for $name, $(seconds_since "$started") of at most $limit s"
    fi
  done
}

# wait_for_port NAME LOG PORT: waits up to 30 s until the port is open. Gives up early if the process has ended.
wait_for_port() {
  local name=$1 log=$2 port=$3 beats=0
  until port_is_open "$port"; do
    if ! daemon_pid "$name" >/dev/null; then
      log_end "$log"
      die "$name ended while it started" "its log: $log"
    fi
    beats=$((beats + 1))
    [ "$beats" -lt 300 ] || die "$name does not listen on port $port" "its log: $log"
    sleep 0.1
  done
}
