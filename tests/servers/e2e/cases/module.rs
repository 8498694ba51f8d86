//! The module alone: Envoy gets other configurations while requests and calls are under way, and ends under load.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::configuration::{foreign_pem, gateway_of, register_key_body};
use super::install::{envoy, modules};
use super::secrecy::CRASHES;
use crate::client::{Connection, Request, Response, Target};
use crate::faults::{Endpoint, Fault, Proxy};
use crate::gateway::{Gateway, Spec, edit_fields, envoy_of, member};
use crate::owner::{Key, Record};
use crate::secrets::redact;
use crate::wait;
use crate::world::{Case, Host, Need, World};

/// Updates of the listener with the filter's configuration unchanged.
const UNCHANGED: usize = 200;
/// Updates that change the filter's configuration too, replace the listener, or take it away.
const CHANGED: usize = 150;
/// Times that the listener goes away while calls are out, and its connections are closed.
const TAKEN_AWAY: usize = 5;
/// Times that Envoy ends.
const ENDS: usize = 8;

const MANAGER: &str = "/filter_chains/0/filters/0/typed_config";

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new(
            "module::a_listener_that_changes_under_load_loses_no_cache_and_no_answer",
            changes,
        ),
        Case::new("module::envoy_ends_under_load_by_itself", ends),
        Case::new(
            "module::a_new_signing_key_in_a_file_is_in_use_without_a_restart",
            key_in_a_file,
        ),
        Case::new(
            "module::a_new_signing_key_by_sds_is_in_use_without_a_restart",
            key_by_sds,
        ),
        Case::new(
            "module::a_request_waits_for_the_first_signing_key_and_is_refused_if_none_comes",
            first_key,
        ),
        Case::new(
            "module::a_signing_key_may_be_a_secret_of_the_bootstrap",
            key_in_the_bootstrap,
        ),
        Case::new("module::a_route_may_have_fields_of_its_own", route),
        Case::new("module::the_access_log_has_the_code_of_a_refusal", details),
    ]
    .into_iter()
    .map(|case| {
        case.needs(Need::OwnEnvoy).not_on(
            &[Host::Envoy],
            "is about the module alone: GATEWAY=envoy-module",
        )
    })
    .collect()
}

/// A listener that Envoy takes from a file, as from a control plane.
struct Listener<'a> {
    gateway: Gateway<'a>,
    file: PathBuf,
    /// The first version.
    first: Value,
    version: usize,
}

impl<'a> Listener<'a> {
    fn start(world: &'a World, spec: &Spec) -> Self {
        let (mut config, port) = envoy_of(world.stack(), spec);
        let folder = world.folder().join(format!("lds-{port}"));
        fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join("lds.json");
        let listeners = member(&mut config, "/static_resources/listeners");
        let listeners = listeners.as_array_mut().expect("listeners");
        let gateway = listeners.iter().position(|one| one["name"] == "gateway");
        let mut first = listeners.remove(gateway.expect("the gateway's"));
        first["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        config["node"] = json!({"id": "e2e", "cluster": "e2e"});
        config["dynamic_resources"] = json!({"lds_config": {
            "resource_api_version": "V3", "path_config_source": {"path": file},
        }});
        write(&file, 0, std::slice::from_ref(&first));
        let drained = [("ENVOY_DRAIN_SECONDS", "1".to_owned())];
        let started = Gateway::try_start_in(world.stack(), &config, port, 2, drained);
        Self {
            gateway: started.unwrap_or_else(|said| panic!("no gateway: {said}")),
            file,
            first,
            version: 0,
        }
    }

    /// Gives Envoy these listeners, and waits until it has taken them.
    #[track_caller]
    fn publish(&mut self, listeners: &[Value]) {
        self.version += 1;
        write(&self.file, self.version, listeners);
        let wanted = (u64::try_from(self.version).expect("a number") + 1, 0);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let found = (
                self.stat("listener_manager.lds.update_success"),
                self.stat("listener_manager.lds.update_rejected"),
            );
            if found == wanted {
                return;
            }
            assert!(
                Instant::now() < deadline && found.1 == 0,
                "update {}: {found:?}: {}",
                self.version,
                redact(&self.gateway.log.lines(&["lds"]).concat())
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The first version with another mark at its manager: Envoy replaces the filter chain.
    fn marked(&self) -> Value {
        let mut listener = self.first.clone();
        let name = format!("gateway_{}", self.version % 7);
        member(&mut listener, MANAGER)["stat_prefix"] = json!(name);
        listener
    }

    fn stat(&self, name: &str) -> u64 {
        let text = self.gateway.admin(&format!("/stats?filter=^{name}$"));
        let value = text.lines().find_map(|line| line.rsplit(' ').next());
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_default()
    }

    /// Waits until no connection of an earlier version is left.
    #[track_caller]
    fn drained(&self) {
        wait::until("earlier versions are gone", Duration::from_secs(30), || {
            let left = ["total_listeners_draining", "total_filter_chains_draining"]
                .map(|name| self.stat(&format!("listener_manager.{name}")));
            (left == [0, 0]).then_some(()).ok_or(format!("{left:?}"))
        });
    }

    fn threads(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.gateway.pid()));
        tasks.expect("its threads").count()
    }
}

/// Moves a new version into place, which is the only change that Envoy watches for.
fn write(file: &PathBuf, version: usize, listeners: &[Value]) {
    let text = json!({"version_info": version.to_string(), "resources": listeners});
    let fresh = file.with_extension("new");
    fs::write(&fresh, text.to_string()).expect("a version");
    fs::rename(&fresh, file).expect("a version in place");
}

/// The answers to a load, by their kind.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    kinds: Mutex<BTreeMap<String, usize>>,
    wrong: Mutex<Vec<String>>,
}

