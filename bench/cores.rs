//! Which core runs what: a gateway's process has the first to itself, so that it is the
//! gateway that is measured and not who else was running. On a machine of one core all
//! share it, and the figures say so.

use std::process::Command;

/// The core that is the gateway's.
const GATEWAY: &str = "0";

/// How the cores are shared out.
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

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Moves a process to the gateway's core.
    pub(crate) fn give_gateway(&self, pid: &str) {
        self.pin(GATEWAY, pid);
    }

    /// Moves a process, and whatever it starts from now on, to the other cores.
    pub(crate) fn give_rest(&self, pid: &str) {
        self.pin(&format!("1-{}", self.count.saturating_sub(1)), pid);
    }

    /// Lets a process, and whatever it starts from now on, have all cores: while no gateway
    /// is measured.
    pub(crate) fn give_all(&self, pid: &str) {
        self.pin(&format!("0-{}", self.count.saturating_sub(1)), pid);
    }

    fn pin(&self, cores: &str, pid: &str) {
        if self.count == 1 {
            return;
        }
        let set = Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", cores, pid])
            .output()
            .expect("taskset, of util-linux");
        let said = String::from_utf8_lossy(&set.stderr);
        assert!(set.status.success(), "taskset {cores} {pid}: {said}");
    }
}
