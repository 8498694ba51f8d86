//! A gateway's log: a file, or a command that prints it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::secrets::redact;
use crate::wait;

/// The source of a log.
#[derive(Clone, Debug)]
pub enum Log {
    /// From a file.
    File(PathBuf),
    /// From the output of a shell command.
    Command(String),
}

impl Log {
    /// The whole text so far.
    pub fn text(&self) -> String {
        let bytes = match self {
            Self::File(path) => fs::read(path).unwrap_or_default(),
            Self::Command(command) => {
                let output = Command::new("bash").args(["-c", command]).output();
                let output = output.expect("the command that prints the log");
                [output.stdout, output.stderr].concat()
            }
        };
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The lines that hold all these words.
    pub fn lines(&self, words: &[&str]) -> Vec<String> {
        self.text()
            .lines()
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .map(str::to_owned)
            .collect()
    }

    /// Waits for a line that holds all these words.
    #[track_caller]
    pub fn expect(&self, words: &[&str]) -> String {
        wait::until(
            &format!("a log line with {words:?}"),
            Duration::from_secs(10),
            || {
                self.lines(words).into_iter().next().ok_or_else(|| {
                    let about_it = self.lines(&words[..1]);
                    redact(&format!("{about_it:?}"))
                })
            },
        )
    }
}

/// The worker that wrote a line: the thread of an Envoy's, the process of an nginx's.
///
/// ```text
/// [2026-11-29 12:00:00.000][4711][info][wasm] …
/// 2026/11/29 12:00:00 [warn] 4711#0: *52 [wasm] …
/// ```
pub fn worker_of(line: &str) -> Option<&str> {
    if line.starts_with('[') {
        return line.split("][").nth(1);
    }
    let word = line.split(' ').nth(3)?;
    word.strip_suffix(':')?.split_once('#').map(|(pid, _)| pid)
}
