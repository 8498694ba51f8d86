#!/usr/bin/env bash
# Checks deploy/observe/: rules and alerts with promtool, Kong's text with Prometheus' own parser, and a
# real Prometheus that reads metrics in the form of both hosts.
#
# usage: observe.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$PROJECT_ROOT"
PROMETHEUS=$(scripts/prometheus.sh fetch)
export PROMETHEUS
"$PROMETHEUS/promtool" check config --lint=none deploy/observe/prometheus.yml
"$PROMETHEUS/promtool" check rules deploy/observe/rules.yml
"$PROMETHEUS/promtool" test rules deploy/observe/rules.test.yml
# Status 3 is advice on names and missing help, which are Kong's; 1 is a text that Prometheus cannot read.
said=$("$PROMETHEUS/promtool" check metrics <tests/observe/kong.prom 2>&1) || [ $? = 3 ] ||
  die "Prometheus does not read what Kong shows: $said"
python3 tests/observe/test_scrape.py
