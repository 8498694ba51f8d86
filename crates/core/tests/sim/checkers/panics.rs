//! Invariant 10: no panic is reachable: a run that ends with one is a violation.

use std::any::Any;

use super::Violation;

/// The violation that a panic is.
pub fn violation(panic: &(dyn Any + Send)) -> Violation {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    let what = format!("a panic: {}", text.unwrap_or("without a word"));
    Violation {
        invariant: 10,
        what,
    }
}
