//! The tool, from the suite's own build.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The program `apikeys`, built if it is missing.
pub fn path() -> &'static Path {
    static TOOL: LazyLock<PathBuf> = LazyLock::new(|| {
        let suite = std::env::current_exe().expect("the suite's own path");
        // The suite lies in a subfolder of the profile's folder.
        let profile = suite.ancestors().nth(2).expect("target/debug");
        let mut build = Command::new("cargo");
        // Cargo sets these for this package's tests; a build script would take them for the
        // tool's.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
                build.env_remove(name);
            }
        }
        let built = build
            .args([
                "build",
                "--quiet",
                "--locked",
                "--package",
                "apikeys",
                "--target-dir",
            ])
            .arg(profile.parent().expect("target"))
            .current_dir(test_kit::repository::root())
            .status();
        assert!(built.expect("cargo").success(), "the tool was not built");
        profile.join("apikeys")
    });
    &TOOL
}
