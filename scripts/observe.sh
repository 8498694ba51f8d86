#!/usr/bin/env bash
# Holds observe/ to what it promises: rules and alerts by promtool, and a real Prometheus that reads
# metrics as both hosts show them.
#
# usage: observe.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$PROJECT_ROOT"
PROMETHEUS=$(scripts/prometheus.sh fetch)
export PROMETHEUS
"$PROMETHEUS/promtool" check config --lint=none observe/prometheus.yml
"$PROMETHEUS/promtool" check rules observe/rules.yml
"$PROMETHEUS/promtool" test rules observe/rules.test.yml
python3 tests/observe/test_scrape.py
