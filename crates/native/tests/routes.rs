//! The state of routes: a panic breaks it, and a new signing key replaces it.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apikeys_core::config::Config;
use apikeys_core::keycloak::{Call, Endpoint};
use apikeys_core::rejection::Rejection;
use apikeys_core::trace::TraceContext;
use apikeys_native::exchange::{Begun, Removal, Verdict, Waiting, begin, judge};
use apikeys_native::{
    Answer, Facts, Host, Keys, Level, Memory, Request, Route, State, clock, management,
};
use serde_json::{Value, json};
use test_kit::keycloak::FakeKeycloak;
use test_kit::keys;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// A made-up Keycloak, and the lines of the audit log.
#[derive(Clone)]
struct MadeUp {
    keycloak: Arc<Mutex<FakeKeycloak>>,
    audited: Arc<Mutex<Vec<String>>>,
    /// A change of an owner takes a permit; without one it waits.
    changes: Arc<Semaphore>,
    /// A change waits, or has waited.
    is_changing: Arc<AtomicBool>,
}

impl MadeUp {
    fn new() -> Self {
        let owners = vec![keys::plain_owner("anna", 1), keys::plain_owner("bert", 2)];
        Self {
            keycloak: Arc::new(Mutex::new(FakeKeycloak::new(owners))),
            audited: Arc::default(),
            changes: Arc::new(Semaphore::new(0)),
            is_changing: Arc::default(),
        }
    }
}

impl Host for MadeUp {
    async fn call(&self, _: &Config, call: &Call, _: Option<&TraceContext>, _: u64) -> Answer {
        if call.endpoint == Endpoint::Change {
            self.is_changing.store(true, Ordering::Relaxed);
            self.changes.acquire().await.unwrap().forget();
        }
        let (status, body) = self.keycloak.lock().unwrap().answer(call, clock::now());
        Answer::Given {
            status,
            body: Some(Zeroizing::new(body)),
        }
    }

    fn log(&self, _: Level, _: &str) {}

    fn audit(&self, _: Level, line: &str) {
        self.audited.lock().unwrap().push(line.to_owned());
    }
}

fn keys_of_both() -> Keys {
    Keys {
        gateway: keys::signing_key(),
        management: keys::signing_key(),
    }
}

fn route(host: &MadeUp, memory: &Arc<Memory>, changes: &Value) -> Arc<Route<MadeUp>> {
    let config = keys::config(changes);
    let state = State::new(&config, keys_of_both(), memory);
    Route::new("a", &config, state, &Arc::default(), host.clone())
}

/// A request with the key of this number.
fn request(number: u8) -> Request {
    let key = format!("ApiKey {}", keys::key(number));
    let headers = [(":method", "GET"), ("authorization", &key)];
    Request {
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .into(),
        facts: Facts::default(),
    }
}

/// Begins the exchange of a key that no cache knows.
fn waiting(route: &Arc<Route<MadeUp>>, number: u8) -> Waiting<MadeUp> {
    match begin(
        route,
        &request(number).headers,
        Removal::Listed,
        &Facts::default,
    ) {
        Begun::Waits(waiting) => waiting,
        Begun::Ended(ended) => panic!("it does not wait: {:?}", ended.verdict),
    }
}

fn panic_within_a_step(route: &Route<MadeUp>) {
    let step = || {
        route
            .state()
            .with_env(&|| None, |_, _, _| panic!("on purpose"))
    };
    catch_unwind(AssertUnwindSafe(step)).unwrap_err();
}

#[tokio::test]
async fn after_a_panic_each_request_is_refused_until_there_is_a_new_state() {
    let route = route(&MadeUp::new(), &Arc::default(), &Value::Null);
    let mut served = judge(&route, &request(1), Removal::Listed).await;
    assert!(matches!(served.verdict, Verdict::Exchanged { .. }));
    let (goes_on, goes_away) = (waiting(&route, 2), waiting(&route, 2));
    panic_within_a_step(&route);
    let broken = route.state();

    let warm = judge(&route, &request(1), Removal::Listed).await;
    for refused in [warm, goes_on.finish().await] {
        match refused.verdict {
            Verdict::Refused { rejection, .. } => {
                assert_eq!(rejection, Rejection::IdentityProviderUnavailable);
            }
            other => panic!("it is not refused: {other:?}"),
        }
        let lines = route.host.audited.lock().unwrap();
        let last = lines.last().unwrap();
        assert!(
            last.contains("the state of the exchange is broken"),
            "{last}"
        );
    }
    // The end of an exchange gives nothing back to a broken state.
    drop(goes_away);
    assert_eq!(broken.lock().worker.sizes().pending, 2);
    served.token_refused(|| panic!("nothing is dropped"));

    let memory: Arc<Memory> = Arc::default();
    route.begin_anew(keys_of_both(), &memory);
    for number in [1, 2] {
        let served = judge(&route, &request(number), Removal::Listed).await;
        assert!(matches!(served.verdict, Verdict::Exchanged { .. }));
    }
}

#[tokio::test]
async fn a_key_that_ended_while_the_signing_key_changed_is_refused_after_the_answer() {
    let (host, memory) = (MadeUp::new(), Arc::default());
    let exchange = route(&host, &memory, &Value::Null);
    let manages = json!({ "mode": "manage", "audience": "key-api", "bcrypt_cost": 4 });
    let management = route(&host, &memory, &manages);

    let body = json!({ "api_key": keys::key(1) }).to_string().into_bytes();
    let length = body.len().to_string().into_bytes();
    let asked = Request {
        headers: vec![
            ("content-type".to_owned(), b"application/json".to_vec()),
            ("content-length".to_owned(), length),
        ],
        facts: Facts {
            source: Some("192.0.2.1".to_owned()),
            route: None,
        },
    };
    let ends_key = management::answer(
        Arc::clone(&management),
        &asked,
        "POST",
        "/api/v1/api-keys/revoke",
        Some(async { Some(Zeroizing::new(body)) }),
    );
    let key_changes = async {
        while !host.is_changing.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        Route::renew([&exchange, &management], |_| keys_of_both());
        let served = judge(&exchange, &request(1), Removal::Listed).await;
        assert!(matches!(served.verdict, Verdict::Exchanged { .. }));
        host.changes.add_permits(9);
    };
    let both = async { tokio::join!(ends_key, key_changes) };
    let both = tokio::time::timeout(Duration::from_secs(30), both).await;
    let (answered, ()) = both.unwrap();
    assert_eq!(answered.status, 204);
    exchange.state().with_env(&|| None, |env, _, _| {
        env.worker.tick(env.now, env.store);
    });
    let refused = judge(&exchange, &request(1), Removal::Listed).await;
    match refused.verdict {
        Verdict::Refused { rejection, .. } => assert_eq!(rejection, Rejection::InvalidApiKey),
        other => panic!("it is not refused: {other:?}"),
    }
}
