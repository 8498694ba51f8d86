//! The host's shared data as the core's [`SharedStore`].

use proxy_wasm::hostcalls;

use super::gateway::Gateway;
use apikeys_core::store::slots::SharedStore;

/// Shared data of the host that this filter runs in.
#[derive(Debug)]
pub(super) struct HostStore;

impl SharedStore for HostStore {
    fn get(&mut self, name: &str) -> Option<(Vec<u8>, Option<u32>)> {
        match hostcalls::get_shared_data(name) {
            Ok((Some(value), version)) => Some((value, version)),
            _ => None,
        }
    }

    fn set(&mut self, name: &str, value: &[u8], version: Option<u32>) -> bool {
        let version = match version {
            Some(version) => Gateway::here().make_way(name, value.len(), version),
            None => None,
        };
        // A lost write is a miss later: another worker wrote first, or the host
        // takes none.
        hostcalls::set_shared_data(name, Some(value), version).is_ok()
    }
}
