//! The limits of a deployment: the cost of a refresh, to Keycloak and to a worker, is
//! measured here. The rest is computed ([`crate::capacity_model`]).

use serde_json::json;

use crate::bench::Bench;
use crate::capacity_model::{Deployment, Machine};
use crate::load::{Keys, Order, Until, closed};
use crate::owner::{Key, Owner, Record};
use crate::report::{Curve, Report, median};
use crate::targets::{Filter, Targets};
use crate::traffic::Usage;
use crate::virtual_node::L1_ENTRIES;

/// Enough owners that no key is used twice within the TTL of a second, at nearly the full
/// rate.
const OWNERS: usize = 80;
const KEYS_EACH: usize = 5;
const ROUNDS: usize = 3;
const SECONDS: u32 = 5;
/// Enough to keep Keycloak busy all the time.
const CONNECTIONS: u32 = 24;
/// Requests that wrk breaks off at its end count as failures of this address, and only a few of
/// them are allowed.
const FIRST_CONNECTIONS: u32 = 8;
/// Keys that are verified one after the other.
const BCRYPT_KEYS: usize = 20;
const BCRYPT_COST: u32 = 10;

/// The deployment of the reported limits: each key is used once in ten seconds.
const EXAMPLE: Deployment = Deployment {
    usage: Usage {
        keys: 1000,
        requests_per_second: 100.0,
        exponent: 0.0,
    },
    nodes: 2,
    workers: 2,
    ttl_seconds: 300.0,
    workers_share: true,
    renews_ahead: true,
    call_seconds: 0.0,
};
/// The length of a token with a few roles; `docs/sizing.md` says how to measure a token.
const TOKEN_BYTES: usize = 1500;
const L2_SLOTS: u32 = 4096;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let (machine, call_seconds) = keycloak_capacity(bench, report);
    let example = Deployment {
        call_seconds,
        ..EXAMPLE
    };
    for (what, keys) in example.limits(&machine, L1_ENTRIES, L2_SLOTS) {
        report.fact(&format!("capacity_{what}_keys"), &[keys as f64]);
    }
    grow(&example, &machine, report);
}

/// The capacity of this machine's Keycloak and of one worker, and the seconds of one call.
///
/// A worker's time is the processor time of its whole process: other load on the machine
/// does not change it.
pub(crate) fn keycloak_capacity(bench: &Bench, report: &mut Report) -> (Machine, f64) {
    let targets = Targets::start(
        bench,
        &[
            ("warm", Filter::Exchange(vec![])),
            // Each token has expired before its key is used again.
            (
                "refreshing",
                Filter::Exchange(vec![("cache_ttl_seconds", json!(1))]),
            ),
        ],
    );
    let keys: Vec<Key> = (0..OWNERS * KEYS_EACH).map(|_| Key::random()).collect();
    let records: Vec<Record> = keys.iter().map(Record::sha256).collect();
    let owner = |records: &[Record]| Owner::with(&bench.admin, records);
    let mut owners: Vec<Owner<'_>> = records.chunks(KEYS_EACH).map(owner).collect();
    let all = Keys::new(bench, keys.iter().map(|key| key.text.as_str()));
    let port = targets.port("refreshing");
    let each_once = Until::Requests(keys.len() as u64);
    closed(port, &all, Order::Turn, FIRST_CONNECTIONS, each_once);

    let (mut served, mut own, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let many = refresh(&targets, &all, CONNECTIONS);
        served.push(many.refreshes / many.seconds);
        own.push(many.busy_seconds / many.refreshes);
        let alone = refresh(&targets, &all, 1);
        let each = (alone.seconds - alone.busy_seconds) / alone.refreshes;
        calls.push(each.max(0.0) / 2.0);
    }

    let one = Keys::new(bench, [bench.key.as_str()]);
    let port = targets.port("warm");
    closed(port, &one, Order::Turn, 1, Until::Requests(10));
    let mut warm = Vec::new();
    for _ in 0..ROUNDS {
        let busy = targets.processor_seconds();
        let done = closed(
            port,
            &one,
            Order::Turn,
            CONNECTIONS,
            Until::Seconds(SECONDS),
        );
        warm.push((targets.processor_seconds() - busy) / done.requests);
    }

    let keys: Vec<Key> = (0..BCRYPT_KEYS).map(|_| Key::random()).collect();
    let bcrypt = |key| Record::bcrypt(key, "2b", BCRYPT_COST);
    let records: Vec<Record> = keys.iter().map(bcrypt).collect();
    owners.extend(records.chunks(KEYS_EACH).map(owner));
    let new = Keys::new(bench, keys.iter().map(|key| key.text.as_str()));
    let busy = targets.processor_seconds();
    let each_once = Until::Requests(keys.len() as u64);
    closed(port, &new, Order::Turn, 1, each_once);
    let first_use = (targets.processor_seconds() - busy) / keys.len() as f64;
    drop(targets);
    owners.iter().for_each(Owner::delete);

    let ms = |seconds: &[f64]| seconds.iter().map(|one| one * 1e3).collect::<Vec<_>>();
    report.fact("capacity_keycloak_refreshes_per_second", &served);
    report.fact("capacity_call_ms", &ms(&calls));
    report.fact("capacity_refresh_worker_ms", &ms(&own));
    report.fact("capacity_warm_worker_us", &ms(&ms(&warm)));
    report.fact("capacity_first_use_worker_ms", &ms(&[first_use]));
    let machine = Machine {
        keycloak_refreshes_per_second: median(&served),
        warm_seconds: median(&warm),
        refresh_seconds: median(&own),
        bcrypt_seconds: first_use,
    };
    (machine, median(&calls))
}

