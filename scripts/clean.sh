#!/usr/bin/env bash
# `make clean`: removes what was built and the run folder, but never under a running stack, whose
# files these are. The per-user cache stays: what is in it was downloaded.
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
# RUN_DIR may be any folder; only one that looks like ours is removed whole.
if [ -e "$RUN_DIR/lock" ]; then
  rm -rf "$RUN_DIR"
fi
note "the cache of downloads stays: $CACHE_DIR"
