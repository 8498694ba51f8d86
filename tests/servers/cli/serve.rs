//! `apikeys serve` as a process: its configuration, its sockets, its end, and hostile clients.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use suites::client::{Request, Response, Target};
use suites::stack::free_ports;
use suites::wait::until;

use crate::world::{Realm, Run, http, keycloak_url};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running service of a realm.
struct Served<'a> {
    realm: &'a Realm,
    child: Child,
    exchange: Target,
    operations: Target,
    management: Target,
}

impl<'a> Served<'a> {
    /// Starts the service and waits until it is ready. `more`: lines for its file; `shell`: a command to
    /// run first.
    fn start(realm: &'a Realm, more: &str, shell: &str) -> Self {
        let served = Self::begin(realm, more, shell);
        until("the service is ready", PATIENCE, || {
            let said = format!("not ready: {}", served.log());
            let Some(status) = served.probe("/readyz") else {
                return Err(said);
            };
            (status == 200).then_some(()).ok_or(said)
        });
        served
    }

    /// Starts the service without waiting.
    fn begin(realm: &'a Realm, more: &str, shell: &str) -> Self {
        let ports = free_ports(3);
        let file = realm.private_file("serve.yaml", &config(realm, &ports, more));
        let log = File::create(realm.file("serve.log")).unwrap();
        let program = crate::tool::path().display().to_string();
        let script = format!("{shell} exec \"$0\" serve --config \"$1\"");
        let child = Command::new("bash")
            .args(["-c", &script, &program, &file])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            realm,
            child,
            exchange: Target::local(ports[0]),
            operations: Target::local(ports[1]),
            management: Target::local(ports[2]),
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.realm.file("serve.log")).unwrap()
    }

    #[track_caller]
    fn wait_for_line(&self, words: &str) {
        until(words, PATIENCE, || {
            let log = self.log();
            log.contains(words).then_some(()).ok_or(log)
        });
    }

    /// The status of a probe; none while the port is closed.
    fn probe(&self, path: &str) -> Option<u16> {
        let connected = TcpStream::connect(("127.0.0.1", self.operations.port()));
        let mut stream = connected.ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.split(' ').nth(1)?.parse().ok()
    }

    fn ask(&self, key: &str) -> Response {
        self.exchange
            .send(&Request::orders().at("/exchange").api_key(key))
    }

    #[track_caller]
    fn expect_exchanged(&self, key: &str) {
        let answer = self.ask(key);
        assert_eq!(answer.status, 200, "{}", answer.describe());
        let token = answer.header("authorization").unwrap();
        assert!(token.starts_with("Bearer eyJ"));
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end, and returns the exit status.
    fn ended(&mut self) -> i32 {
        let child = &mut self.child;
        until("the end of the service", PATIENCE, || {
            let ended = child.try_wait().unwrap();
            ended
                .map(|status| status.code().unwrap_or(-1))
                .ok_or("it runs".to_owned())
        })
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(realm: &Realm, ports: &[u16], more: &str) -> String {
    let fields = json!({
        "keycloak_url": keycloak_url(), "realm": realm.name, "revocation_poll_seconds": 1,
    });
    let (mut managed, audience) = (fields.clone(), json!("api-keys"));
    managed["audience"] = audience;
    let exchange = match more.contains("exchanges:") {
        true => String::new(),
        false => format!("exchange: {fields}\n"),
    };
    format!(
        "signing_key_file: key.pem\n\
         listen: ['127.0.0.1:{}', 'unix:exchange.sock']\n\
         listen_operations: ['127.0.0.1:{}']\n\
         listen_management: ['127.0.0.1:{}']\n\
         management: {managed}\n\
         {exchange}{more}",
        ports[0], ports[1], ports[2],
    )
}

fn check(realm: &Realm, text: &str) -> Run {
    let file = realm.private_file("checked.yaml", text);
    let mut process = Command::new(crate::tool::path());
    process.args(["serve", "--check", "--config", &file]);
    Run::of(process.output().unwrap())
}

/// Creates a key for alice.
fn key(realm: &Realm) -> (String, String) {
    let made = realm.create(&["--owner", "alice"]).succeeded().json();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    suites::secrets::register(&text("api_key"));
    (text("api_key"), text("key_id"))
}

#[test]
fn a_configuration_is_checked_with_its_files_and_a_fault_names_its_field() {
    let realm = Realm::prepared();
    let good = config(&realm, &[1, 2, 3], "");
    let run = check(&realm, &good).succeeded();
    assert_eq!(run.stdout, "the configuration can be used\n");
    check(&realm, &format!("{good}colour: red\n")).refused_with("unknown field `colour`");
    let without_key = good.replace("key.pem", "nothing.pem");
    check(&realm, &without_key).refused_with("nothing.pem");
    let secret = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
    let with_secret = good.replacen(
        "\"realm\"",
        &format!("\"signing_key\":\"{secret}\",\"realm\""),
        1,
    );
    let run = check(&realm, &with_secret);
    assert!(!run.stderr.contains(secret));
    run.refused_with("signing_key");
}

#[test]
fn a_key_is_exchanged_over_tcp_and_the_socket_and_refused_once_it_is_revoked() {
    let realm = Realm::prepared();
    let served = Served::start(&realm, "", "");
    let (key, id) = key(&realm);
    served.expect_exchanged(&key);
    let mut socket = UnixStream::connect(realm.file("exchange.sock")).unwrap();
    write!(
        socket,
        "POST /exchange/any/path HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(answer.contains(&format!("apikeys-key-id: {id}\r\n")));
    let untouched = Request::orders()
        .at("/exchange")
        .bearer("eyJhbGciOiJub25lIn0.e30.");
    let answer = served.exchange.send(&untouched);
    let sent_on = answer.header("authorization");
    assert_eq!(
        (answer.status, sent_on),
        (200, Some("Bearer eyJhbGciOiJub25lIn0.e30."))
    );
    assert_eq!(answer.header("apikeys-key-id"), None);
    assert_eq!(
        served.exchange.send(&Request::orders().at("/other")).status,
        404
    );
    realm.run("revoke", &[&id]).succeeded();
    until("the revoked key is refused", PATIENCE, || {
        let answer = served.ask(&key);
        let problem = answer.header("apikeys-problem").map(str::to_owned);
        match answer.status {
            401 => {
                assert_eq!(problem.unwrap().as_bytes(), answer.body);
                Ok(())
            }
            status => Err(status.to_string()),
        }
    });
    let (metrics, log) = (
        served.operations.send(&Request::orders().at("/metrics")),
        served.log(),
    );
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(metrics.contains("apikey_exchanges_total{source=\"first_use\"} 1"));
    let refused = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let refused: Vec<_> = refused
        .filter(|line| line["outcome"] == "refused")
        .collect();
    assert_eq!(refused[0]["key_id"], id.as_str());
    let told = "a request came without the client's address";
    assert_eq!(log.matches(told).count(), 1);
    assert!(!log.contains(&key));
}

#[test]
fn a_name_chooses_the_exchange_and_no_path_of_a_client_does() {
    let realm = Realm::prepared();
    let fields = json!({"keycloak_url": keycloak_url(), "realm": realm.name});
    let mut other = fields.clone();
    other["on_missing_key"] = json!("pass");
    let more = format!("exchanges: {}\n", json!({"strict": fields, "open": other}));
    let served = Served::start(&realm, &more, "");
    let status = |path: &str| served.exchange.send(&Request::orders().at(path)).status;
    assert_eq!(status("/exchange/strict/open"), 401);
    assert_eq!(status("/exchange/open/orders"), 200);
    for path in [
        "/exchange",
        "/exchange/",
        "/exchange/other",
        "/exchange/stric",
        "/exchangestrict",
    ] {
        assert_eq!(status(path), 404, "{path}");
    }
}

#[test]
fn a_key_that_the_gateway_cannot_take_out_is_refused_and_else_its_header_is_named() {
    let realm = Realm::prepared();
    let (key, _) = key(&realm);
    let twice = Request::orders().at("/exchange").api_key(&key);
    let twice = twice.header("Cookie", format!("key={key}"));
    let claims = Request::orders()
        .at("/exchange")
        .api_key(&key)
        .header("x_api_key_id", "another");
    let served = Served::start(&realm, "", "");
    for request in [&twice, &claims] {
        let answer = served.exchange.send(request);
        assert_eq!(answer.status, 400, "{}", answer.describe());
        assert_eq!(answer.json()["code"], "ambiguous_credentials");
        assert_eq!(answer.header("authorization"), None);
    }
    served.expect_exchanged(&key);
    drop(served);
    let served = Served::start(&realm, "removes_headers: true\n", "");
    for (request, name) in [(&twice, "cookie"), (&claims, "x_api_key_id")] {
        let answer = served.exchange.send(request);
        assert_eq!(answer.status, 200, "{}", answer.describe());
        let names = answer.header("x-envoy-auth-headers-to-remove").unwrap();
        for name in [name, "x-api-key-id", "x-api-key-owner", "x-api-key-name"] {
            assert!(
                names.split(',').any(|known| known == name),
                "{name} in {names}"
            );
        }
    }
}

#[test]
fn the_management_api_makes_keys_that_the_exchange_takes_and_ends_them_at_once() {
    let realm = Realm::prepared();
    let served = Served::start(&realm, "", "");
    realm.edit(&realm.user_path("alice"), |user| {
        user["credentials"] =
            json!([{"type": "password", "value": "a-password", "temporary": false}]);
    });
    let audience = json!({"included.custom.audience": "api-keys", "access.token.claim": "true"});
    let mapper = json!({"name": "audience", "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper", "config": audience});
    let portal = json!({"clientId": "portal", "publicClient": true,
        "directAccessGrantsEnabled": true, "protocolMappers": [mapper]});
    realm.admin("POST", "clients", Some(&portal));
    let form = "grant_type=password&client_id=portal&username=alice&password=a-password";
    let url = format!("{}/protocol/openid-connect/token", realm.url());
    let form = ("application/x-www-form-urlencoded", form.to_owned());
    let (_, answer) = http("POST", &url, None, Some(form));
    let token = answer["access_token"].as_str().unwrap();
    let keys = "/api/v1/api-keys";
    let body = json!({"name": "Portal"}).to_string().into_bytes();
    let request = Request::orders().at(keys).bearer(token);
    let create = request
        .clone()
        .header("Content-Type", "application/json")
        .post(body);
    let made = served.management.send(&create);
    assert_eq!(made.status, 201, "{}", made.describe());
    let made = made.json();
    let (key, id) = (
        made["api_key"].as_str().unwrap(),
        made["key_id"].as_str().unwrap(),
    );
    suites::secrets::register(key);
    served.expect_exchanged(key);
    let end = request.at(&format!("{keys}/{id}")).method("DELETE");
    assert_eq!(served.management.send(&end).status, 204);
    assert_eq!(served.ask(key).status, 401, "at once: one memory");
}

#[test]
fn half_heads_and_ten_thousand_idle_connections_hold_nobody_up() {
    let realm = Realm::prepared();
    let served = Served::start(&realm, "", "");
    let (key, _) = key(&realm);
    let (_, limit) = open_files();
    // Each process holds one end of each connection, so the limit counts once.
    let count = 10_000.min(limit.saturating_sub(500));
    let half = |at: u64| {
        let mut stream = TcpStream::connect(("127.0.0.1", served.exchange.port())).unwrap();
        if at.is_multiple_of(2) {
            stream
                .write_all(b"GET /exchange HTTP/1.1\r\nx-api")
                .unwrap();
        }
        stream
    };
    let idle: Vec<TcpStream> = (0..count).map(half).collect();
    served.expect_exchanged(&key);
    drop(idle);
    served.expect_exchanged(&key);
}

/// A frame of HTTP/2 (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[..], &[kind, flags], &stream.to_be_bytes()];
    [head.concat(), payload.to_vec()].concat()
}

#[test]
fn many_cancelled_checks_do_not_close_the_gateways_connection() {
    let realm = Realm::prepared();
    let port = free_ports(1)[0];
    let more = format!("listen_grpc: ['127.0.0.1:{port}']\n");
    let _served = Served::start(&realm, &more, "");
    let mut gateway = TcpStream::connect(("127.0.0.1", port)).unwrap();
    gateway.set_read_timeout(Some(PATIENCE)).unwrap();
    let (headers, reset, settings, ping, go_away) = (1, 3, 4, 6, 7);
    // POST http://a/ (RFC 7541, appendix A), and the reset of a client that went away.
    let check = |stream| {
        let head = frame(headers, 0x4, stream, &[0x83, 0x86, 0x84, 0x41, 1, b'a']);
        [head, frame(reset, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(settings, 0, 0, &[]));
    sent.extend((0..200).flat_map(|at| check(2 * at + 1)));
    sent.extend(frame(ping, 0, 0, b"are you?"));
    gateway.write_all(&sent).unwrap();
    loop {
        let mut head = [0; 9];
        gateway.read_exact(&mut head).unwrap();
        let [a, b, c, kind, flags, ..] = head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
        gateway.read_exact(&mut vec![0; length]).unwrap();
        assert_ne!(kind, go_away, "the connection ends, and all checks with it");
        if (kind, flags) == (ping, 1) {
            return;
        }
    }
}

/// Raises this process's soft limit of open files to the hard limit, and returns both.
fn open_files() -> (u64, u64) {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    (
        limit.current.unwrap_or(0),
        limit.maximum.unwrap_or(u64::MAX),
    )
}

#[test]
fn file_descriptors_that_run_out_are_told_of_and_the_next_connection_is_served() {
    let realm = Realm::prepared();
    let served = Served::start(&realm, "", "ulimit -n 96;");
    let (key, _) = key(&realm);
    let connect = |_| TcpStream::connect(("127.0.0.1", served.exchange.port())).unwrap();
    let crowd: Vec<TcpStream> = (0..200).map(connect).collect();
    served.wait_for_line("a connection cannot be accepted");
    drop(crowd);
    served.expect_exchanged(&key);
}

#[test]
fn a_signing_key_that_turns_to_nonsense_is_told_of_and_the_one_before_serves_on() {
    let realm = Realm::prepared();
    let served = Served::start(&realm, "", "");
    let (first, _) = key(&realm);
    let pem = fs::read_to_string(realm.file("key.pem")).unwrap();
    realm.private_file("key.pem", "-----BEGIN NONSENSE-----\nU0VDUkVU\n");
    served.signal("HUP");
    served.wait_for_line("cannot be used, so the one before stays");
    served.expect_exchanged(&first);
    assert!(!served.log().contains("U0VDUkVU"));
    realm.private_file("key.pem", &pem);
    served.wait_for_line("holds the key in use");
    let next = realm.file("next.pem");
    realm
        .run("signing-key new", &["--signing-key-file", &next])
        .succeeded();
    fs::copy(next, realm.file("key.pem")).unwrap();
    served.wait_for_line("the signing key has changed and is in use");
    served.expect_exchanged(&first);
}

#[test]
fn sigterm_ends_the_service_after_the_request_that_is_under_way() {
    let realm = Realm::prepared();
    let mut served = Served::start(&realm, "", "");
    let costly = ["--owner", "alice", "--name", "slow", "--bcrypt-cost", "13"];
    let made = realm.json("create", &costly);
    let key = made["api_key"].as_str().unwrap().to_owned();
    suites::secrets::register(&key);
    let exchange = served.exchange.clone();
    let under_way =
        std::thread::spawn(move || exchange.send(&Request::orders().at("/exchange").api_key(&key)));
    let metrics = Request::orders().at("/metrics");
    until("the request is under way", PATIENCE, || {
        let text = String::from_utf8(served.operations.send(&metrics).body).unwrap();
        let pending = text.contains("\napikey_exchanges_pending 1\n");
        pending.then_some(()).ok_or("no request".to_owned())
    });
    served.signal("TERM");
    let answer = under_way.join().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.describe());
    assert_eq!(served.ended(), 0, "{}", served.log());
    assert!(!fs::exists(realm.file("exchange.sock")).unwrap());
}

#[test]
fn sigterm_does_not_wait_for_connections_without_a_request() {
    let realm = Realm::prepared();
    let grpc = free_ports(1)[0];
    let listen = format!("listen_grpc: ['127.0.0.1:{grpc}']\n");
    let mut served = Served::start(&realm, &listen, "");
    let connect = |port| TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _silent = [grpc, served.exchange.port()].map(connect);
    let mut half = connect(grpc);
    half.write_all(b"PRI * HTTP").unwrap();
    served.expect_exchanged(&key(&realm).0);
    served.signal("TERM");
    assert_eq!(served.ended(), 0, "{}", served.log());
    let log = served.log();
    assert!(!log.contains("ended with requests under way"), "{log}");
}

#[test]
fn a_socket_that_cannot_be_made_ends_the_service_with_the_reason() {
    let realm = Realm::prepared();
    fs::write(realm.file("exchange.sock"), "a file").unwrap();
    let mut served = Served::begin(&realm, "", "");
    assert_eq!(served.ended(), 1);
    let log = served.log();
    assert!(
        log.contains("exchange.sock: a file that is no socket is there"),
        "{log}"
    );
    assert_eq!(
        fs::read_to_string(realm.file("exchange.sock")).unwrap(),
        "a file"
    );
    fs::remove_file(realm.file("exchange.sock")).unwrap();
    let other = UnixListener::bind(realm.file("exchange.sock")).unwrap();
    let mut served = Served::begin(&realm, "", "");
    assert_eq!(served.ended(), 1);
    assert!(served.log().contains("another process listens there"));
    drop(other);
    // Now the socket's process is gone, so the service replaces the socket.
    Served::start(&realm, "", "");
}

#[test]
fn an_address_that_other_machines_may_reach_is_told_of_and_one_that_is_not_ours_ends_the_service() {
    let realm = Realm::prepared();
    // For documents alone (RFC 5737): no machine has it, so nothing is opened to the network.
    let address = format!("192.0.2.1:{}", free_ports(1)[0]);
    let expect_warning = |more: &str, shell: &str| {
        let mut served = Served::begin(&realm, more, shell);
        assert_eq!(served.ended(), 1);
        let log = served.log();
        let warning = "is not a loopback address: each caller that reaches it gets tokens";
        assert!(log.contains(&format!("{address} {warning}")), "{log}");
        assert_eq!(log.matches(warning).count(), 1, "{log}");
        let cannot = format!("cannot listen at {address}");
        assert!(log.contains(&cannot), "{log}");
    };
    expect_warning(&format!("listen_grpc: ['{address}']\n"), "");
    let change = format!("s/^(listen_management:).*/\\1 ['{address}']/");
    expect_warning("", &format!("sed -i -E \"{change}\" \"$1\";"));
}

#[test]
fn a_keycloak_address_that_is_dead_costs_no_request_as_long_as_another_answers() {
    let realm = Realm::prepared();
    let dead = free_ports(1)[0];
    let addresses = json!([format!("http://127.0.0.1:{dead}"), keycloak_url()]);
    let served = Served::start(&realm, &format!("keycloak_addresses: {addresses}\n"), "");
    for _ in 0..4 {
        let (key, _) = key(&realm);
        served.expect_exchanged(&key);
    }
}

#[test]
fn without_keycloak_nothing_is_let_through_and_the_service_waits_for_it() {
    let realm = Realm::prepared();
    let dead = free_ports(1)[0];
    let address = format!("keycloak_addresses: ['http://127.0.0.1:{dead}']\n");
    let served = Served::begin(&realm, &address, "");
    until("the service lives", PATIENCE, || {
        let status = served.probe("/livez");
        (status == Some(200)).then_some(()).ok_or(served.log())
    });
    let (key, _) = key(&realm);
    let answer = served.ask(&key);
    assert_eq!(answer.status, 503, "{}", answer.describe());
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(answer.header("authorization"), None);
    assert_eq!(served.probe("/readyz"), Some(503));
}
