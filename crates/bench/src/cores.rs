//! Cores and their processes. A gateway's worker has the first core to itself, so that the
//! bench measures the gateway and not its neighbours. Even Envoy's main thread runs
//! elsewhere: it adds up histograms for some milliseconds at a time. On a machine of one core
//! all share it, and the figures say so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The gateway's core.
const GATEWAY: &str = "0";

/// The distribution of the cores.
#[derive(Clone, Copy)]
pub(crate) struct Cores {
    count: usize,
}

impl Cores {
    pub(crate) fn new() -> Self {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        if count == 1 {
            println!("One core for all: the gateway is measured with its load beside it.");
        }
        Self { count }
    }

    /// The number of cores.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Moves an Envoy's workers to the gateway's core, and its other threads to the other
    /// cores.
    pub(crate) fn give_gateway(&self, pid: &str) {
        self.give_rest(pid);
        self.give_threads_gateways_core(&workers(pid));
    }

    /// Moves the threads of an Envoy's module to the gateway's core as well.
    pub(crate) fn give_module_gateways_core(&self, pid: &str) {
        self.give_threads_gateways_core(&module_threads(pid));
    }

    fn give_threads_gateways_core(&self, threads: &[PathBuf]) {
        for thread in threads {
            self.set(&["--cpu-list", "--pid", GATEWAY, &number_of(thread)]);
        }
    }

    /// Moves a process with all its threads to the gateway's core.
    pub(crate) fn give_gateways_core(&self, pid: &str) {
        self.pin(GATEWAY, pid);
    }

    /// Gives a process with all its threads every core.
    pub(crate) fn give_all(&self, pid: &str) {
        self.pin(&format!("0-{}", self.count.saturating_sub(1)), pid);
    }

    /// Moves a process to the other cores, with all its children, present and future: a
    /// server may be the child of a script, or have a process for each connection.
    pub(crate) fn give_rest(&self, pid: &str) {
        self.pin(&format!("1-{}", self.count.saturating_sub(1)), pid);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            // The process may have ended meanwhile.
            if Path::new(&format!("/proc/{child}")).exists() {
                self.give_rest(child);
            }
        }
    }

    /// Gives a thread the idle time of all cores.
    pub(crate) fn give_what_is_left(&self, thread: &str) {
        let all = format!("0-{}", self.count.saturating_sub(1));
        self.set(&["--cpu-list", "--pid", &all, thread]);
        run("renice", &["-n", "19", "-p", thread]);
    }

    fn pin(&self, cores: &str, pid: &str) {
        self.set(&["--all-tasks", "--cpu-list", "--pid", cores, pid]);
    }

    fn set(&self, arguments: &[&str]) {
        if self.count > 1 {
            run("taskset", arguments);
        }
    }
}

/// Runs a program of util-linux.
fn run(program: &str, arguments: &[&str]) {
    let ran = Command::new(program).args(arguments).output();
    let ran = ran.unwrap_or_else(|error| panic!("{program}, of util-linux: {error}"));
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program} {arguments:?}: {said}");
}

/// The folders of an Envoy's worker threads in /proc (proc(5)).
pub(crate) fn workers(pid: &str) -> Vec<PathBuf> {
    let workers = threads(pid, "wrk:worker_");
    assert!(!workers.is_empty(), "Envoy {pid} has no workers");
    workers
}

/// Those of the module's own threads. A thread that one of them starts later has its core and its rank.
fn module_threads(pid: &str) -> Vec<PathBuf> {
    let threads = threads(pid, "apikeys");
    assert!(!threads.is_empty(), "Envoy {pid} has no module");
    threads
}

fn number_of(thread: &Path) -> String {
    let number = thread.file_name().expect("a number");
    number.to_string_lossy().into_owned()
}

/// The folders of a process's threads whose names begin so.
fn threads(pid: &str, name: &str) -> Vec<PathBuf> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let threads = threads.flatten().map(|thread| thread.path());
    let is_named = |thread: &PathBuf| {
        let comm = fs::read_to_string(thread.join("comm"));
        comm.is_ok_and(|comm| comm.starts_with(name))
    };
    threads.filter(is_named).collect()
}
