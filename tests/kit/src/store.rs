//! A node's shared data, as a map.

use std::collections::HashMap;

use apikeys_core::store::slots::SharedStore;

#[derive(Default)]
pub struct Shared(pub HashMap<String, Vec<u8>>);

impl SharedStore for Shared {
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
        self.0.get(name).map(|value| (value.clone(), Some(1)))
    }
    fn set(&mut self, name: &str, value: &[u8], _: Option<u32>) -> bool {
        self.0.insert(name.to_owned(), value.to_vec());
        true
    }
}
