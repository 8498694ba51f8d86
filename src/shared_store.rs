//! The host's shared data as the core's [`SharedStore`].

use proxy_wasm::hostcalls;

use super::gateway::Gateway;
use apikeys_core::store::slots::SharedStore;

/// Shared data of the host that this filter runs in.
#[derive(Debug, Default)]
pub(super) struct HostStore {
    /// The latest entry that was read: its name, version and length.
    read: Option<(String, u32, usize)>,
}

impl HostStore {
    /// Whether the value is no longer than the entry of this version. A write over any other version
    /// fails.
    fn has_room(&self, name: &str, value: &[u8], version: u32) -> bool {
        let read = self.read.as_ref();
        read.is_some_and(|(known, of, bytes)| {
            known == name && *of == version && value.len() <= *bytes
        })
    }
}

impl SharedStore for HostStore {
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
        match hostcalls::get_shared_data(name) {
            Ok((Some(value), version)) => {
                self.read = version.map(|version| (name.to_owned(), version, value.len()));
                Some((value, version))
            }
            _ => None,
        }
    }

    fn set(&mut self, name: &str, value: &[u8], version: Option<u32>) -> bool {
        let version = match version {
            Some(version) if !self.has_room(name, value, version) => {
                Gateway::here().make_way(name, value.len(), version)
            }
            version => version,
        };
        // A lost write is a miss later: another worker wrote first, or the host
        // takes none.
        hostcalls::set_shared_data(name, Some(value), version).is_ok()
    }
}