/// Refreshes within a period.
struct Refreshed {
    refreshes: f64,
    seconds: f64,
    /// The gateway's processor time.
    busy_seconds: f64,
}

/// Sends keys with expired tokens, over so many connections. It counts Keycloak's calls and
/// not requests: a run may begin with keys that were used a moment ago.
fn refresh(targets: &Targets, keys: &Keys, connections: u32) -> Refreshed {
    let asked = || targets.counter("cluster.keycloak.upstream_rq_total");
    let (asked_before, busy) = (asked(), targets.processor_seconds());
    let (port, until) = (targets.port("refreshing"), Until::Seconds(SECONDS));
    let done = closed(port, keys, Order::Turn, connections, until);
    Refreshed {
        refreshes: (asked() - asked_before) / 2.0,
        seconds: done.requests / done.per_second,
        busy_seconds: targets.processor_seconds() - busy,
    }
}

/// The load as keys are added, beside the capacity.
fn grow(example: &Deployment, machine: &Machine, report: &mut Report) {
    let keys = [300, 1000, 3000, 10_000, 30_000, 100_000];
    let line = |name: &str, of: &dyn Fn(&Deployment) -> f64| {
        let points = keys.map(|keys| (keys as f64, of(&example.with_keys(keys))));
        (name.to_owned(), points.to_vec())
    };
    let ahead = |grown: &Deployment| grown.demand().refreshes_per_second;
    let behind = |grown: &Deployment| {
        let without = Deployment {
            renews_ahead: false,
            ..*grown
        };
        without.demand().refreshes_per_second
    };
    let served = machine.keycloak_refreshes_per_second;
    report.curve(Curve {
        name: "capacity_refreshes_by_keys",
        title: format!(
            "Look-ups and as many grants, {} nodes, TTL {} s, each key once in 10 s",
            example.nodes, example.ttl_seconds
        ),
        x: "keys in use",
        y: "grants/s",
        lines: vec![
            line("renewed ahead, as it is", &ahead),
            line("if none were renewed ahead", &behind),
            line("this Keycloak serves", &|_| served),
        ],
    });
    report.curve(Curve {
        name: "capacity_worker_share_by_keys",
        title: "The share of a worker's time that is taken".to_owned(),
        x: "keys in use",
        y: "share",
        lines: vec![line("computed", &|grown| grown.worker_share(machine))],
    });
    report.curve(Curve {
        name: "capacity_cache_mb_by_keys",
        title: format!("Tokens of {TOKEN_BYTES} bytes in the caches of one node, at least"),
        x: "keys in use",
        y: "MB",
        lines: vec![line("computed", &|grown| {
            grown.cache_bytes(TOKEN_BYTES) as f64 / 1e6
        })],
    });
    let bound = example.first_uses_per_second(machine).1;
    report.curve(Curve {
        name: "capacity_restart_seconds_by_keys",
        title: "Until each node has seen each key again".to_owned(),
        x: "keys in use",
        y: "s",
        lines: vec![line(&format!("bound by {bound}"), &|grown| {
            grown.restart_seconds(machine)
        })],
    });
}
