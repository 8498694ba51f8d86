//! The rules that every scenario must keep, judged when its gateway is dropped.
//!
//! The numbers are those of the invariants in ARCHITECTURE.md. Each check compares the
//! traffic between filter and host with the truth that the scenario was made from; no check
//! asks the filter.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use apikeys_core::exchange::identity::is_identity;

use super::abi::{Pairs, value_of};
use super::gateway::{Gateway, Outcome, Request};
use super::host::{LocalResponse, OUTSIDE};
use super::keycloak_adapter::claims;
use super::keys::{INDEX_KEY, SCALAR, SIGNING_KEY, id_of};
use super::node::Profile;
use super::sweep::{Finding, Sweeper};

/// With more requests than this, the sweep looks for some of the keys: all would take
/// minutes, and prove no more.
const SWEPT_MAX: usize = 1000;

/// The least number of zeros at the deepest end of a stack: then a wipe went that deep, and
/// no callback.
const WIPED_MIN: usize = 2048;

/// The prefix of every key in the scenarios.
const PREFIX: &[u8] = b"sk_live_";

pub fn judge(gateway: &mut Gateway) {
    let requests = std::mem::take(&mut gateway.requests);
    for (index, request) in requests.iter().enumerate() {
        let Some(outcome) = &request.outcome else {
            panic!("7: request {index} was never answered");
        };
        assert_eq!(request.ends, 1, "7: request {index} ended so many times");
        assert!(
            request.in_flight_max <= callouts_max(gateway, request),
            "request {index} had {} callouts at once",
            request.in_flight_max
        );
        match outcome {
            Outcome::Forwarded(_) if gateway.manages(request.route) => {
                panic!("6: request {index} of the management API went on to a service");
            }
            Outcome::Forwarded(headers) => judge_forwarded(gateway, request, headers),
            Outcome::Answered(answer) => {
                judge_answered(answer, gateway.manages(request.route));
            }
            Outcome::LetGo(headers, body) => {
                assert!(gateway.allowed.traps, "10: request {index} was let go");
                judge_let_go(gateway, request, headers, body);
            }
            Outcome::Crashed(why) => {
                assert!(gateway.allowed.traps, "10: request {index} trapped: {why}");
            }
            Outcome::HungUp => {}
        }
    }
    judge_machines(gateway);
    sweep(gateway, &requests);
    sweep_memory(gateway, &requests);
}

/// When all requests are over, a machine holds none of their secrets in any part of its
/// memory: freed memory is wiped, and so is the stack.
fn sweep_memory(gateway: &mut Gateway, requests: &[Request]) {
    let mut sweeper = secrets_brought(gateway, requests, true);
    for assertion in &gateway.keycloaks.borrow().traffic.assertions {
        add_jwt(&mut sweeper, "an assertion", assertion);
    }
    for token in &gateway.keycloaks.borrow().traffic.caller_tokens {
        add_jwt(&mut sweeper, "a caller's token", token);
    }
    sweeper.add("the index key", INDEX_KEY.as_bytes());
    // On Envoy it stays in the variables that WASI gave the machine. Values made from it,
    // here and there, are in use.
    if gateway.profile() == Profile::Kong {
        sweeper.add("the signing key's PEM", SIGNING_KEY.as_bytes());
    }
    let mut found = Vec::new();
    // A trap leaves everything as it is, in a machine that never runs again.
    for vm in gateway.vms().filter(|vm| vm.trapped.is_none()) {
        found.extend(sweeper.sweep("a machine's memory", vm.memory()));
    }
    report(&found);
    for vm in gateway.vms().filter(|vm| vm.trapped.is_none()) {
        let used = vm.used_stack();
        let wiped = used.iter().take_while(|byte| **byte == 0).count();
        assert!(
            used.is_empty() || wiped >= WIPED_MIN,
            "5: of {} bytes of the stack that were used the lowest are not wiped",
            used.len()
        );
    }
}

/// One at a time, since Kong's older releases crash on more. On Envoy a management request
/// waits for a turn and for its body at the same time.
fn callouts_max(gateway: &Gateway, request: &Request) -> usize {
    match gateway.profile() == Profile::Envoy && gateway.manages(request.route) {
        true => 2,
        false => 1,
    }
}

