//! Keys that are not warm: a refresh, a first use, and the delay that first uses cause to the
//! warm requests of the same worker.

use std::thread;
use std::time::{Duration, Instant};

use apikeys_core::api_key::hash::ROUNDS_PER_SLICE;
use serde_json::json;

use crate::bare::Bare;
use crate::bench::Bench;
use crate::client::{Connection, Request};
use crate::load::open;
use crate::owner::{Key, Owner, Record};
use crate::rates::ratios;
use crate::report::{Report, median};
use crate::targets::{Filter, Targets};
use crate::wait;

const STARTS: usize = 5;
const REFRESHED_KEYS: usize = 10;
/// Now and then a call takes Keycloak twice as long: five rounds gave 1.06 to 1.17.
const REFRESHES: usize = 12;
const FIRST_USES: usize = 20;
/// First uses in a round of the longest turn. The quietest round counts: verification holds
/// the worker in every round, other work of the machine only in some.
const FIRST_USES_A_ROUND: usize = 4;
/// The bcrypt cost of keys that are used for the first time: the default of `apikeys create`.
const COST: u32 = 10;
pub(crate) const STALL_ROUNDS: usize = 5;
const STALL: Duration = Duration::from_secs(8);
/// The duration of warm requests without first uses.
const ALONE: Duration = Duration::from_secs(4);
/// The time in which a new Envoy compiles its hot code.
const WARM_UP: Duration = Duration::from_secs(3);
const COLD_KEYS: usize = 50;
/// The most tries for one of them.
const TRIES: u32 = 30;
/// For warm requests; some wait while a slice is computed.
const CONNECTIONS: u32 = 32;
/// Warm requests a second beside them: at most a quarter of a worker's capacity.
const WARM_PER_SECOND: f64 = 1000.0;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    start(bench, report);
    // One second in the cache, so that each later use is a refresh.
    let short = Filter::Exchange(vec![("cache_ttl_seconds", json!(1))]);
    let targets = Targets::start(
        bench,
        &[("exchange", Filter::Exchange(vec![])), ("short", short)],
    );
    let mut bare = Bare::new(bench);
    refresh(bench, &targets, &mut bare, report);
    first_use(bench, &targets, &mut bare, report);
    drop(targets);
    slices(bench, report);
    stall(bench, report);
}

/// The time until Envoy serves, and until it has served a first request.
fn start(bench: &Bench, report: &mut Report) {
    let (mut noop, mut ours, mut first) = (vec![], vec![], vec![]);
    for _ in 0..STARTS {
        let targets = Targets::start(bench, &[("noop", Filter::Noop)]);
        noop.push(ready_after(&targets));
        let targets = Targets::start(bench, &[("exchange", Filter::Exchange(vec![]))]);
        ours.push(ready_after(&targets));
        let answer = targets.target("exchange").orders(&bench.key);
        assert_eq!(answer.status, 200, "{}", answer.describe());
        first.push(answer.took.as_secs_f64() * 1000.0);
    }
    report.fact("startup_noop_ms", &noop);
    report.row("startup_ms", &ours);
    report.fact("first_request_ms", &first);
}

/// Envoy's own figure for its start, in milliseconds.
pub(crate) fn ready_after(targets: &Targets) -> f64 {
    let look = || {
        let stats = targets
            .gateway
            .admin("/stats/prometheus?filter=initialization_time");
        let sum = stats
            .lines()
            .find_map(|line| line.strip_prefix("envoy_server_initialization_time_ms_sum{} "))
            .and_then(|value| value.trim().parse::<f64>().ok());
        sum.filter(|sum| *sum > 0.0).ok_or(stats)
    };
    wait::until("the time of its start", Duration::from_secs(10), look)
}

/// Several keys of one owner, written by one call.
struct Owned<'a> {
    owner: Owner<'a>,
    keys: Vec<Key>,
}

impl<'a> Owned<'a> {
    fn new(bench: &'a Bench, count: usize, record: impl Fn(&Key) -> Record) -> Self {
        let keys: Vec<Key> = (0..count).map(|_| Key::random()).collect();
        let records: Vec<Record> = keys.iter().map(record).collect();
        Self {
            owner: Owner::with(&bench.admin, &records),
            keys,
        }
    }
}

pub(crate) fn bcrypt_record(key: &Key) -> Record {
    Record::bcrypt(key, "2b", COST)
}

