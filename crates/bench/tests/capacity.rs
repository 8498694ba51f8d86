//! The capacity model of `capacity_model.rs`, held against the core in virtual time, and
//! the tables of `docs/performance.md`, held against the model.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what went wrong by failing"
)]

use apikeys_bench::capacity_model::{
    Demand, Deployment, ENTRY_BYTES, Machine, hit_rate_without_renewals,
};
use apikeys_bench::traffic::Usage;
use apikeys_bench::virtual_node::{Hash, Outcome, Scenario, run};
use apikeys_bench::warm_up::cold_node;

/// The most `l2_slots`. Keys that need more, at two slots a key, are each worker's own.
const L2_SLOTS_MAX: f64 = 65_536.0;

const PAGE: &str = include_str!("../../../docs/performance.md");

/// A row of the page is its inputs, followed by the figures computed of them.
fn expect_rows(head: &str, inputs: usize, computed: impl Fn(&[f64]) -> Vec<String>) {
    let mut wrong = 0;
    for row in test_kit::markdown::table(PAGE, head) {
        let number = |cell: &String| cell.parse::<f64>().expect("a number");
        let given: Vec<f64> = row[..inputs].iter().map(number).collect();
        let expected = [row[..inputs].to_vec(), computed(&given)].concat();
        println!("| {} |", expected.join(" | "));
        wrong += usize::from(row != expected);
    }
    assert_eq!(wrong, 0, "rows of the page differ from these");
}

fn zipf(keys: f64, requests_per_second: f64) -> Usage {
    Usage::zipf(keys as usize, requests_per_second)
}

/// One node of one worker, and calls of 10 ms.
fn one_node(usage: Usage, ttl_seconds: f64) -> Deployment {
    Deployment::of_one_worker(usage, ttl_seconds, 0.010)
}

/// The same in virtual time, all keys known: eight rounds of a token in steady use.
fn simulated(usage: Usage, ttl_seconds: f64) -> Outcome {
    run(&Scenario::steady(usage, ttl_seconds as u64, 8), &|| {}).counted
}

fn demand_cells(demand: &Demand) -> [String; 2] {
    let Demand {
        hit_rate,
        refreshes_per_second,
        ..
    } = demand;
    [
        format!("{hit_rate:.3}"),
        format!("{refreshes_per_second:.1}"),
    ]
}

#[test]
fn what_is_asked_for_is_as_the_page_says() {
    expect_rows("| Keys | Requests/s | Nodes |", 4, |row| {
        let [keys, rate, nodes, ttl] = *row else {
            panic!("four numbers");
        };
        let ahead = Deployment {
            nodes: nodes as usize,
            workers: 4,
            workers_share: 2.0 * keys <= L2_SLOTS_MAX,
            ..one_node(zipf(keys, rate), ttl)
        };
        let behind = Deployment {
            renews_ahead: false,
            ..ahead
        };
        let cells = [ahead, behind].map(|one| demand_cells(&one.demand()));
        cells.concat()
    });
}

#[test]
fn the_core_does_as_the_model_says() {
    expect_rows("| Keys | Requests/s | `T` in s |", 3, |row| {
        let [keys, rate, ttl] = *row else {
            panic!("three numbers");
        };
        let usage = zipf(keys, rate);
        let (seen, computed) = (simulated(usage, ttl), one_node(usage, ttl).demand());
        let grants = seen.grants_per_second() / computed.refreshes_per_second;
        assert!((grants - 1.0).abs() < 0.05, "grants {grants}");
        let hits = seen.hit_rate() - computed.hit_rate;
        assert!(hits.abs() < 0.02, "hit rate {hits}");
        let cells = demand_cells(&computed);
        let seen = [
            format!("{:.3}", seen.hit_rate()),
            format!("{:.1}", seen.grants_per_second()),
        ];
        let [hit_rate, per_second] = cells;
        vec![seen[0].clone(), hit_rate, seen[1].clone(), per_second]
    });
}

