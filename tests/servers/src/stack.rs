//! The stack that `make run` starts, in a run folder and on ports of its own.
//!
//! It is stopped even if the suite dies: a keeper, a shell that reads its standard
//! input, runs `scripts/stop.sh` as soon as that input ends. The input ends when the
//! suite lets go of it, panics or is killed.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use crate::secrets;

/// Below the ports that the system gives to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The variables for the ports of `apikeys serve` in `scripts/gateway.sh`.
pub const APIKEYS_PORTS: [&str; 4] = [
    "APIKEYS_PORT",
    "APIKEYS_OPERATIONS_PORT",
    "APIKEYS_GRPC_PORT",
    "APIKEYS_MANAGEMENT_PORT",
];

/// The project's folder.
pub fn project() -> &'static str {
    test_kit::repository::root()
        .to_str()
        .expect("a path in UTF-8")
}

/// A running stack.
pub struct Stack {
    pub run_dir: PathBuf,
    /// The standard output of `scripts/run.sh`.
    pub printed: String,
    /// The variables that name its ports and its folder.
    variables: Vec<(String, String)>,
    keeper: Mutex<Option<Child>>,
}

impl Stack {
    /// Starts one, as `make run` does.
    pub fn start() -> Self {
        let run_dir = new_run_folder();
        let mut variables = vec![("RUN_DIR".to_owned(), run_dir.to_str().unwrap().to_owned())];
        let names = [
            "GATEWAY_PORT",
            "SERVICE_PORT",
            "DEMO_PORT",
            "YIELD_PORT",
            "KEYCLOAK_PORT",
            "KEYCLOAK_MANAGEMENT_PORT",
            "ENVOY_ADMIN_PORT",
        ];
        let names = names.into_iter().chain(APIKEYS_PORTS);
        let ports = free_ports(names.clone().count());
        for (name, port) in names.zip(ports) {
            variables.push((name.to_owned(), port.to_string()));
        }
        let mut stack = Self {
            run_dir,
            printed: String::new(),
            variables,
            keeper: Mutex::new(None),
        };
        stack.keeper = Mutex::new(Some(stack.start_keeper()));
        let run = stack
            .script("run.sh", &[])
            .stderr(Stdio::inherit())
            .output()
            .expect("scripts/run.sh");
        stack.printed = String::from_utf8_lossy(&run.stdout).into_owned();
        if !run.status.success() {
            drop(stack);
            panic!("scripts/run.sh failed ({}); see above", run.status);
        }
        stack
    }

    /// Takes a running one, by its run folder; its ports are in the environment.
    pub fn adopt(run_dir: &str) -> Self {
        let run_dir = fs::canonicalize(run_dir).expect("E2E_RUN_DIR: a run folder");
        Self {
            variables: vec![("RUN_DIR".to_owned(), run_dir.to_str().unwrap().to_owned())],
            run_dir,
            printed: String::new(),
            keeper: Mutex::new(None),
        }
    }

    /// The variables in demo.env.
    pub fn demo_env(&self) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.run_dir.join("demo.env")).expect("demo.env");
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// The kind of the stack's gateway: `envoy` with the Wasm filter, `envoy-module` with the module, or a
    /// gateway of `deploy/gateways` with `apikeys serve`.
    pub fn gateway(&self) -> String {
        let gateway = self.demo_env().remove("GATEWAY");
        gateway.unwrap_or_else(|| "envoy".to_owned())
    }

    /// The log of the filter or of `apikeys serve`.
    pub fn log(&self) -> PathBuf {
        self.run_dir.join(match self.gateway().as_str() {
            "envoy" | "envoy-module" => "envoy.log",
            _ => "gateway-apikeys.log",
        })
    }

    /// The process of one of its parts, or of another server started in its folder.
    pub fn pid(&self, part: &str) -> String {
        let pid = fs::read_to_string(self.run_dir.join(format!("{part}.pid")));
        pid.expect("a pid").trim().to_owned()
    }

    /// A script of the project, with this stack in its environment.
    pub fn script(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(format!("{}/scripts/{name}", project()));
        command.args(arguments);
        self.tell(&mut command);
        command
    }

    /// Sets this stack's variables in a command's environment.
    pub fn tell(&self, command: &mut Command) {
        command
            .current_dir(project())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        // The suite's own way of building (coverage, another target) is not the
        // stack's.
        command.env_remove("RUSTFLAGS");
    }

    /// Stops it, and removes its folder unless it is to be kept.
    pub fn stop(&self, keep_folder: bool) {
        let Some(mut keeper) = self.keeper.lock().unwrap().take() else {
            return;
        };
        drop(keeper.stdin.take());
        let status = keeper.wait().expect("the keeper's status");
        if !status.success() {
            let said = fs::read_to_string(self.run_dir.join("stop.out")).unwrap_or_default();
            eprintln!("scripts/stop.sh failed: {}", secrets::redact(&said));
        } else if keep_folder {
            eprintln!("Logs and configurations: {}", self.run_dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.run_dir);
        }
    }

    fn start_keeper(&self) -> Child {
        let mut keeper = Command::new("bash");
        // Into a file: a pipe to the suite would end the script once the suite is gone.
        keeper.args([
            "-c",
            r#"trap '' INT TERM HUP; cat >/dev/null; exec scripts/stop.sh >"$RUN_DIR/stop.out" 2>&1"#,
        ]);
        self.tell(&mut keeper);
        // In a group of its own: a Ctrl-C in the terminal does not reach it.
        keeper
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash")
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.stop(true);
    }
}

/// A run folder of this process, for its owner alone; folders of ended runs are
/// removed.
pub fn new_run_folder() -> PathBuf {
    let folder = test_kit::repository::scratch("e2e");
    remove_old_runs(&folder);
    let run_dir = folder.join(format!("run-{}", std::process::id()));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&run_dir).expect("a run folder");
    run_dir
}

/// Free ports.
pub fn free_ports(count: usize) -> Vec<u16> {
    let mut bytes = [0_u8; 2];
    getrandom::fill(&mut bytes).unwrap();
    let start = u16::from_le_bytes(bytes) % (PORTS.end - PORTS.start);
    let from_start = PORTS.skip(usize::from(start)).chain(PORTS);
    // Held until all are found, so that no port is found twice.
    let held: Vec<TcpListener> = from_start
        .filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
        .take(count)
        .collect();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    held.iter().map(port).collect()
}

/// Removes the folders of runs without a process, with the servers that those runs left
/// running.
fn remove_old_runs(folder: &Path) {
    for run in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = run.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("run-"));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let stop = Command::new(format!("{}/scripts/stop.sh", project()))
                .env("RUN_DIR", run.path())
                .output();
            if stop.is_ok_and(|stop| stop.status.success()) {
                let _ = fs::remove_dir_all(run.path());
            }
        }
    }
}
