//! The commands of a page of documentation, run in the order in which they stand.
//!
//! A block of `sh` is run as a reader's shell would run it, in one shell for the whole
//! page. A block of `text` or `json` directly after it is its expected output, with `…`
//! for parts that differ from run to run. A block of `yaml` that begins with a comment
//! of a file's name alone is that file.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::pattern::matches;

/// The line that ends a file shown by a page.
pub const END_OF_FILE: &str = "END OF FILE";

/// Takes the secrets out of a failure's message.
pub type Redact = fn(&str) -> String;

/// A command, and its expected output.
pub struct Step {
    pub command: String,
    pub expected: Option<String>,
}

/// The steps of a page.
pub fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = page.lines();
    let mut follows = false;
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            follows = false;
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let block = block.join("\n");
        match language {
            "sh" => steps.push(Step {
                command: block,
                expected: None,
            }),
            "yaml" => {
                let name = block
                    .lines()
                    .next()
                    .and_then(|line| line.strip_prefix("# "));
                if let Some(name) =
                    name.filter(|name| name.ends_with(".yaml") || name.ends_with(".yml"))
                {
                    steps.push(Step {
                        command: format!("cat >{name} <<'{END_OF_FILE}'\n{block}\n{END_OF_FILE}"),
                        expected: None,
                    });
                }
            }
            "text" | "json" if follows => {
                steps.last_mut().expect("a command").expected = Some(block);
            }
            _ => {}
        }
        follows = language == "sh";
    }
    steps
}

/// Runs the steps in a folder by a shell, and compares each output with the expected
/// one.
#[track_caller]
pub fn run(steps: &[Step], folder: &Path, mut shell: Command, redact: Redact) {
    const MARK: &str = "@@ step over @@";
    let mut script = String::from("set -euo pipefail\n");
    for step in steps {
        script.push_str(&format!("{}\nprintf '\\n{MARK}\\n'\n", step.command));
    }
    let file = folder.join("page.sh");
    fs::write(&file, script).expect("a script");
    let output = shell.arg(&file).current_dir(folder).output().expect("bash");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let faults = String::from_utf8_lossy(&output.stderr);
    let printed: Vec<&str> = said.split(&format!("\n{MARK}\n")).collect();
    for (at, step) in steps.iter().enumerate() {
        let shown = redact(
            printed
                .get(at)
                .unwrap_or(&"(nothing: an earlier step ended it)"),
        );
        assert!(
            at + 1 < printed.len(),
            "{}\nended the script: {shown}\n{}",
            step.command,
            redact(&faults)
        );
        check(step, printed[at], redact);
    }
    assert!(output.status.success(), "{}", redact(&faults));
}

/// Compares a step's output with the expected one.
#[track_caller]
pub fn check(step: &Step, printed: &str, redact: Redact) {
    if let Some(expected) = &step.expected {
        assert!(
            matches(expected.trim(), printed.trim()),
            "{}\nprinted:\n{}\ninstead of:\n{expected}",
            step.command,
            redact(printed)
        );
    }
}
