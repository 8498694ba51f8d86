#!/usr/bin/env bash
# The simulation of crates/core/tests/sim/: the core under faults of every kind, one run for each seed.
#
# usage: sim.sh [range|writers|proofs]
#   range    the seeds FROM (0) and SEEDS (2000) on; one seed alone prints its trace, and
#            SIM_FAULTS=torn_read=0.5,outage=0 sets the probability of faults by name
#   writers  the simulated writers of an owner, all seeds of each kind
#   proofs   breaks a copy of the core by each mutation of crates/core/tests/sim/mutations/list.rs, and
#            expects the checker of its invariant to see each one
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"
need_rust

# The core, and all files that cargo needs to build its simulation.
PACKAGE=apikeys-core
CORE=crates/core
SOURCES=(Cargo.toml Cargo.lock src crates tests)

# proofs: builds the copy into the same folder, so that dependencies are built once. Its own profile
# makes the runs faster.
proofs() {
  local target=${CARGO_TARGET_DIR:-target}
  [[ $target = /* ]] || target=$PROJECT_ROOT/$target
  local copy=$target/mutated core=$target/mutated/$CORE
  rm -rf "$copy"
  mkdir -p "$copy"
  cp -a "${SOURCES[@]}" "$copy"
  # Writes the files with their mutations. The steps below add the switch, and run the proofs.
  SIM_MUTATED=$core cargo test --locked --package "$PACKAGE" --test sim mutations::
  cp "$core/tests/sim/mutations/switch.rs" "$core/src/mutation.rs"
  echo 'pub mod mutation;' >>"$core/src/lib.rs"
  sed -i '1i #![allow(warnings)]' "$core/src/lib.rs"
  echo 'mod proofs;' >>"$core/tests/sim/main.rs"
  cd "$core"
  CARGO_TARGET_DIR=$target cargo test --locked --test sim \
    --config "profile.dev.package.$PACKAGE.opt-level=1" proofs:: -- --nocapture
}

case ${1:-range} in
  range)
    SIM_FROM=${FROM:-} SIM_SEEDS=${SEEDS:-2000} cargo test --locked --package "$PACKAGE" --test sim -- \
      --nocapture no_seed_of_the_range
    ;;
  writers)
    WRITERS_SEEDS=all cargo test --locked --package "$PACKAGE" --lib manage::change::tests::sim
    ;;
  proofs) proofs ;;
  *) die "there is no '$1'" "usage: sim.sh [range|writers|proofs]" ;;
esac
