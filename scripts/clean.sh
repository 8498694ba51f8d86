#!/usr/bin/env bash
# `make clean`: removes builds and the run folder, but never under a running stack, which uses these
# files. The per-user cache of downloads stays.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

for file in "$RUN_DIR"/*.birth; do
  [ -e "$file" ] || continue
  name=${file##*/}
  if daemon_pid "${name%.birth}" >/dev/null; then
    die "${name%.birth} of $RUN_DIR is still running" "end it first: make stop"
  fi
done
cd "$PROJECT_ROOT"
cargo clean
# RUN_DIR may be any folder; remove it whole only if it looks like ours.
if [ -e "$RUN_DIR/lock" ]; then
  rm -rf "$RUN_DIR"
fi
note "the cache of downloads stays: $CACHE_DIR"