#[test]
fn one_worker_renews_one_token_at_a_time_as_the_page_says() {
    expect_rows("| Workers | A call in ms |", 2, |row| {
        let all = Deployment {
            workers: row[0] as usize,
            call_seconds: row[1] / 1000.0,
            ..one_node(zipf(1.0, 1.0), 300.0)
        };
        // A token in steady use is renewed after 0.85 of its time, on the average.
        let most = all.renewals_per_second_max();
        vec![format!("{most:.0}"), format!("{:.0}", most * 0.85 * 300.0)]
    });
}

#[test]
fn a_restart_refuses_no_good_key() {
    let seen = run(&cold_node(10_000, Hash::Sha256, 10), &|| {});
    assert_eq!(seen.counted.refused, 0);
    assert!(seen.counted.first_uses > 5000, "{seen:?}");
    assert!(seen.held_up_until_seconds < 1.0, "{seen:?}");
}

#[test]
fn a_restart_refuses_only_what_keycloak_has_no_capacity_for() {
    // Eight calls at once, of 10 ms: 400 first uses in a second, and at first more keys come.
    let scenario = Scenario {
        keycloak_at_once: Some(8),
        ..cold_node(10_000, Hash::Sha256, 10)
    };
    let seen = run(&scenario, &|| {}).counted;
    assert!(seen.refused > 0, "{seen:?}");
    assert!(seen.calls >= 7600, "Keycloak was idle: {seen:?}");
}

#[test]
fn the_tokens_of_a_node_take_what_the_page_says() {
    let entry = format!("beside the JWT itself | {ENTRY_BYTES} |");
    assert!(
        include_str!("../../../docs/sizing.md").contains(&entry),
        "{entry}"
    );
    expect_rows("| Keys | Workers | Bytes of a token |", 3, |row| {
        let node = Deployment {
            workers: row[1] as usize,
            ..one_node(zipf(row[0], 1000.0), 300.0)
        };
        let bytes = node.cache_bytes(row[2] as usize) as f64;
        vec![format!("{:.1}", bytes / 1e6)]
    });
}

#[test]
fn without_renewals_the_model_is_the_closed_form() {
    for (keys, rate) in [(100.0, 1.0), (10_000.0, 3000.0), (50_000.0, 20.0)] {
        let usage = zipf(keys, rate);
        let without = Deployment {
            renews_ahead: false,
            ..one_node(usage, 300.0)
        };
        let (model, form) = (
            without.demand().hit_rate,
            hit_rate_without_renewals(&usage, 300.0),
        );
        assert!((model - form).abs() < 1e-4, "{model} {form}");
    }
}

#[test]
fn a_worker_that_cannot_keep_up_renews_what_it_can() {
    let slow = Deployment {
        call_seconds: 1.0,
        ..one_node(zipf(1000.0, 1000.0), 60.0)
    };
    let demand = slow.demand();
    assert!(demand.renewals_per_second <= slow.renewals_per_second_max());
    assert!(demand.renewals_per_second > 0.99 * slow.renewals_per_second_max());
    let without = Deployment {
        renews_ahead: false,
        ..slow
    };
    assert!(demand.hit_rate > without.demand().hit_rate);
}

#[test]
fn what_gives_way_first_is_what_there_is_least_of() {
    let plenty = Machine {
        keycloak_refreshes_per_second: 1e9,
        warm_seconds: 1e-9,
        refresh_seconds: 1e-9,
        bcrypt_seconds: 1e-9,
    };
    let usage = Usage {
        exponent: 0.0,
        ..zipf(100.0, 10.0)
    };
    let node = Deployment {
        call_seconds: 1e-6,
        ..one_node(usage, 300.0)
    };
    let first = |machine: &Machine| node.limits(machine, 1 << 30, 1 << 30)[0].0;
    let slow_keycloak = Machine {
        keycloak_refreshes_per_second: 1.0,
        ..plenty
    };
    assert_eq!(first(&slow_keycloak), "keycloak");
    let slow_bcrypt = Machine {
        bcrypt_seconds: 10.0,
        ..plenty
    };
    assert_eq!(first(&slow_bcrypt), "restart_within_ttl");
    let slow_worker = Machine {
        warm_seconds: 1.0,
        ..plenty
    };
    assert_eq!(first(&slow_worker), "workers");
    assert_eq!(node.limits(&plenty, 7, 1 << 30)[0], ("l1_entries", 7));
}
