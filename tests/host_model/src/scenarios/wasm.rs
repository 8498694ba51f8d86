//! The wasm's imports from a host, and its ABI.

use crate::imports::{BOTH_HOSTS_ENV, BOTH_HOSTS_WASI};
use crate::vm::wasm;

#[test]
fn the_wasm_imports_nothing_that_one_of_the_hosts_lacks() {
    let (_, module) = wasm();
    let mut count = 0;
    for import in module.imports() {
        let known: &[&str] = match import.module() {
            "env" => &BOTH_HOSTS_ENV,
            "wasi_snapshot_preview1" => &BOTH_HOSTS_WASI,
            other => panic!("no host has a module {other}"),
        };
        let name = import.name();
        assert!(known.contains(&name), "not both hosts have {name}");
        count += 1;
    }
    assert!(count > 10);
}

#[test]
fn the_wasm_is_of_the_one_abi_that_both_hosts_know() {
    let (_, module) = wasm();
    let versions: Vec<_> = module
        .exports()
        .map(|export| export.name())
        .filter(|name| name.starts_with("proxy_abi_version_"))
        .collect();
    assert_eq!(versions, ["proxy_abi_version_0_2_1"]);
    // Kong and Envoy both start a reactor by it.
    assert!(module.get_export("_initialize").is_some());
    assert!(module.get_export("_start").is_none());
}
