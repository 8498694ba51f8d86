//! How far a long run is, on a terminal and nowhere else.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar of so many steps on standard error. It draws nothing where that is no terminal.
pub(crate) fn bar(what: &'static str, steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    // The template is right: what it falls back to is the library's own.
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}, {eta} left") {
        bar.set_style(style);
    }
    bar.with_message(what)
}