impl Load {
    /// Sends requests with these keys in turn until the load is over, on connections that last as long as
    /// the gateway lets them. Each answer is the owner's, a clean refusal with 503, or the end of the connection.
    fn send(&self, target: &Target, keys: &[Key], owner: &str) {
        let mut connection = None;
        for at in 0.. {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let request = Request::orders().api_key(&keys[at % keys.len()].text);
            let answer = self.ask(&mut connection, target, &request);
            let kind = match &answer {
                None => "ended".to_owned(),
                Some(answer) => answer.status.to_string(),
            };
            *self.kinds.lock().unwrap().entry(kind).or_default() += 1;
            if let Some(answer) = answer {
                self.judge(&answer, owner);
            }
        }
    }

    fn ask(
        &self,
        connection: &mut Option<Connection>,
        target: &Target,
        request: &Request,
    ) -> Option<Response> {
        if connection.is_none() {
            *connection = target.try_connect().ok();
        }
        let answer = connection.as_mut()?.send_unless_closed(request);
        let closes = answer.as_ref().is_none_or(|answer| {
            let header = answer.header("connection").unwrap_or_default();
            header.eq_ignore_ascii_case("close")
        });
        if closes {
            *connection = None;
        }
        answer
    }

    fn judge(&self, answer: &Response, owner: &str) {
        let is_right = match answer.status {
            200 => answer.orders().subject == owner,
            503 => {
                let code = answer.json()["code"].clone();
                code == "identity_provider_unavailable" || code == "overloaded"
            }
            _ => false,
        };
        if !is_right {
            self.wrong.lock().unwrap().push(answer.describe());
        }
    }

    /// Runs while something happens; returns the number of answers of each kind.
    #[track_caller]
    fn during(
        target: &Target,
        clients: &[(&[Key], &str)],
        happens: impl FnOnce(),
    ) -> BTreeMap<String, usize> {
        let load = Self::default();
        thread::scope(|scope| {
            let _ends = EndsWith(&load.over);
            for (keys, owner) in clients {
                let load = &load;
                scope.spawn(move || load.send(target, keys, owner));
            }
            happens();
        });
        let wrong = load.wrong.into_inner().unwrap();
        assert!(
            wrong.is_empty(),
            "{} wrong: {:?}",
            wrong.len(),
            wrong.first()
        );
        load.kinds.into_inner().unwrap()
    }
}

