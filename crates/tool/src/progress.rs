//! Shows the progress of a long run, only on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar with this many steps on standard error. It draws nothing unless that is a terminal.
pub(crate) fn bar(what: &'static str, steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    // The template is valid; if it were not, the library would use its own.
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left") {
        bar.set_style(style);
    }
    bar.with_message(what)
}
