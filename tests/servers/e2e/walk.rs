//! A walk through a page in one shell, while the gateway changes between its steps.
//!
//! [`crate::page::run`] runs a whole page as one script. Here the world must change between
//! steps: so one shell stays, reads each step, and ends it before the next.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::page::{self, Step};
use crate::secrets::redact;

/// No walk takes longer: this ends a step that waits in vain.
const SECONDS_MAX: &str = "300";
const MARK: &str = "@@ step over @@";

/// A shell that keeps its functions and variables from step to step.
pub(crate) struct Shell {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    folder: PathBuf,
    steps: usize,
}

impl Shell {
    /// Starts one in a folder, with the project's tool in its path.
    pub(crate) fn start(folder: &Path, variables: &[(&str, String)]) -> Self {
        let tool = crate::tool::path();
        let tool = tool.parent().expect("a folder").display();
        let path = std::env::var("PATH").expect("a path");
        let faults = fs::File::create(folder.join("faults.txt")).expect("a file");
        let mut child = Command::new("timeout")
            .args([SECONDS_MAX, "bash"])
            .current_dir(folder)
            .env("PATH", format!("{tool}:{path}"))
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(faults)
            .spawn()
            .expect("timeout, bash (apt-get install coreutils bash)");
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut shell = Self {
            child,
            input,
            output,
            folder: folder.to_owned(),
            steps: 0,
        };
        shell.tell("set -euo pipefail");
        shell
    }

    /// Sets a variable.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.tell(&format!("export {name}='{value}'"));
    }

    /// Runs a step, and compares its output with the page.
    #[track_caller]
    pub(crate) fn run(&mut self, step: &Step) {
        self.steps += 1;
        let file = format!("step-{}.sh", self.steps);
        let script = format!("{}\nprintf '\\n{MARK}\\n'\n", step.command);
        fs::write(self.folder.join(&file), script).expect("a script");
        // The step's own commands must not read the shell's next lines.
        self.tell(&format!("source ./{file} </dev/null"));
        let mut printed = String::new();
        loop {
            let before = printed.len();
            let read = self.output.read_line(&mut printed).unwrap_or(0);
            if read == 0 {
                let faults = fs::read_to_string(self.folder.join("faults.txt"));
                panic!(
                    "{}\nended the walk: {}\n{}",
                    step.command,
                    redact(&printed),
                    redact(&faults.unwrap_or_default())
                );
            }
            if printed[before..].trim_end() == MARK {
                printed.truncate(before);
                break;
            }
        }
        page::check(step, &printed, crate::secrets::redact);
    }

    fn tell(&mut self, line: &str) {
        // If the shell is gone, its missing output shows it.
        let _ = writeln!(self.input, "{line}");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "exit");
        let _ = self.child.wait();
    }
}

/// The content of the file, for a step that writes one.
pub(crate) fn file_of(step: &Step) -> Option<&str> {
    let (head, rest) = step.command.split_once('\n')?;
    let quoted = format!("<<'{}'", page::END_OF_FILE);
    (head.starts_with("cat >") && head.ends_with(&quoted))
        .then(|| rest.trim_end_matches(page::END_OF_FILE))
}