/// 1, 2, 6.
fn judge_forwarded(gateway: &Gateway, request: &Request, headers: &Pairs) {
    let holds_key = |value: &[u8]| value.windows(PREFIX.len()).any(|part| part == PREFIX);
    let leaks = headers.iter().any(|(_, value)| holds_key(value));
    assert!(
        !leaks || gateway.allowed.keys_upstream,
        "6: a key was forwarded"
    );
    judge_claims(gateway, request, headers);
    let keys = keys_of(&request.sent);
    if unclaimed(headers) == unclaimed(&request.sent) {
        // Untouched: it had no key, or the scenario allows a key to pass.
        assert!(
            keys.is_empty() || gateway.allowed.keys_upstream,
            "4: a request with a key passed untouched"
        );
        return;
    }
    assert_eq!(keys.len(), 1, "1: which key was exchanged?");
    let bearer = value_of(headers, "authorization").expect("a token");
    let bearer = std::str::from_utf8(bearer).unwrap();
    let claims = claims(bearer.strip_prefix("Bearer ").unwrap());
    let owner = gateway.truth.owner(request.route, id_of(&keys[0]));
    let (owner, key_ends_at) = owner.expect("1: a key that nobody owns was exchanged");
    assert_eq!(claims["sub"], **owner, "1: the token of another owner");
    let issuer = gateway.truth.issuer(request.route);
    assert_eq!(claims["iss"], *issuer, "1: the token of another realm");
    let now = request.ended_at.unwrap();
    let exp = claims["exp"].as_u64().unwrap();
    assert!(exp > now.as_seconds(), "2: the token had ended");
    assert!(*key_ends_at > now, "2: the key had ended");
}

