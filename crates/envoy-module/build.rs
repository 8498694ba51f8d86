//! Keeps the module in Envoy's memory once it is loaded: its threads may outlive its last configuration
//! for a moment.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
