//! Wrong usage that clap cannot detect, or must not repeat.

/// A command line that parses and is still wrong. It exits with the status of one that does
/// not parse.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUsage(pub(crate) String);

/// The exit status, the same as clap's.
pub(crate) const EXIT_STATUS: u8 = 2;
