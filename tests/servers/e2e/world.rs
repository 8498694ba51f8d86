//! The world of a trial: the gateway under test, its Keycloak, and the other parts of the
//! stack that are available.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::client::{Request, Response, Target};
use crate::echo;
use crate::expect::REALM;
use crate::faults::Proxy;
use crate::gateway::{Gateway, Spec};
use crate::keycloak::Admin;
use crate::log::Log;
use crate::owner::{Key, Owner, Record};
use crate::secrets;
use crate::stack::{self, Stack};
use crate::wait;

/// The variables of a `demo.env`.
const DEMO: [&str; 8] = [
    "GATEWAY_URL",
    "KEYCLOAK_URL",
    "REALM",
    "API_KEY",
    "SERVICE_API_KEY",
    "EXPIRED_API_KEY",
    "KEYCLOAK_ADMIN_USER",
    "KEYCLOAK_ADMIN_PASSWORD",
];

/// One behaviour to be shown.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) needs: Vec<Need>,
    /// The gateways that cannot run it, with the reason.
    pub(crate) not_on: Vec<(Host, &'static str)>,
    pub(crate) run: Box<dyn Fn(&'static World) + Send>,
}

impl Case {
    pub(crate) fn new(
        name: impl Into<String>,
        run: impl Fn(&'static World) + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            needs: Vec::new(),
            not_on: Vec::new(),
            run: Box::new(run),
        }
    }

    /// A limit of these gateways hides the behaviour there.
    pub(crate) fn not_on(mut self, hosts: &[Host], reason: &'static str) -> Self {
        self.not_on.extend(hosts.iter().map(|host| (*host, reason)));
        self
    }

    pub(crate) fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }
}

/// Parts that a gateway given by URL may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A second gateway with a configuration of the trial's own.
    OwnGateway,
    /// The stack's Envoy: its resources, its admin interface, the pages about it.
    OwnEnvoy,
    /// The gateway's log.
    Log,
    /// The same as a file, which pages read.
    LogFile,
    /// The address that a request comes from, as the gateway sees it.
    Addresses,
    /// A stopped Keycloak: such trials are kept together, and the next other trial starts it
    /// again.
    StoppedKeycloak,
    /// The output of `make run`.
    FirstRun,
}

/// The gateway's program: Envoy and Kong run the filter, an Envoy runs the module, the others ask `apikeys serve`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Envoy,
    EnvoyModule,
    Kong,
    Nginx,
    Caddy,
    Haproxy,
    EnvoyExtAuthz,
}

impl Host {
    /// The gateways that ask `apikeys serve`.
    pub(crate) const SERVED: [Self; 4] =
        [Self::Nginx, Self::Caddy, Self::Haproxy, Self::EnvoyExtAuthz];

    /// The hosts that verify a key in one go and keep one memory for all workers: the process is ours, or native in it.
    pub(crate) const NATIVE: [Self; 5] = [
        Self::EnvoyModule,
        Self::Nginx,
        Self::Caddy,
        Self::Haproxy,
        Self::EnvoyExtAuthz,
    ];

    pub(crate) fn is_served(self) -> bool {
        Self::SERVED.contains(&self)
    }

    /// nginx and Caddy remove only the headers in their own files, so the service refuses a copy of a key
    /// in any other header.
    pub(crate) fn removes_any_header(self) -> bool {
        !matches!(self, Self::Nginx | Self::Caddy)
    }

    /// The stack's gateway; without a stack, recognised by its answer.
    fn of(stack: Option<&Stack>, answer: &Response) -> Self {
        match stack.map(Stack::gateway).as_deref() {
            Some("envoy-module") => return Self::EnvoyModule,
            Some("nginx") => return Self::Nginx,
            Some("caddy") => return Self::Caddy,
            Some("haproxy") => return Self::Haproxy,
            Some("envoy-ext-authz") => return Self::EnvoyExtAuthz,
            _ => {}
        }
        let is_kongs = |(name, value): &(String, String)| {
            name.starts_with("x-kong-") || name == "server" && value.starts_with("kong")
        };
        match answer.headers.iter().any(is_kongs) {
            true => Self::Kong,
            false => Self::Envoy,
        }
    }
}

