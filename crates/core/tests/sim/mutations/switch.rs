//! The switch of the mutations: in the copy that `scripts/sim.sh proofs` makes, and in no other
//! build.

use std::cell::Cell;

thread_local! {
    static ON: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Breaks the core by the mutation of this name, or by none, for this thread from here on.
pub fn turn_on(name: Option<&'static str>) {
    ON.set(name);
}

/// The mutation that is on.
pub fn on() -> Option<&'static str> {
    ON.get()
}

/// Whether the mutation of this name is on.
pub(crate) fn is(name: &str) -> bool {
    ON.get() == Some(name)
}
