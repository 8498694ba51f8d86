#!/usr/bin/env bash
# `make mutants`: breaks the pure core in each way that cargo-mutants knows, one at a time, and checks
# that a test notices. A test that passes with any code proves nothing. .cargo/mutants.toml lists the
# parts to mutate and the exceptions, with their reasons.
#
# Variables: FILES="crates/core/src/cache/*.rs crates/core/src/mac.rs"    these files alone
#            SHARD=7/30                           each thirtieth mutant, from the seventh on: a sample of all files
#            MUTANTS_DIR=target/mutants           folder of the results
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

SHARE_MIN=90
: "${MUTANTS_DIR:=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}/mutants}"
# Enough cases for the properties to notice a mutant.
: "${PROPTEST_CASES:=32}"
export PROPTEST_CASES
# Enough seeds of the simulated writers, which step-by-step tests cover as well.
: "${WRITERS_SEEDS:=10}"
export WRITERS_SEEDS

need_rust
need python3 "apt-get install python3"
cargo_mutants=$(scripts/cargo-tool.sh cargo-mutants)
# Cargo's default members hold no mutant: the package is named.
arguments=(--package apikeys-core --output "$MUTANTS_DIR")
read -r -a files <<<"${FILES:-}"
for file in "${files[@]}"; do arguments+=(--file "$file"); done
if [ -n "${SHARD:-}" ]; then arguments+=(--sharding round-robin --shard "$SHARD"); fi

mkdir -p "$MUTANTS_DIR"
status=0
"$cargo_mutants" mutants "${arguments[@]}" || status=$?
# 2: some were missed, 3: some timed out. The share decides about those.
case $status in
  0 | 2 | 3) ;;
  *) die "cargo-mutants failed (status $status)" "its results: $MUTANTS_DIR/mutants.out" ;;
esac

step "Summary"
python3 - "$MUTANTS_DIR/mutants.out/outcomes.json" "$SHARE_MIN" <<'PYTHON'
import collections, json, sys

outcomes = json.load(open(sys.argv[1]))["outcomes"]
files = collections.defaultdict(collections.Counter)
for outcome in outcomes:
    scenario = outcome["scenario"]
    if scenario != "Baseline":
        files[scenario["Mutant"]["file"]][outcome["summary"]] += 1

def line(name, count):
    # A mutant that does not compile says nothing; one that loops was noticed.
    caught = count["CaughtMutant"] + count["Timeout"]
    viable = caught + count["MissedMutant"]
    share = 100 * caught / viable if viable else 100
    print(f"    {name:34} {viable:4} viable {caught:4} caught ({count['Timeout']} by looping) "
          f"{count['MissedMutant']:3} missed {count['Unviable']:4} unviable {share:6.1f} %")
    return share

if not files:
    sys.exit("error: there was no mutant: FILES or SHARD leaves none")
for name in sorted(files):
    line(name, files[name])
share = line("in all", sum(files.values(), collections.Counter()))
if share < float(sys.argv[2]):
    sys.exit(f"error: {share:.1f} % of the mutants were caught, and {sys.argv[2]} % must be: "
             f"see missed.txt beside {sys.argv[1]}")
PYTHON
