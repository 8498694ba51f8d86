#!/usr/bin/env bash
# Succeeds when GET PATH on a port of this container answers 200.
#
# For health checks in images that have bash but neither curl nor wget: Kong's,
# Keycloak's and Envoy's.
#
#   ready.sh 9000 /health/ready
set -euo pipefail

port=$1
path=$2

exec 3<>"/dev/tcp/127.0.0.1/$port"
printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$path" >&3
IFS= read -r -t 5 status <&3
[[ $status == 'HTTP/1.1 200'* ]]
