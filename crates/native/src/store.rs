//! The memory that the exchanges of this process share. It replaces a gateway's shared data.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use apikeys_core::store::slots::SharedStore;

/// A value and its version.
type Value = (Vec<u8>, u32);

/// Named values. The core uses a fixed number of names, so the memory is bounded.
#[derive(Debug, Default)]
pub struct Memory(Mutex<HashMap<String, Value>>);

impl Memory {
    fn values(&self) -> MutexGuard<'_, HashMap<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Access to the memory for one step of a machine.
pub(crate) struct View<'a>(pub(crate) &'a Memory);

impl SharedStore for View<'_> {
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
        let values = self.0.values();
        let (value, version) = values.get(name)?;
        Some((value.clone(), Some(*version)))
    }

    fn set(&mut self, name: &str, value: &[u8], version: Option<u32>) -> bool {
        let mut values = self.0.values();
        let there = values.get(name).map(|(_, version)| *version);
        if there != version {
            return false;
        }
        let next = version.unwrap_or_default().wrapping_add(1);
        values.insert(name.to_owned(), (value.to_vec(), next));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_replaced_by_the_writer_who_read_it_last_and_no_other() {
        let memory = Memory::default();
        let mut view = View(&memory);
        assert!(view.set("a", b"1", None));
        assert!(!view.set("a", b"2", None));
        let (_, first) = view.get("a").unwrap();
        assert!(view.set("a", b"2", first));
        assert!(!view.set("a", b"3", first));
        assert_eq!(view.get("a").unwrap().0, b"2");
        assert!(!view.set("b", b"1", first));
    }
}
