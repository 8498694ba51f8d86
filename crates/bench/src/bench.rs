//! The state that all groups share: the stack, its administrator, the cores, and a service
//! that answers at once.

use std::cell::Cell;
use std::path::Path;

use serde_json::{Value, json};

use crate::cores::Cores;
use crate::hit_rate::Simulation;
use crate::keycloak::Admin;
use crate::lull::Lull;
use crate::secrets;
use crate::service::Service;
use crate::stack::{Stack, free_ports};

/// A running stack, and the tools to measure it.
pub(crate) struct Bench {
    pub(crate) stack: &'static Stack,
    pub(crate) admin: Admin,
    pub(crate) cores: Cores,
    /// Holds work back while a part is timed.
    pub(crate) lull: Lull,
    /// Begun if its group is chosen.
    pub(crate) simulation: Cell<Option<Simulation>>,
    /// A key of the demo.
    pub(crate) key: String,
    /// The port of the service behind the gateways.
    pub(crate) service_port: u16,
    service: Service,
}

impl Bench {
    /// Starts the stack, or takes the stack of the run folder in `E2E_RUN_DIR`, and moves it
    /// from the gateway's core.
    pub(crate) fn start() -> Self {
        let stack = match std::env::var("E2E_RUN_DIR") {
            Ok(run_dir) => Stack::adopt(&run_dir),
            Err(_) => Stack::start(),
        };
        let stack: &'static Stack = Box::leak(Box::new(stack));
        let demo = stack.demo_env();
        for key in ["API_KEY", "SERVICE_API_KEY", "EXPIRED_API_KEY"] {
            secrets::register(&demo[key]);
        }
        let admin = Admin::new(
            &demo["KEYCLOAK_URL"],
            &demo["REALM"],
            &demo["KEYCLOAK_ADMIN_USER"],
            &demo["KEYCLOAK_ADMIN_PASSWORD"],
        );
        let cores = Cores::new();
        cores.give_rest(&std::process::id().to_string());
        for part in ["keycloak", "envoy", "orders"] {
            cores.give_rest(&stack.pid(part));
        }
        // Of scripts/with-postgres.sh; a `make run` that is up has none.
        if let Ok(folder) = std::env::var("POSTGRES_DIR") {
            let pid = std::fs::read_to_string(Path::new(&folder).join("postgres.pid"));
            cores.give_rest(pid.expect("PostgreSQL's process").trim());
        }
        let service_port = free_ports(1)[0];
        let service = Service::start(&stack.run_dir, service_port);
        cores.give_rest(&service.pid());
        Self {
            stack,
            admin,
            cores,
            lull: Lull::default(),
            simulation: Cell::new(None),
            key: demo["API_KEY"].clone(),
            service_port,
            service,
        }
    }

    /// The software and the machine of this run.
    pub(crate) fn run(&self) -> Value {
        let text = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program).args(arguments).output();
            let output = output.ok().filter(|output| output.status.success());
            output.map_or_else(String::new, |output| {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            })
        };
        json!({
            "date": text("date", &["-u", "+%Y-%m-%d"]),
            "commit": text("git", &["rev-parse", "--short", "HEAD"]),
            "changed": !text("git", &["status", "--porcelain", "src", "crates", "Cargo.toml"]).is_empty(),
            "cores": self.cores.count(),
        })
    }

    /// Stops all of it.
    pub(crate) fn stop(self) {
        drop(self.service);
        self.stack.stop(false);
    }
}