/// Some keys in turn, each after its second in the cache, and the same two calls without a
/// gateway right before or after.
fn refresh(bench: &Bench, targets: &Targets, bare: &mut Bare, report: &mut Report) {
    let mut gateway = targets.target("short").connect();
    let (ours, calls, ratios) = refreshes(bench, bare, |key| ask(&mut gateway, key));
    let name = "wasmcustom.apikey_exchanges_total.source.refresh";
    wait::until("the refreshes", Duration::from_secs(10), || {
        let seen = targets.counter(name);
        (seen == ours.len() as f64)
            .then_some(())
            .ok_or(format!("{seen} refreshes"))
    });
    report.fact("refresh_ms", &ours);
    report.fact("bare_calls_ms", &calls);
    report.row("refresh_vs_roundtrips", &ratios);
}

/// Milliseconds of refreshes and of their bare calls, and the ratio of each round. `ask` exchanges a
/// key where a token is kept for a second.
pub(crate) fn refreshes(
    bench: &Bench,
    bare: &mut Bare,
    mut ask: impl FnMut(&str) -> f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let owned = Owned::new(bench, REFRESHED_KEYS, Record::sha256);
    let (mut ours, mut calls, mut ratios) = (vec![], vec![], vec![]);
    for round in 0..=REFRESHES {
        let (mut refreshed, mut made) = (vec![], vec![]);
        for (number, key) in owned.keys.iter().enumerate() {
            let mut call = || made.push(bare.exchange(&key.id, &owned.owner.id).iter().sum());
            // The second of the two reads data that Keycloak has just read.
            let bare_first = (round + number) % 2 == 1;
            if bare_first {
                call();
            }
            refreshed.push(ask(&key.text));
            if !bare_first {
                call();
            }
        }
        // Round 0 is their first use.
        if round > 0 {
            ratios.push(median(&refreshed) / median(&made));
            ours.append(&mut refreshed);
            calls.append(&mut made);
        }
        // All cached tokens end within this time.
        thread::sleep(Duration::from_millis(1050));
    }
    owned.owner.delete();
    (ours, calls, ratios)
}

/// Milliseconds of a served request.
pub(crate) fn ask(gateway: &mut Connection, key: &str) -> f64 {
    let answer = gateway.send(&Request::orders().api_key(key));
    assert_eq!(answer.status, 200, "{}", answer.describe());
    answer.took.as_secs_f64() * 1000.0
}

/// Sends a request again for as long as the gateway tells it to come again. Gives the number of these
/// answers.
fn ask_until_served(gateway: &mut Connection, key: &str) -> u32 {
    for refused in 0..TRIES {
        let answer = gateway.send(&Request::orders().api_key(key));
        if answer.status == 200 {
            return refused;
        }
        let again = answer
            .header("retry-after")
            .and_then(|text| text.parse().ok());
        let again = again.filter(|_| answer.status == 503);
        let seconds = again.unwrap_or_else(|| panic!("{}", answer.describe()));
        thread::sleep(Duration::from_secs(seconds));
    }
    panic!("the gateway tells a client to come again {TRIES} times");
}

/// A new key each time; beside it bcrypt in a native program, and the two calls.
fn first_use(bench: &Bench, targets: &Targets, bare: &mut Bare, report: &mut Report) {
    let mut gateway = targets.target("exchange").connect();
    // Gets the gateway's own token first.
    ask(&mut gateway, &bench.key);
    let (ours, native, ratios) = first_uses(bench, bare, |key| ask(&mut gateway, key));
    report.fact("first_use_ms", &ours);
    report.fact("native_bcrypt_ms", &native);
    report.row("first_use_vs_native_bcrypt", &ratios);
}

/// Milliseconds of first uses and of native bcrypt, and the ratio of each to bcrypt and its bare calls.
pub(crate) fn first_uses(
    bench: &Bench,
    bare: &mut Bare,
    mut ask: impl FnMut(&str) -> f64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let owned = Owned::new(bench, FIRST_USES, bcrypt_record);
    let (mut ours, mut native, mut ratios) = (vec![], vec![], vec![]);
    for key in &owned.keys {
        let took = ask(&key.text);
        let began = Instant::now();
        let hash = bcrypt::hash_with_salt(&key.text, COST, [7; 16]);
        let hashed = began.elapsed().as_secs_f64() * 1000.0;
        assert!(hash.is_ok(), "bcrypt");
        let calls: f64 = bare.exchange(&key.id, &owned.owner.id).iter().sum();
        ours.push(took);
        native.push(hashed);
        ratios.push(took / (hashed + calls));
    }
    owned.owner.delete();
    (ours, native, ratios)
}