/// 14: no client claims to be a key. Kong's proxy sends an empty header where one was taken out
/// (K2).
fn judge_claims(gateway: &Gateway, request: &Request, headers: &Pairs) {
    let claims = |pairs: &Pairs| {
        let claims = pairs.iter().filter(|(name, _)| names_a_key(name));
        claims.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let claimed = claims(&request.sent);
    for value in claims(headers) {
        let emptied = value.is_empty() && gateway.profile() == Profile::Kong;
        assert!(
            emptied || !claimed.contains(&value),
            "14: a client's claim went on to the service"
        );
    }
}

fn names_a_key(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(is_identity)
}

/// The headers in order, but for those that name a key.
fn unclaimed(pairs: &Pairs) -> Pairs {
    let mut pairs = pairs.clone();
    pairs.retain(|(name, _)| !names_a_key(name));
    pairs.sort();
    pairs
}

/// 6: a request that the host lets go by mistake has neither key nor token, except the
/// token that the exchange had just given it.
fn judge_let_go(gateway: &Gateway, request: &Request, headers: &Pairs, body: &[u8]) {
    let holds_key = |value: &[u8]| value.windows(PREFIX.len()).any(|part| part == PREFIX);
    let leaks = headers.iter().any(|(_, value)| holds_key(value)) || holds_key(body);
    assert!(!leaks, "6: a request that was let go holds a key");
    judge_claims(gateway, request, headers);
    if value_of(headers, "authorization").is_some_and(|value| !value.is_empty()) {
        assert!(
            !gateway.manages(request.route),
            "6: a request that was let go holds a caller's token"
        );
        judge_forwarded(gateway, request, headers);
    }
}

/// The filter's own answers are refusals, except those of the management API.
fn judge_answered(answer: &LocalResponse, manages: bool) {
    let status = answer.status;
    assert!(
        status == 204 || !answer.body.is_empty(),
        "7: the body of an answer is lost"
    );
    let known: &[u32] = match manages {
        false => &[400, 401, 403, 429, 503],
        true => &[
            200, 201, 204, 400, 401, 403, 404, 405, 409, 411, 413, 415, 503,
        ],
    };
    assert!(known.contains(&status), "a status {status}");
}

/// 10, and 8: a callback that takes too long is a trap.
fn judge_machines(gateway: &mut Gateway) {
    if gateway.profile() == Profile::Kong {
        let used = gateway.node.borrow().shared_in_root_answers;
        assert_eq!(used, 0, "10: a root context's answer can trap on Kong");
    }
    let traps = gateway.allowed.traps;
    for vm in gateway.vms() {
        assert!(traps || vm.trapped.is_none(), "10: {:?}", vm.trapped);
    }
}

/// 5.
fn sweep(gateway: &Gateway, requests: &[Request]) {
    let sealed = secrets_at_rest(gateway, requests, true);
    let unhashed = secrets_at_rest(gateway, requests, false);
    let keycloaks = gateway.keycloaks.borrow();
    let traffic = &keycloaks.traffic;
    let mut all = secrets_at_rest(gateway, requests, true);
    let (mut upstream, mut in_forms) = (Sweeper::default(), Sweeper::default());
    for token in &traffic.owner_tokens {
        add_jwt(&mut all, "an owner's token", token);
        in_forms.add("an owner's token", token.as_bytes());
    }
    for token in &traffic.service_tokens {
        add_jwt(&mut all, "the service token", token);
        upstream.add("the service token", token.as_bytes());
        in_forms.add("the service token", token.as_bytes());
    }
    for token in &traffic.caller_tokens {
        add_jwt(&mut all, "a caller's token", token);
        add_jwt(&mut upstream, "a caller's token", token);
        in_forms.add("a caller's token", token.as_bytes());
    }
    for assertion in &traffic.assertions {
        add_jwt(&mut all, "an assertion", assertion);
        add_jwt(&mut upstream, "an assertion", assertion);
    }
    let mut found = Vec::new();
    let mut look = |sweeper: &Sweeper, place: &str, text: &[u8]| {
        found.extend(sweeper.sweep(place, text));
    };
    let node = gateway.node.borrow();
    for line in &node.logs {
        look(&all, "a log line or panic", line.as_bytes());
        assert!(
            !line.starts_with(OUTSIDE),
            "an error line of Kong's: {line}"
        );
    }
    for metric in &node.metrics {
        look(&all, "a metric's name", metric.name.as_bytes());
    }
    for path in &node.properties_asked {
        look(&all, "a property's name", path);
    }
    for name in &node.shared.names {
        look(&all, "a name in shared data", name);
    }
    for value in &node.shared.values {
        look(&sealed, "a value in shared data", value);
        look(&upstream, "a value in shared data", value);
    }
    for sent in &node.sent {
        look(&all, "an upstream", sent.upstream.as_bytes());
        for (name, value) in &sent.headers {
            if name != b"authorization" {
                look(&all, "a callout's header", value);
            }
            look(&sealed, "a callout's header", value);
        }
        let unwritten = if value_of(&sent.headers, ":method") == Some(b"PUT") {
            // The writes of an owner hold the hashes of its keys.
            &unhashed
        } else {
            &sealed
        };
        look(unwritten, "a callout's body", &sent.body);
        look(&in_forms, "a callout's body", &sent.body);
    }
    for request in requests {
        match &request.outcome {
            Some(Outcome::Answered(answer)) => {
                look(&all, "an answer's body", &told(answer));
                for (name, value) in &answer.headers {
                    look(
                        &all,
                        "an answer's header",
                        &[name.as_slice(), value].concat(),
                    );
                }
            }
            Some(Outcome::Forwarded(headers) | Outcome::LetGo(headers, _))
                if !gateway.allowed.keys_upstream =>
            {
                for (_, value) in headers {
                    look(&sealed, "a header to the service", value);
                    look(&upstream, "a header to the service", value);
                }
            }
            _ => {}
        }
    }
    report(&found);
}

/// An answer without the secrets meant for its client: a key that was just made, a token
/// for one.
fn told(answer: &LocalResponse) -> Vec<u8> {
    let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    match body.as_object_mut() {
        Some(members) if [200, 201].contains(&answer.status) => {
            members.remove("api_key");
            members.remove("access_token");
            body.to_string().into_bytes()
        }
        _ => answer.body.clone(),
    }
}

fn report(found: &[Finding]) {
    assert!(found.is_empty(), "5: {:?}", &found[..found.len().min(10)]);
}

/// Secrets that may be nowhere except at their origin.
fn secrets_at_rest(gateway: &Gateway, requests: &[Request], hashes: bool) -> Sweeper {
    let mut sweeper = secrets_brought(gateway, requests, hashes);
    let der = STANDARD.decode(SIGNING_KEY).unwrap();
    sweeper.add("the signing key's PEM", SIGNING_KEY.as_bytes());
    sweeper.add(
        "a line of the signing key's PEM",
        &SIGNING_KEY.as_bytes()[..64],
    );
    sweeper.add("the signing key's scalar", &der[SCALAR]);
    sweeper.add("the index key", &STANDARD.decode(INDEX_KEY).unwrap());
    sweeper
}

/// The keys that clients sent or received, and the hashes of them in Keycloak.
fn secrets_brought(gateway: &Gateway, requests: &[Request], hashes: bool) -> Sweeper {
    let mut sweeper = Sweeper::default();
    let mut known = std::collections::BTreeSet::new();
    let one_in = requests.len().div_ceil(SWEPT_MAX) | 1;
    for request in requests.iter().step_by(one_in) {
        for key in keys_of(&request.sent).iter().chain(&gateway.made) {
            if key.len() == 59 && known.insert(key.clone()) {
                sweeper.add("an API key", key.as_bytes());
                sweeper.add("the secret of an API key", &key.as_bytes()[21..]);
            }
        }
    }
    for hash in gateway.truth.hashes.iter().filter(|_| hashes) {
        sweeper.add("a stored hash", hash.as_bytes());
        let digest = hash.rsplit('$').next().unwrap();
        sweeper.add(
            "the end of a stored hash",
            &digest.as_bytes()[digest.len() - 31..],
        );
    }
    sweeper
}

fn add_jwt(sweeper: &mut Sweeper, name: &str, jwt: &str) {
    sweeper.add(name, jwt.as_bytes());
    let signature = jwt.rsplit('.').next().unwrap();
    sweeper.add(&format!("the signature of {name}"), signature.as_bytes());
}

/// The keys that a client sent, each once.
fn keys_of(sent: &Pairs) -> Vec<String> {
    let mut keys: Vec<String> = sent
        .iter()
        .flat_map(|(_, value)| {
            let text = String::from_utf8_lossy(value).into_owned();
            text.match_indices("sk_live_")
                .map(|(at, _)| {
                    let key = text[at..].split([' ', ',', ';']).next().unwrap();
                    key.to_owned()
                })
                .collect::<Vec<_>>()
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys
}