/// A gateway with a proxy before Keycloak, through which a trial can disturb its calls.
pub(crate) struct Faulty {
    pub(crate) gateway: Gateway<'static>,
    pub(crate) proxy: Proxy,
}

/// The world.
pub(crate) struct World {
    pub(crate) gateway: Target,
    pub(crate) log: Option<Log>,
    pub(crate) keycloak: Admin,
    pub(crate) api_key: String,
    pub(crate) service_api_key: String,
    pub(crate) expired_api_key: String,
    pub(crate) stack: Option<Stack>,
    pub(crate) host: Host,
    /// The command that starts a second gateway.
    hook: Option<String>,
    /// A folder for this run, readable by nobody else.
    folder: PathBuf,
    sees_addresses: bool,
    keycloak_commands: Option<(String, String)>,
    keycloak_is_stopped: AtomicBool,
    faulty: OnceLock<Faulty>,
    echo: OnceLock<SocketAddr>,
}

impl World {
    /// Takes the stack that the environment names, or starts one.
    pub(crate) fn new() -> Self {
        let stack = if let Some(run_dir) = variable("E2E_RUN_DIR") {
            Some(Stack::adopt(&run_dir))
        } else if variable("GATEWAY_URL").is_some() {
            None
        } else {
            Some(Stack::start())
        };
        let demo = stack.as_ref().map(Stack::demo_env);
        let get = |name: &str| {
            let value = match &demo {
                Some(demo) => demo.get(name).cloned(),
                None => variable(name),
            };
            value
                .unwrap_or_else(|| panic!("{name} is not set: the suite needs it with GATEWAY_URL"))
        };
        let key = |name: &str| {
            let key = get(name);
            secrets::register(&key);
            key
        };
        REALM.set(get("REALM")).expect("one world");
        let gateway = Target::parse(&get("GATEWAY_URL"));
        let log = match &stack {
            Some(stack) => Some(Log::File(stack.log())),
            None => given_log(),
        };
        let folder = match &stack {
            Some(stack) => {
                // The pages name the log `envoy.log`, also if another program writes it.
                let named = stack.run_dir.join("envoy.log");
                if !named.exists() {
                    std::os::unix::fs::symlink(stack.log(), named).expect("a link");
                }
                stack.run_dir.clone()
            }
            None => given_folder(log.as_ref()),
        };
        // One request without a credential tells whether the gateway sees addresses.
        let from = Ipv4Addr::new(127, 1, 1, 1);
        let answer = gateway.from(from).send(&Request::orders());
        let request_id = answer.problem(401, "missing_credentials");
        let source = format!(r#""source_address":"{from}""#);
        let sees_addresses =
            |log: &Log| log.expect(&[&request_id]).contains(&source) || stack.is_some();
        Self {
            host: Host::of(stack.as_ref(), &answer),
            sees_addresses: log.as_ref().is_some_and(sees_addresses),
            gateway,
            log,
            keycloak: Admin::new(
                &get("KEYCLOAK_URL"),
                &get("REALM"),
                &get("KEYCLOAK_ADMIN_USER"),
                &get("KEYCLOAK_ADMIN_PASSWORD"),
            ),
            api_key: key("API_KEY"),
            service_api_key: key("SERVICE_API_KEY"),
            expired_api_key: key("EXPIRED_API_KEY"),
            keycloak_commands: keycloak_commands(stack.as_ref()),
            keycloak_is_stopped: AtomicBool::new(false),
            faulty: OnceLock::new(),
            echo: OnceLock::new(),
            hook: variable("E2E_GATEWAY_START").filter(|_| stack.is_none()),
            folder,
            stack,
        }
    }

    /// Ends the world: removes the suite's own users from a realm that is not its own, and
    /// stops the stack.
    pub(crate) fn end(&self, keep_folder: bool) {
        if let Some(faulty) = self.faulty.get() {
            faulty.gateway.stop();
        }
        match &self.stack {
            Some(stack) => stack.stop(keep_folder),
            None => {
                self.start_keycloak();
                self.keycloak.delete_created_users();
                if keep_folder {
                    eprintln!("Logs of second gateways: {}", self.folder.display());
                } else {
                    let _ = fs::remove_dir_all(&self.folder);
                }
            }
        }
    }

    /// The reason why a case cannot run here.
    pub(crate) fn lacks(&self, need: Need) -> Option<&'static str> {
        let (there, reason) = match need {
            Need::OwnGateway => (
                self.stack.is_some() || self.hook.is_some(),
                "needs a gateway with another configuration: set E2E_GATEWAY_START to a command \
                 that starts one",
            ),
            Need::OwnEnvoy => (
                self.stack.is_some() && matches!(self.host, Host::Envoy | Host::EnvoyModule),
                "needs the suite's own stack, with the filter or the module in Envoy",
            ),
            Need::Log => (
                self.log.is_some(),
                "needs the gateway's log: set E2E_GATEWAY_LOG_FILE to it, or E2E_GATEWAY_LOGS to \
                 a command that prints it",
            ),
            Need::LogFile => (
                matches!(self.log, Some(Log::File(_))),
                "reads the gateway's log as a page does: set E2E_GATEWAY_LOG_FILE to it",
            ),
            Need::Addresses => (
                self.sees_addresses,
                "needs a gateway whose log shows that it sees the addresses of this machine's \
                 loopback network, and not that of a proxy or a container's bridge",
            ),
            Need::StoppedKeycloak => (
                self.keycloak_commands.is_some(),
                "stops Keycloak: set E2E_KEYCLOAK_STOP and E2E_KEYCLOAK_START to commands that \
                 stop it, and start and await it",
            ),
            Need::FirstRun => (
                self.stack
                    .as_ref()
                    .is_some_and(|stack| !stack.printed.is_empty()),
                "reads what make run prints, and this stack was running before",
            ),
        };
        (!there).then_some(reason)
    }

