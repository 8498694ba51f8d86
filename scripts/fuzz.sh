#!/usr/bin/env bash
# `make fuzz`: runs libFuzzer on every property of crates/core/tests/properties, one after the other,
# from the seeds in crates/core/fuzz/seeds. Coverage leads it, for as long as you like; `make test`
# runs the same properties on seeds and random bytes in seconds. The stable compiler is enough: our
# code has no unsafe, so it needs no sanitizer and looks for panics.
#
# Variables: SECONDS_EACH=60    for each target
#            TARGETS="users tokens"    these alone; all are the [[bin]]s of crates/core/fuzz/Cargo.toml
# Results stay in target/fuzz: corpus/<target> for the next run, findings/<target>.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

: "${SECONDS_EACH:=60}"
FUZZ_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}/fuzz

need_rust
need c++ "a C++ compiler, which libFuzzer is built with (apt-get install g++)"
mapfile -t targets_all < <(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' crates/core/fuzz/Cargo.toml)
read -r -a targets <<<"${TARGETS:-${targets_all[*]}}"
[[ $SECONDS_EACH =~ ^[0-9]+$ ]] || die "SECONDS_EACH is '$SECONDS_EACH', which is no number"
for target in "${targets[@]}"; do
  [ -f "crates/core/fuzz/fuzz_targets/$target.rs" ] || die "there is no target '$target'" "they are: ${targets_all[*]}"
done

cargo_fuzz=$(scripts/cargo-tool.sh cargo-fuzz)
triple=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p "$FUZZ_DIR"
with_progress "building the targets" "$FUZZ_DIR/build.log" \
  "$cargo_fuzz" fuzz build --fuzz-dir crates/core/fuzz --sanitizer none --target "$triple" --target-dir "$FUZZ_DIR/build"

summary=()
failed=0
for target in "${targets[@]}"; do
  step "$target, $SECONDS_EACH s"
  program=$FUZZ_DIR/build/$triple/release/$target
  log=$FUZZ_DIR/$target.log
  mkdir -p "$FUZZ_DIR/corpus/$target" "$FUZZ_DIR/findings/$target"
  if "$program" -max_total_time="$SECONDS_EACH" -max_len=4096 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="$FUZZ_DIR/findings/$target/" \
    "$FUZZ_DIR/corpus/$target" "crates/core/fuzz/seeds/$target" >"$log" 2>&1; then
    outcome="nothing found"
  else
    outcome="BROKEN"
    failed=$((failed + 1))
    grep -aE -A 3 'panicked at|ERROR: libFuzzer' "$log" >&2 || tail -n 25 "$log" >&2
    finding=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    note "reproduce it:   $program ${finding:-(no input was written)}"
    note "hold it:        cp ${finding:-FINDING} crates/core/fuzz/seeds/$target/, then: cargo test -p apikeys-core --test property"
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  edges=$(grep -ao 'cov: [0-9]*' "$log" | tail -n 1) || edges=
  summary+=("$(printf '%-12s %10s runs  %-10s  %s' "$target" "${runs:-?}" "$edges" "$outcome")")
  note "${summary[-1]}"
done
step "Summary"
for line in "${summary[@]}"; do note "$line"; done
[ "$failed" -eq 0 ] || die "$failed of ${#targets[@]} properties are broken: they are named above"
