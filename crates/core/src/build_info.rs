//! Which build this is: its version, and the commit of its source.
//!
//! The commit comes from the build's environment (`APIKEYS_COMMIT`, which the scripts set) and
//! not from the tree. So the same source and the same name give the same bytes, also in a
//! folder without git.

use std::fmt;

/// The version of the crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that was built, in hexadecimal, with `-modified` behind it if the tree differed
/// from that commit; `unknown` if the variable was not set.
pub const COMMIT: &str = match option_env!("APIKEYS_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => "unknown",
};

/// The build in one line: `0.1.0 (commit 0123abc…)`.
#[derive(Debug, Clone, Copy)]
pub struct BuildInfo;

impl fmt::Display for BuildInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION} (commit {COMMIT})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_tells_its_version_and_its_commit() {
        assert_eq!(
            BuildInfo.to_string(),
            format!("{VERSION} (commit {COMMIT})")
        );
        assert!(!COMMIT.is_empty());
    }
}
