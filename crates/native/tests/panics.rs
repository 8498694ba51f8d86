//! A panic within a step leaves the state half changed: no request uses it any more.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use apikeys_core::config::Config;
use apikeys_core::keycloak::Call;
use apikeys_core::rejection::Rejection;
use apikeys_core::trace::TraceContext;
use apikeys_native::exchange::{Begun, Removal, Verdict, Waiting, begin, judge};
use apikeys_native::{Answer, Facts, Host, Keys, Level, Memory, Request, Route, State, clock};
use serde_json::json;
use test_kit::keycloak::FakeKeycloak;
use test_kit::keys;
use zeroize::Zeroizing;

/// A made-up Keycloak, and the lines of the audit log.
struct MadeUp {
    keycloak: Mutex<FakeKeycloak>,
    audited: Mutex<Vec<String>>,
}

impl Host for MadeUp {
    async fn call(&self, _: &Config, call: &Call, _: Option<&TraceContext>, _: u64) -> Answer {
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

fn route() -> Arc<Route<MadeUp>> {
    let config = keys::config(&json!({}));
    let state = State::new(&config, keys_of_both(), &Arc::default());
    let owners = vec![keys::plain_owner("anna", 1), keys::plain_owner("bert", 2)];
    let host = MadeUp {
        keycloak: Mutex::new(FakeKeycloak::new(owners)),
        audited: Mutex::default(),
    };
    Route::new("exchange", &config, state, &Arc::default(), host)
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
    let route = route();
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