/// The longest turn of a worker's loop while it verifies keys and does nothing else, as Envoy
/// measured it: a slice, and the rest of that turn.
fn slices(bench: &Bench, report: &mut Report) {
    let owned = Owned::new(bench, FIRST_USES, bcrypt_record);
    let targets = Targets::start(bench, &[("exchange", Filter::Exchange(vec![]))]);
    let mut gateway = targets.target("exchange").connect();
    // The worker's own start is not a slice.
    ask(&mut gateway, &bench.key);
    let (mut longest, mut most, mut computed) = (vec![], vec![], vec![]);
    let slices = (1_usize << COST).div_ceil(ROUNDS_PER_SLICE as usize);
    // Asked one by one: the time between two readings is so short that the machine takes the
    // core away in few of them.
    for round in owned.keys.chunks(FIRST_USES_A_ROUND) {
        let mut turns = Vec::new();
        for key in round {
            targets.turns_ms(["P100"]);
            let before = targets.processor_seconds();
            ask(&mut gateway, &key.text);
            let spent = targets.processor_seconds() - before;
            let slice = spent * 1000.0 / slices as f64;
            computed.push(slice);
            let [p99, p100] = targets.turns_ms(["P99", "P100"]);
            // Otherwise Envoy has not yet shown the turns of this computation.
            if p100 >= slice {
                turns.push((p100, p99));
            }
        }
        let quietest = turns
            .into_iter()
            .min_by(|one, other| one.0.total_cmp(&other.0));
        if let Some((p100, p99)) = quietest {
            longest.push(p100);
            most.push(p99);
        }
    }
    report.fact("slice_processor_ms", &computed);
    report.fact("slice_turn_p99_ms", &most);
    report.row("slice_max_ms", &longest);
    owned.owner.delete();
}

fn stall(bench: &Bench, report: &mut Report) {
    let filter = Filter::Exchange(vec![]);
    let stalls = Stalls::measure(bench, &filter, bcrypt_record, STALL_ROUNDS, |_| {});
    report.fact("stall_alone_p99_us", &stalls.alone_us);
    report.fact("stall_beside_p99_us", &stalls.beside_us);
    report.fact("stall_cold_keys_s", &stalls.cold_keys_s);
    report.fact("stall_refused", &stalls.refused);
    report.row("stall_p99_ratio", &stalls.ratios());
}

/// Warm requests alone, and while new keys are verified in the same gateway, all at once: the 99th
/// percentile of each round, and the time until the last new key had its answer.
#[derive(Default)]
pub(crate) struct Stalls {
    pub(crate) alone_us: Vec<f64>,
    pub(crate) beside_us: Vec<f64>,
    pub(crate) cold_keys_s: Vec<f64>,
    /// Answers that told a client to come again.
    pub(crate) refused: Vec<f64>,
}

impl Stalls {
    /// `record` hashes the new keys; `place` gives the threads of each Envoy their places, by its process.
    pub(crate) fn measure(
        bench: &Bench,
        filter: &Filter,
        record: fn(&Key) -> Record,
        rounds: usize,
        place: impl Fn(&str),
    ) -> Self {
        let mut stalls = Self::default();
        for _ in 0..rounds {
            let owned = Owned::new(bench, COLD_KEYS + 1, record);
            let (first, cold_keys) = owned.keys.split_first().expect("keys");
            let targets = Targets::start(bench, &[("exchange", filter.clone())]);
            let target = targets.target("exchange");
            ask(&mut target.connect(), &bench.key);
            // The module starts its threads for bcrypt with the first one.
            ask(&mut target.connect(), &first.text);
            place(&targets.gateway.pid());
            let port = targets.port("exchange");
            open(port, WARM_PER_SECOND, CONNECTIONS, WARM_UP);
            let quiet = open(port, WARM_PER_SECOND, CONNECTIONS, ALONE);
            let (crowded, cold) = thread::scope(|scope| {
                let warm = scope.spawn(|| open(port, WARM_PER_SECOND, CONNECTIONS, STALL));
                targets.wait_for_requests();
                let began = Instant::now();
                let cold = cold_keys.iter().map(|key| {
                    let mut gateway = target.connect();
                    scope.spawn(move || ask_until_served(&mut gateway, &key.text))
                });
                let cold: Vec<_> = cold.collect();
                let refused = cold.into_iter().map(|one| one.join().expect("an answer"));
                let refused: u32 = refused.sum();
                let cold = (began.elapsed().as_secs_f64(), f64::from(refused));
                (warm.join().expect("figures"), cold)
            });
            stalls.alone_us.push(quiet.p99);
            stalls.beside_us.push(crowded.p99);
            stalls.cold_keys_s.push(cold.0);
            stalls.refused.push(cold.1);
            owned.owner.delete();
        }
        stalls
    }

    pub(crate) fn ratios(&self) -> Vec<f64> {
        ratios(&self.beside_us, &self.alone_us)
    }
}