struct EndsWith<'a>(&'a AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// New keys with an expensive hash.
fn keys(count: usize, cost: u32) -> (Vec<Key>, Vec<Record>) {
    let keys: Vec<Key> = (0..count).map(|_| Key::random()).collect();
    let records = keys.iter().map(|key| Record::bcrypt(key, "2b", cost));
    let records = records.collect();
    (keys, records)
}

fn calls(proxy: &Proxy) -> (usize, usize) {
    let counts = proxy.counts();
    (counts.look_up, counts.grant)
}

fn changes(world: &World) {
    let proxy = world.proxy();
    let spec = Spec::default()
        .field("revocation_poll_seconds", 1)
        .field("cache_ttl_seconds", 3600)
        .field("callout_timeout_ms", 5000)
        .through(&proxy);
    let mut listener = Listener::start(world, &spec);
    listener.gateway.log.expect(&["admin events are polled"]);
    let target = listener.gateway.target.clone();
    let (owner, warm) = world.owner();
    let warm = [warm];
    let load: [(&[Key], &str); 3] = [(&warm, &owner.id); 3];
    // Polls learn of the new owner, and drop its token.
    let mut last = (calls(&proxy), Instant::now());
    wait::until("the key stays cached", Duration::from_secs(30), || {
        target.orders(&warm[0].text).orders();
        let now = calls(&proxy);
        if now != last.0 {
            last = (now, Instant::now());
        }
        let quiet = last.1.elapsed();
        (quiet > Duration::from_secs(4))
            .then_some(())
            .ok_or(format!("{quiet:?} without a call"))
    });

    // With its configuration unchanged the filter keeps its caches.
    let before = calls(&proxy);
    let (threads, memory) = (listener.threads(), listener.gateway.memory("VmRSS:"));
    let kinds = Load::during(&target, &load, || {
        for _ in 0..UNCHANGED {
            let next = listener.marked();
            listener.publish(&[next]);
        }
    });
    println!("\n    {UNCHANGED} updates: {kinds:?}");
    assert_eq!(calls(&proxy), before, "a warm key was asked for again");
    assert_eq!(kinds.get("503"), None);
    assert!(kinds["200"] > UNCHANGED, "{kinds:?}");

    // First uses go on at the same time, while the listener is replaced, and taken away.
    let (cold, records) = keys(40, 10);
    let cold_owner = world.owner_of(&records);
    let load = [
        load[0],
        load[1],
        (&cold[..20], &cold_owner.id),
        (&cold[20..], &cold_owner.id),
    ];
    let kinds = Load::during(&target, &load, || {
        for at in 0..CHANGED {
            let mut next = listener.marked();
            match at % 4 {
                0 => next["per_connection_buffer_limit_bytes"] = json!(1_000_000 + at),
                // Nothing is remembered, and each request is a call.
                1 | 2 => {
                    let filters = member(&mut next, &format!("{MANAGER}/http_filters"));
                    let ttl = vec![("cache_ttl_seconds".to_owned(), json!(at % 4))];
                    edit_fields(&mut filters[0], &ttl);
                }
                _ => {}
            }
            if at % 10 == 9 {
                listener.publish(&[]);
            }
            listener.publish(&[next]);
        }
    });
    println!("    {CHANGED} updates with first uses: {kinds:?}");
    assert!(kinds["200"] > CHANGED, "{kinds:?}");

    // The listener goes away while calls are out that nobody answers.
    for _ in 0..TAKEN_AWAY {
        let next = listener.marked();
        listener.publish(&[next]);
        let (waiting, records) = keys(8, 4);
        let _owner = world.owner_of(&records);
        proxy.set(Endpoint::LookUp, Fault::Silence);
        let asked = calls(&proxy).0;
        let answered = AtomicUsize::new(0);
        thread::scope(|scope| {
            for key in &waiting {
                let (target, answered) = (&target, &answered);
                scope.spawn(move || {
                    let request = Request::orders().api_key(&key.text);
                    let answer = target.connect().send_unless_closed(&request);
                    if let Some(answer) = answer {
                        answer.unavailable();
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            wait::until("calls are out", Duration::from_secs(10), || {
                let out = calls(&proxy).0 - asked;
                (out >= 1).then_some(()).ok_or(format!("{out}"))
            });
            listener.publish(&[]);
            listener.drained();
        });
        proxy.lift();
    }
    let next = listener.marked();
    listener.publish(&[next]);
    listener.drained();

    // It works, and nothing is left of three hundred configurations.
    target.orders(&warm[0].text).orders();
    target.orders(&cold[0].text).orders();
    wait::until("no thread is left over", Duration::from_secs(20), || {
        let now = listener.threads();
        // Those that verify keys are made with the first key.
        (now <= threads + 4)
            .then_some(())
            .ok_or(format!("{now} threads, {threads} before"))
    });
    let grown = listener.gateway.memory("VmRSS:").saturating_sub(memory);
    println!("    {} KiB more memory", grown / 1024);
    assert!(grown < 48 << 20, "{grown} bytes");
    assert_no_crash(&listener.gateway.log.text());
}

fn assert_no_crash(log: &str) {
    for words in CRASHES {
        let line = log.lines().find(|line| line.contains(words));
        assert!(line.is_none(), "{:?}", line.map(redact));
    }
}

/// An Envoy that this process can wait for.
struct Running {
    envoy: Child,
    log: PathBuf,
    target: Target,
}

impl Running {
    fn start(world: &World, spec: &Spec, at: usize) -> Self {
        let stack = world.stack();
        let (config, port) = envoy_of(stack, spec);
        let file = stack.run_dir.join(format!("ends-{at}.json"));
        fs::write(&file, config.to_string()).expect("a configuration");
        let log = stack.run_dir.join(format!("ends-{at}.log"));
        let pem = fs::read_to_string(stack.run_dir.join("signing-key.pem")).expect("the key");
        let envoy = Command::new(envoy(world))
            .arg("--config-path")
            .arg(&file)
            .args(["--concurrency", "2", "--disable-hot-restart"])
            .env("APIKEY_SIGNING_KEY", pem.trim_end())
            .env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", modules())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("Envoy");
        let mut running = Self {
            envoy,
            log,
            target: Target::local(port),
        };
        wait::until("it listens", Duration::from_secs(30), || {
            let ended = running.envoy.try_wait().expect("its state");
            assert!(ended.is_none(), "{ended:?}: {}", redact(&running.said()));
            let listens = running.target.try_connect();
            listens.map(drop).map_err(|fault| fault.to_string())
        });
        running
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end; returns its status and how long it took.
    #[track_caller]
    fn end(&mut self) -> (Option<i32>, Duration) {
        let pid = i32::try_from(self.envoy.id()).ok().and_then(Pid::from_raw);
        let asked = Instant::now();
        kill_process(pid.expect("a process"), Signal::TERM).expect("a signal");
        let status = wait::until("Envoy ends", Duration::from_secs(20), || {
            let status = self.envoy.try_wait().expect("its state");
            status.ok_or("it runs".to_owned())
        });
        (status.code(), asked.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.envoy.kill();
        let _ = self.envoy.wait();
    }
}

/// With requests that a cache answers, keys that are being verified, and calls without an answer.
fn ends(world: &World) {
    let (owner, warm) = world.owner();
    let warm = [warm];
    for at in 0..ENDS {
        let proxy = world.proxy();
        let mut running = Running::start(world, &Spec::default().through(&proxy), at);
        let target = running.target.clone();
        target.orders(&warm[0].text).orders();
        let (slow, records) = keys(6, 12);
        let slow_owner = world.owner_of(&records);
        let (waiting, records) = keys(6, 4);
        let waiting_owner = world.owner_of(&records);
        let load: [(&[Key], &str); 5] = [
            (&warm, &owner.id),
            (&slow[..3], &slow_owner.id),
            (&slow[3..], &slow_owner.id),
            (&waiting[..3], &waiting_owner.id),
            (&waiting[3..], &waiting_owner.id),
        ];
        // The first rounds end while keys are verified, the others while calls are out.
        if at % 2 == 1 {
            proxy.set(Endpoint::Grant, Fault::Silence);
        }
        let asked = proxy.counts().look_up;
        let kinds = Load::during(&target, &load, || {
            wait::until("work is under way", Duration::from_secs(20), || {
                let looked_up = proxy.counts().look_up - asked;
                (looked_up >= 3).then_some(()).ok_or(format!("{looked_up}"))
            });
            let (code, took) = running.end();
            println!("    Envoy ended with {code:?} after {took:?}");
            assert_eq!(code, Some(0), "{}", redact(&running.said()));
        });
        assert!(kinds["200"] > 0, "{kinds:?}");
        assert_no_crash(&running.said());
        proxy.lift();
    }
}

/// A folder of a trial's own.
fn folder(world: &World, name: &str) -> PathBuf {
    let folder = world.folder().join(name);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn right_pem(world: &World) -> String {
    let pem = fs::read_to_string(world.stack().run_dir.join("signing-key.pem"));
    let pem = pem.expect("the stack's key");
    register_key_body(&pem);
    pem
}

/// Moves a file into place.
fn put(file: &PathBuf, text: &str) {
    let fresh = file.with_extension("new");
    fs::write(&fresh, text).expect("a file");
    fs::rename(&fresh, file).expect("a file in place");
}

fn key_in_a_file(world: &World) {
    let file = folder(world, "key-in-a-file").join("signing-key.pem");
    let spec = Spec::default().field("signing_key_file", json!(file));
    new_key_is_used(world, spec, |pem| put(&file, pem));
}

fn key_by_sds(world: &World) {
    let (spec, file) = by_sds(world, "key-by-sds");
    new_key_is_used(world, spec, |pem| deliver(&file, &[pem]));
}

/// The signing key comes by SDS, from this file.
fn by_sds(world: &World, name: &str) -> (Spec, PathBuf) {
    let file = folder(world, name).join("sds.json");
    let source = json!({"path_config_source": {"path": file}, "resource_api_version": "V3"});
    let spec = Spec::default()
        .field("signing_key_secret", "apikeys")
        .field("signing_key_secret_source", source);
    (spec, file)
}

/// Delivers the secret by SDS, or no secret.
fn deliver(file: &PathBuf, pems: &[&str]) {
    let secrets = pems.iter().map(|pem| {
        json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "apikeys", "generic_secret": {"secret": {"inline_string": pem}},
        })
    });
    let secrets: Vec<Value> = secrets.collect();
    let version = wait::now_ms().to_string();
    let text = json!({"version_info": version, "resources": secrets});
    put(file, &text.to_string());
}

fn first_key(world: &World) {
    let (spec, file) = by_sds(world, "first-key");
    deliver(&file, &[]);
    let gateway = start_with_secret(world, spec);
    gateway.target.orders(&world.api_key).unavailable();
    gateway
        .log
        .expect(&["Envoy has not delivered the signing key"]);
    let pem = right_pem(world);
    thread::scope(|scope| {
        let waits = scope.spawn(|| gateway.target.orders(&world.api_key));
        wait::until("a request waits", Duration::from_secs(4), || {
            let text = gateway.admin("/stats?filter=^http.gateway.downstream_rq_active$");
            text.trim().ends_with(" 1").then_some(()).ok_or(text)
        });
        deliver(&file, &[&pem]);
        waits.join().expect("an answer").orders();
    });
}

fn start_with_secret<'a>(world: &'a World, spec: Spec) -> Gateway<'a> {
    let spec = spec.field("signing_key_property", Value::Null);
    let (mut config, port) = envoy_of(world.stack(), &spec);
    // Envoy asks for secrets by its own name.
    config["node"] = json!({"id": "e2e", "cluster": "e2e"});
    let started = Gateway::try_start_as(world.stack(), &config, port, 1);
    started.unwrap_or_else(|said| panic!("no gateway: {said}"))
}

/// A key that Keycloak does not know, and then the right one, without a restart.
fn new_key_is_used(world: &World, spec: Spec, give: impl Fn(&str)) {
    let (owner, key) = world.owner();
    give(&foreign_pem());
    let gateway = start_with_secret(world, spec);
    // A secret comes some milliseconds after the listener, and until then each request is refused.
    wait::until("Keycloak refuses", Duration::from_secs(10), || {
        let request_id = gateway.target.orders(&key.text).unavailable();
        let told = gateway.log.lines(&[&request_id, "invalid_client"]);
        told.first().map(drop).ok_or(request_id)
    });
    let pid = gateway.pid();
    give(&right_pem(world));
    wait::until("the new key is in use", Duration::from_secs(20), || {
        let answer = gateway.target.orders(&key.text);
        (answer.status == 200)
            .then_some(())
            .ok_or_else(|| answer.describe())
    });
    assert_eq!(gateway.target.orders(&key.text).orders().subject, owner.id);
    // A text that is no key changes nothing.
    give("not a key");
    gateway.log.expect(&["key before it stays in use"]);
    gateway.target.orders(&world.owner().1.text).orders();
    assert_eq!(gateway.pid(), pid);
}

fn key_in_the_bootstrap(world: &World) {
    let file = folder(world, "key-in-the-bootstrap").join("signing-key.pem");
    put(&file, &right_pem(world));
    let spec = Spec::default()
        .field("signing_key_property", Value::Null)
        .field("signing_key_secret", "apikeys")
        .edit(move |resources, _| {
            let secret =
                json!({"name": "apikeys", "generic_secret": {"secret": {"filename": file}}});
            resources["secrets"] = json!([secret]);
        });
    let gateway = world.start_gateway(&spec);
    wait::until("the secret is in use", Duration::from_secs(10), || {
        let answer = gateway.target.orders(&world.api_key);
        match answer.status {
            200 => Ok(answer.orders()),
            _ => Err(answer.unavailable()),
        }
    });
}

fn route(world: &World) {
    let spec = Spec::default().serving(world.echo()).edit(|resources, _| {
        let (filters, orders) = gateway_of(resources);
        let mut own = filters[0]["typed_config"].clone();
        own["filter_config"]["value"]["on_missing_key"] = json!("pass");
        let mut route = orders.clone();
        route["name"] = json!("open");
        route["match"] = json!({"prefix": "/open"});
        route["typed_per_filter_config"]["apikey_jwt_exchange"] = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute",
            "dynamic_module_config": own["dynamic_module_config"],
            "per_route_config_name": "open",
            "filter_config": own["filter_config"],
        });
        let listeners = resources["listeners"].as_array_mut().unwrap();
        let gateway = listeners.iter_mut().find(|one| one["name"] == "gateway");
        let routes = format!("{MANAGER}/route_config/virtual_hosts/0/routes");
        let routes = member(gateway.unwrap(), &routes).as_array_mut().unwrap();
        routes.insert(0, route);
    });
    let gateway = world.start_gateway(&spec);
    let refused = gateway.target.send(&Request::orders());
    refused.problem(401, "missing_credentials");
    let open = Request::orders().at("/open");
    assert_eq!(gateway.target.send(&open).status, 200);
    let answer = gateway.target.send(&open.api_key(&world.api_key));
    assert_eq!(answer.status, 200, "{}", answer.describe());
    let seen = answer.json()["headers"]["authorization"].clone();
    assert!(seen.as_str().unwrap_or_default().starts_with("Bearer eyJ"));
}

fn details(world: &World) {
    let file = world.folder().join("details.log");
    let path = json!(file);
    let spec = Spec::default().edit(move |resources, _| {
        let listeners = resources["listeners"].as_array_mut().unwrap();
        let gateway = listeners.iter_mut().find(|one| one["name"] == "gateway");
        let log = format!("{MANAGER}/access_log/0/typed_config/path");
        *member(gateway.unwrap(), &log) = path.clone();
    });
    let gateway = world.start_gateway(&spec);
    let refused = gateway.target.send(&Request::orders().at("/refused"));
    refused.problem(401, "missing_credentials");
    wait::until("a line of the access log", Duration::from_secs(10), || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let line = text.lines().find(|line| line.contains("/refused"));
        let line: Value = serde_json::from_str(line.unwrap_or_default()).unwrap_or_default();
        (line["details"] == "apikeys_missing_credentials")
            .then_some(())
            .ok_or(text)
    });
}
