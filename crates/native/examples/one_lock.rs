//! Warm requests of one route by several threads at once, which share the locks of its state and metrics: the
//! number of a gateway's workers at which a lock would hold them up.
//!
//! ```text
//! cargo run --release --locked --package apikeys-native --example one_lock
//! ```

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it reads the clock, prints, and fails by panicking"
)]

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use apikeys_core::config::Config;
use apikeys_core::keycloak::Call;
use apikeys_core::trace::TraceContext;
use apikeys_native::exchange::{Begun, Removal, Verdict, begin, judge};
use apikeys_native::{
    Answer, Facts, Host, Keys, Level, Memory, Request, Route, Shared, State, clock,
};
use serde_json::json;
use test_kit::keycloak::FakeKeycloak;
use test_kit::keys;
use zeroize::Zeroizing;

const ROUNDS: usize = 9;
const TURN: Duration = Duration::from_millis(300);

/// A made-up Keycloak, and no log.
struct MadeUp(Mutex<FakeKeycloak>);

impl Host for MadeUp {
    async fn call(&self, _: &Config, call: &Call, _: Option<&TraceContext>, _: u64) -> Answer {
        let (status, body) = self.0.lock().unwrap().answer(call, clock::now());
        Answer::Given {
            status,
            body: Some(Zeroizing::new(body)),
        }
    }

    fn log(&self, _: Level, _: &str) {}

    fn audit(&self, _: Level, _: &str) {}
}

/// The headers that Envoy shows of a request of wrk.
fn headers() -> Vec<(&'static str, String)> {
    let key = format!("ApiKey {}", keys::key(1));
    [
        (":authority", "gateway.example.com"),
        (":path", "/orders"),
        (":method", "GET"),
        (":scheme", "http"),
        ("authorization", &key),
        ("accept", "*/*"),
        ("user-agent", "wrk"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-envoy-external-address", "127.0.0.1"),
        ("x-request-id", "11111111-2222-4333-8444-555555555555"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

/// Requests, or parts of one, in a second, by so many threads together.
fn per_second(threads: usize, act: &(impl Fn() + Sync)) -> f64 {
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..100 {
                        act();
                    }
                    count += 100;
                }
                done.fetch_add(count, Ordering::Relaxed);
            });
        }
        thread::sleep(TURN);
        stop.store(true, Ordering::Relaxed);
    });
    #[expect(clippy::cast_precision_loss, reason = "less than 2^53")]
    let done = done.into_inner() as f64;
    done / began.elapsed().as_secs_f64()
}

fn main() {
    let config = keys::config(&json!({"cache_ttl_seconds": 3600}));
    let mut keycloak = FakeKeycloak::new(vec![keys::plain_owner("anna", 1)]);
    keycloak.token_life_seconds = 86_400;
    let signing_key = keys::signing_key();
    let signing_keys = Keys {
        gateway: Arc::clone(&signing_key),
        management: signing_key,
    };
    let memory: Arc<Memory> = Arc::default();
    let state = State::new(&config, signing_keys, &memory);
    let shared: Arc<Shared> = Arc::default();
    let host = MadeUp(Mutex::new(keycloak));
    let route = Route::new("exchange", &config, state, &shared, host);
    let headers = headers();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let request = Request {
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect(),
        facts: Facts::default(),
    };
    let first = judge(&route, &request, Removal::Listed);
    let first = runtime.expect("a runtime").block_on(first).verdict;
    assert!(matches!(first, Verdict::Exchanged { .. }), "{first:?}");

    let warm = || {
        let begun = begin(&route, &headers, Removal::Listed, &Facts::default);
        assert!(matches!(begun, Begun::Ended(_)), "it waits");
    };
    let locks = || {
        route
            .state()
            .with_env(&|| None, |env, _, _| black_box(env.now));
        route.shared.count(|metrics| {
            black_box(metrics);
        });
    };
    let acts: [(&str, &(dyn Fn() + Sync)); 2] = [
        ("a warm request", &warm),
        ("its locks and the time alone", &locks),
    ];
    let counts = [1, 2, 4];
    let mut rates = acts.map(|_| counts.map(|_| Vec::new()));
    for _ in 0..ROUNDS {
        for ((_, act), rates) in acts.iter().zip(&mut rates) {
            for (threads, rates) in counts.into_iter().zip(rates) {
                rates.push(per_second(threads, &|| act()));
            }
        }
    }
    println!("cores: {}", apikeys_native::threads());
    for ((what, _), rates) in acts.iter().zip(&mut rates) {
        for (threads, rates) in counts.into_iter().zip(rates) {
            rates.sort_by(f64::total_cmp);
            let median = rates[ROUNDS / 2];
            println!(
                "{what}, {threads} threads: {median:.0} a second, {:.3} us of each thread",
                1e6 * f64::from(u32::try_from(threads).unwrap()) / median
            );
        }
    }
}
