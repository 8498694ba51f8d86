#!/usr/bin/env bash
# `make test` and `make test-all`: checks, the cheapest first. After a failed step all others still run,
# and the end lists them with their times.
#
# usage: test.sh [STEP|TIER]...   (default: quick; e.g. test.sh format unit)
#   quick  the steps to run before a commit: `make test`
#   rest   all other steps
#   all    both: `make test-all`
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$PROJECT_ROOT"

QUICK=(tools format clippy-native clippy-wasm scripts unit seeds build smoke)
REST=(deny postgres observe simulation reproducible sbom dist host-model kong kong-plugin cli end-to-end gateways writes soak soak-service)
SUMMARY=()
FAILED=0

TARGET_DIR=${CARGO_TARGET_DIR:-$PROJECT_ROOT/target}

# The servers that a suite starts have their own run folder and ports: a developer's running stack
# stays as it is.
run_step() {
  case $1 in
    tools) scripts/ensure-tools.sh ;;
    format) cargo fmt --check ;;
    clippy-native | clippy-wasm | scripts) scripts/lint.sh "$1" ;;
    # Licences, duplicate crates, sources. Advisories come from the network: make audit checks those.
    deny) "$(scripts/cargo-tool.sh cargo-deny)" --locked --workspace check bans licenses sources ;;
    # Unit, property, documentation and layering tests; the range of seeds is a step of its own.
    unit) cargo test --locked --workspace --exclude host-model ;;
    # Rules, alerts and dashboard, with Debian's Prometheus.
    observe) scripts/observe.sh ;;
    # A tenth of the range.
    seeds) SEEDS=200 scripts/sim.sh range ;;
    simulation) scripts/sim.sh range && scripts/sim.sh writers && scripts/sim.sh proofs ;;
    # Fetches and builds the needs of the suites below, in a step that shows their time.
    build) scripts/fetch.sh all && scripts/build-wasm.sh && scripts/build-tool.sh ;;
    # A second Keycloak, built for PostgreSQL.
    postgres) KEYCLOAK_DB=postgres scripts/fetch.sh keycloak ;;
    reproducible) scripts/reproducible.sh ;;
    sbom) scripts/sbom.sh check ;;
    # Puts a release together and checks it against its own checksums.
    dist) scripts/dist.sh ;;
    # The filter of the build step, under a model of both hosts.
    host-model) cargo test --locked --package host-model ;;
    kong) APIKEYS=$TARGET_DIR/release/apikeys tests/kong/check.sh ;;
    # The Lua plugin, in Debian's nginx with a stand-in for Kong's PDK.
    kong-plugin) APIKEYS=$TARGET_DIR/release/apikeys scripts/with-keycloak.sh tests/kong_plugin/check.sh ;;
    cli) scripts/with-keycloak.sh cargo test --locked --package suites --test cli ;;
    smoke) E2E_SMOKE=1 cargo test --locked --package suites --test e2e ;;
    end-to-end) cargo test --locked --package suites --test e2e ;;
    # For the module, and for each gateway with `apikeys serve`: the trials that these can break.
    gateways)
      local gateway
      for gateway in envoy-module nginx caddy haproxy envoy-ext-authz; do
        step "gateways: $gateway"
        E2E_SMOKE=gateway GATEWAY=$gateway cargo test --locked --package suites --test e2e || return
      done
      ;;
    writes) scripts/with-postgres.sh cargo test --locked --package suites --test writes ;;
    soak) MINUTES=3 scripts/soak.sh ;;
    # The same with `apikeys serve`: 4 to 5 minutes.
    soak-service) GATEWAY=nginx MINUTES=3 scripts/soak.sh ;;
    *) die "there is no step '$1'" "the steps are: ${QUICK[*]} ${REST[*]}" ;;
  esac
}

[ $# -gt 0 ] || set -- quick
steps=()
for name in "$@"; do
  case $name in
    quick) steps+=("${QUICK[@]}") ;;
    rest) steps+=("${REST[@]}") ;;
    all) steps+=("${QUICK[@]}" "${REST[@]}") ;;
    *) steps+=("$name") ;;
  esac
done
set -- "${steps[@]}"
began=$(now_ms)
for name in "$@"; do
  step "$name"
  step_began=$(now_ms)
  if (run_step "$name"); then
    outcome=passed
  else
    outcome=FAILED
    FAILED=$((FAILED + 1))
  fi
  note "$name: $outcome in $(seconds_since "$step_began")"
  SUMMARY+=("$(printf '%-14s %-7s %10s' "$name" "$outcome" "$(seconds_since "$step_began")")")
  # The message above is enough: each other step would fail for the same reason in its own words.
  [ "$name $outcome" != "tools FAILED" ] || die "the other steps need what is missing" "install it, and try again"
done

step "Summary, $(seconds_since "$began")"
for line in "${SUMMARY[@]}"; do note "$line"; done
[ "$FAILED" -eq 0 ] || tell_full_disks
[ "$FAILED" -eq 0 ] || die "$FAILED of $# steps failed: they are named above"
