//! Wrong usage that the parser of the command line cannot tell, or must not repeat.

/// A command line that says what it may not; told with the exit status of one that
/// cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongUsage(pub(crate) String);

/// The exit status, which is clap's own.
pub(crate) const EXIT_STATUS: u8 = 2;