    /// The stack; only for cases that need an Envoy of their own.
    pub(crate) fn stack(&self) -> &Stack {
        self.stack.as_ref().expect("a stack")
    }

    /// The folder of this run. Like the run folder of `make run` it has `demo.env` and, if
    /// the log is a file, `envoy.log`: the pages use these names.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The gateway's log; only for cases that need it.
    pub(crate) fn log(&self) -> &Log {
        self.log.as_ref().expect("the log")
    }

    /// Waits for the log line of a refusal, if the log can be read.
    #[track_caller]
    pub(crate) fn expect_logged(&self, request_id: &str, reason: &str) {
        if let Some(log) = &self.log {
            log.expect(&[request_id, reason]);
        }
    }

    /// Starts a gateway with a configuration of its own.
    #[track_caller]
    pub(crate) fn start_gateway(&self, spec: &Spec) -> Gateway<'_> {
        let started = self.try_start_gateway(spec);
        started.unwrap_or_else(|said| panic!("no gateway: {said}"))
    }

    /// The same, for a trial of the gateway's work between requests. Kong shows a filter the
    /// variable with its signing key only within a request, so there this work begins with
    /// the first.
    #[track_caller]
    pub(crate) fn start_gateway_awake(&self, spec: &Spec) -> Gateway<'_> {
        let gateway = self.start_gateway(spec);
        if self.host == Host::Kong {
            let answer = gateway.target.send(&Request::orders());
            answer.problem(401, "missing_credentials");
        }
        gateway
    }

    /// Starts a gateway, or returns the gateway's own words about the failure.
    pub(crate) fn try_start_gateway(&self, spec: &Spec) -> Result<Gateway<'_>, String> {
        match (&self.stack, &self.hook) {
            (Some(stack), _) => Gateway::try_start(stack, spec),
            (None, Some(hook)) => Gateway::try_start_by(hook, spec, &self.folder),
            (None, None) => panic!("a case that needs its own gateway says so"),
        }
    }

    /// Whether trials can have gateways of their own.
    pub(crate) fn has_own_gateways(&self) -> bool {
        self.lacks(Need::OwnGateway).is_none()
    }

    /// A proxy before Keycloak.
    pub(crate) fn proxy(&self) -> Proxy {
        Proxy::start(self.keycloak.url())
    }

    /// The gateway that the trials of faults share, without a fault. It remembers no
    /// refusals.
    pub(crate) fn faulty(&'static self) -> &'static Faulty {
        let faulty = self.faulty.get_or_init(|| {
            let proxy = self.proxy();
            let spec = Spec::default()
                .field("negative_ttl_seconds", 0)
                .through(&proxy);
            let gateway = self.start_gateway(&spec);
            Faulty { gateway, proxy }
        });
        faulty.proxy.lift();
        faulty
    }

    /// A service that echoes the headers of its requests.
    pub(crate) fn echo(&self) -> SocketAddr {
        *self.echo.get_or_init(echo::start)
    }

    /// An owner with one new key under a fast hash.
    #[track_caller]
    pub(crate) fn owner(&self) -> (Owner<'_>, Key) {
        Owner::with_new_key(&self.keycloak)
    }

    /// An owner of these keys.
    #[track_caller]
    pub(crate) fn owner_of(&self, records: &[Record]) -> Owner<'_> {
        Owner::with(&self.keycloak, records)
    }

    /// Stops Keycloak, if it runs.
    pub(crate) fn stop_keycloak(&self) {
        let (stop, _) = self.keycloak_commands.as_ref().expect("commands");
        if !self.keycloak_is_stopped.swap(true, Ordering::Relaxed) {
            self.shell(stop);
        }
    }

    /// Starts Keycloak and waits for it, if a trial has stopped it.
    pub(crate) fn start_keycloak(&self) {
        if self.keycloak_is_stopped.swap(false, Ordering::Relaxed) {
            let (_, start) = self.keycloak_commands.as_ref().expect("commands");
            self.shell(start);
            wait::until("Keycloak is back", Duration::from_secs(180), || {
                self.keycloak.is_up()
            });
        }
    }

    fn shell(&self, line: &str) {
        let mut command = Command::new("bash");
        command.args(["-c", line]);
        if let Some(stack) = &self.stack {
            stack.tell(&mut command);
        }
        let output = command.output().expect("bash");
        assert!(
            output.status.success(),
            "{line}: {}: {}",
            output.status,
            secrets::redact(&String::from_utf8_lossy(&output.stderr))
        );
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The log of a gateway that is given by URL.
fn given_log() -> Option<Log> {
    let file = variable("E2E_GATEWAY_LOG_FILE").map(|path| Log::File(PathBuf::from(path)));
    file.or_else(|| variable("E2E_GATEWAY_LOGS").map(Log::Command))
}

/// A run folder for a gateway that is given by URL.
fn given_folder(log: Option<&Log>) -> PathBuf {
    let folder = stack::new_run_folder();
    let demo = DEMO.map(|name| format!("{name}={}\n", variable(name).unwrap_or_default()));
    fs::write(folder.join("demo.env"), demo.concat()).expect("demo.env");
    if let Some(Log::File(path)) = log {
        let path = fs::canonicalize(path).expect("E2E_GATEWAY_LOG_FILE: a file");
        std::os::unix::fs::symlink(path, folder.join("envoy.log")).expect("a link");
    }
    folder
}

/// The commands that stop Keycloak, and that start and await it.
fn keycloak_commands(stack: Option<&Stack>) -> Option<(String, String)> {
    if stack.is_some() && variable("E2E_RUN_DIR").is_none() {
        let start = "scripts/keycloak.sh start && scripts/keycloak.sh wait";
        return Some(("scripts/keycloak.sh stop".to_owned(), start.to_owned()));
    }
    variable("E2E_KEYCLOAK_STOP").zip(variable("E2E_KEYCLOAK_START"))
}
