//! Scenarios, by what they are about.

mod exchange;
mod expect;
mod kong_traps;
