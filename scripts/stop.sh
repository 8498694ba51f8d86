#!/usr/bin/env bash
# `make stop`: ends all processes of this run folder, and no others: it knows each by its pid and its
# start time. Gateways first, so that none calls a server that is gone.
#
# usage: stop.sh   (RUN_DIR as in run.sh)
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

names=()
for file in "$RUN_DIR"/*.birth; do
  [ -e "$file" ] || continue
  name=${file##*/}
  name=${name%.birth}
  [ "$name" = keycloak ] || names+=("$name")
done
[ ! -e "$RUN_DIR/keycloak.birth" ] || names+=(keycloak)

for name in ${names[@]+"${names[@]}"}; do
  if pid=$(daemon_pid "$name"); then
    note "stopping $name (pid $pid)"
  fi
  stop_daemon "$name" 15
done
[ ${#names[@]} -gt 0 ] || note "nothing is running in $RUN_DIR"
rm -f "$RUN_DIR/demo.env"
