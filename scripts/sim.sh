#!/usr/bin/env bash
# The simulation of crates/core/tests/sim/: the core under faults of every kind, one run for each seed.
#
# usage: sim.sh [range|proofs]
#   range    the seeds FROM (0) and SEEDS (2000) on; one seed alone prints its trace, and
#            SIM_FAULTS=torn_read=0.5,outage=0 sets the probability of faults by name
#   proofs   breaks the core on purpose, and wants each breakage seen
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"
need_rust

case ${1:-range} in
  range)
    SIM_FROM=${FROM:-} SIM_SEEDS=${SEEDS:-} cargo test --locked --package apikeys-core --test sim -- \
      --nocapture no_seed_of_the_range
    ;;
  # A panic is one of the breakages: its backtrace is of no use.
  proofs) RUST_BACKTRACE=0 cargo test --locked --features cli,sabotage --test sim proofs ;;
  *) die "there is no '$1'" "usage: sim.sh [range|proofs]" ;;
esac
