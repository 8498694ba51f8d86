//! Scenarios, by theme.

mod audit;
mod checks;
mod clocks;
mod configuration;
mod entropy;
mod envoy_traps;
mod exchange;
mod expect;
mod identity;
mod injection;
mod interleaving;
mod kong_faults;
mod kong_traps;
mod management;
mod memory;
mod metrics;
mod outages;
mod rate_limit;
mod refusals;
mod revocation;
mod rig;
mod self_check;
mod shared_cache;
mod speed;
mod tracing;
mod wasm;
