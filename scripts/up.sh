#!/usr/bin/env bash
# `make up`: Kong with the filter, Keycloak on PostgreSQL and the demo service, in containers. A script,
# so that it can name a missing part more plainly than Docker does.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

need docker "Docker Engine with the compose plugin; without it: make run"
docker compose version >/dev/null 2>&1 ||
  die "docker has no 'compose'" "install the compose plugin (apt-get install docker-compose-plugin); without it: make run"
docker info >/dev/null 2>&1 ||
  die "no Docker engine answers" "start it, or see whether this user may talk to it (docker info); without it: make run"
cd "$PROJECT_ROOT"
docker compose up --build --wait
