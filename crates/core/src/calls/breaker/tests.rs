//! Circuits that open, and for which keys.

use super::*;

const LOOKUP: Endpoint = Endpoint::Lookup;

fn at(ms: u64) -> UnixMillis {
    UnixMillis(1_700_000_000_000 + ms)
}

const KEY: KeyDigest = [1; 32];

/// The call of one more key fails.
fn fails(breaker: &mut Breaker, id: ExchangeId, ms: u64) {
    let key = [breaker.circuits[1].keys.len() as u8 + 1; 32];
    breaker.heard(LOOKUP, Health::Gone, id, &key, at(ms));
}

fn fails_for(breaker: &mut Breaker, key: u8, id: ExchangeId, ms: u64) {
    breaker.heard(LOOKUP, Health::Gone, id, &[key; 32], at(ms));
}

fn admits_key(breaker: &mut Breaker, key: u8, id: ExchangeId, ms: u64) -> bool {
    let would = breaker.would_admit(&[key; 32], at(ms));
    let admits = breaker.admits(LOOKUP, id, &[key; 32], at(ms + 2000), at(ms));
    assert!(would == admits || breaker.circuits[1].open.unwrap().probe.is_some());
    admits
}

fn admits(breaker: &mut Breaker, id: ExchangeId, ms: u64) -> bool {
    let would = breaker.would_admit(&KEY, at(ms));
    let admits = breaker.admits(LOOKUP, id, &KEY, at(ms + 2000), at(ms));
    assert!(would == admits || breaker.circuits[1].open.unwrap().probe.is_some());
    admits
}

fn opened() -> Breaker {
    let mut breaker = Breaker::new(b"1");
    for ms in [0, 500, 1000] {
        assert!(admits(&mut breaker, 1, ms));
        fails(&mut breaker, 1, ms);
    }
    assert!(breaker.is_open());
    breaker
}

#[test]
fn it_opens_when_calls_fail_for_a_second_and_no_answer_comes_in_between() {
    let mut breaker = opened();
    assert!(!admits(&mut breaker, 2, 1999));
    assert!(breaker.admits(Endpoint::Grant, 2, &KEY, at(4000), at(1999)));
    // All calls under way fail together when a node dies.
    let mut breaker = Breaker::new(b"1");
    for id in 0..100 {
        fails(&mut breaker, id, 999);
    }
    breaker.heard(LOOKUP, Health::Good, 7, &KEY, at(1000));
    for id in 0..100 {
        fails(&mut breaker, id, 1999);
    }
    fails(&mut breaker, 1, 2998);
    assert!(!breaker.is_open());
    fails(&mut breaker, 1, 2999);
    assert!(breaker.is_open());
}

#[test]
fn one_call_finds_out_and_its_answer_counts() {
    let mut breaker = opened();
    assert!(admits(&mut breaker, 2, 2250));
    assert!(admits(&mut breaker, 2, 2251), "it is its own");
    assert!(!admits(&mut breaker, 3, 2252));
    // A call that was sent before is no news.
    fails(&mut breaker, 9, 2253);
    assert!(admits(&mut breaker, 2, 2254));
    fails(&mut breaker, 2, 2300);
    assert!(!admits(&mut breaker, 3, 4299));
    assert!(admits(&mut breaker, 3, 4800));
    breaker.heard(LOOKUP, Health::Good, 3, &KEY, at(4900));
    assert!(!breaker.is_open() && admits(&mut breaker, 4, 4900));
    assert!(breaker.is_recovering(at(14_899)) && !breaker.is_recovering(at(14_900)));
}

#[test]
fn it_never_stays_open_for_longer_than_five_seconds() {
    let mut breaker = opened();
    let mut now = 1000;
    for id in 10..30 {
        let opened_at = now;
        while !admits(&mut breaker, id, now) {
            now += 10;
        }
        assert!(now - opened_at <= 5000 + 10, "{}", now - opened_at);
        fails(&mut breaker, id, now);
    }
}

#[test]
fn who_finds_out_and_goes_away_or_never_answers_leaves_it_to_another() {
    let mut breaker = opened();
    assert!(admits(&mut breaker, 2, 2250));
    breaker.give_up(3);
    assert!(!admits(&mut breaker, 3, 2250));
    breaker.give_up(2);
    assert!(admits(&mut breaker, 3, 2250));
    assert!(!admits(&mut breaker, 4, 4249));
    assert!(admits(&mut breaker, 4, 4250));
}

#[test]
fn one_key_that_fails_by_a_status_does_not_open_it() {
    let mut breaker = Breaker::new(b"1");
    for ms in 0..100 {
        breaker.heard(LOOKUP, Health::Unwell, 1, &KEY, at(100 * ms));
    }
    breaker.heard(LOOKUP, Health::Unwell, 1, &[2; 32], at(20_000));
    assert!(!breaker.is_open());
    breaker.heard(LOOKUP, Health::Unwell, 1, &[3; 32], at(20_001));
    assert!(breaker.is_open());
}

#[test]
fn one_key_that_gets_no_answer_is_left_alone_and_shuts_no_other_out() {
    let mut breaker = Breaker::new(b"1");
    for ms in (0..=10_000).step_by(100) {
        if admits_key(&mut breaker, 1, ms, ms) {
            fails_for(&mut breaker, 1, ms, ms);
        }
        assert!(breaker.would_admit(&[2; 32], at(ms)), "{ms}");
        assert!(!breaker.is_open() && !breaker.is_recovering(at(ms)));
    }
    assert!(!breaker.would_admit(&[1; 32], at(10_000)), "its calls fail");
    // Nor do two.
    fails_for(&mut breaker, 2, 77, 10_001);
    assert!(!breaker.would_admit(&[2; 32], at(10_002)));
    assert!(breaker.would_admit(&[3; 32], at(10_002)) && !breaker.is_open());
    // The answer to another call shows that Keycloak is there.
    breaker.heard(LOOKUP, Health::Good, 78, &[3; 32], at(10_003));
    assert!(breaker.would_admit(&[1; 32], at(10_004)));
    assert!(!breaker.is_recovering(at(10_004)));
}

#[test]
fn an_outage_is_an_outage_however_few_keys_are_in_use() {
    let mut breaker = Breaker::new(b"1");
    for ms in [0, 500, 1000] {
        fails_for(&mut breaker, 1, 1, ms);
    }
    assert!(!breaker.would_admit(&[1; 32], at(1100)));
    // Any key may probe, and the third failing key shows that it is not one key's fault.
    for (key, open) in [(2, false), (3, true)] {
        assert!(admits_key(&mut breaker, key, 10, 1200));
        fails_for(&mut breaker, key, 10, 1300);
        assert_eq!(breaker.is_open(), open);
    }
    assert!(!breaker.would_admit(&[4; 32], at(1400)));
    assert!(admits_key(&mut breaker, 4, 11, 2700));
    breaker.heard(LOOKUP, Health::Good, 11, &[4; 32], at(2800));
    assert!(breaker.is_recovering(at(2900)) && !breaker.is_open());
}

#[test]
fn without_the_service_token_it_opens_for_all() {
    let mut breaker = Breaker::new(b"1");
    for ms in [0, 500, 1000] {
        breaker.heard(Endpoint::ServiceToken, Health::Gone, 1, &KEY, at(ms));
    }
    assert!(breaker.is_open() && !breaker.would_admit(&[2; 32], at(1100)));
}

#[test]
fn a_clock_that_was_set_back_keeps_it_neither_open_nor_from_opening() {
    let mut breaker = opened();
    assert!(admits(&mut breaker, 2, 999));
    let mut breaker = Breaker::new(b"1");
    for ms in [100_000, 5_000, 5_500, 6_000] {
        fails(&mut breaker, 1, ms);
    }
    assert!(breaker.is_open());
}

#[test]
fn workers_ask_at_different_times() {
    let until = |seed: &[u8]| {
        let mut breaker = Breaker::new(seed);
        for ms in [0, 500, 1000] {
            fails(&mut breaker, 1, ms);
        }
        breaker.circuits[1].open.unwrap().until
    };
    assert!((1..9_u8).any(|seed| until(&[seed]) != until(b"0")));
}

#[test]
fn an_answer_shows_how_keycloak_is() {
    for (status, health) in [
        (None, Health::Gone),
        (Some(502), Health::Gone),
        (Some(504), Health::Gone),
        (Some(500), Health::Unwell),
        (Some(429), Health::Unwell),
        (Some(200), Health::Good),
        (Some(401), Health::Good),
    ] {
        assert_eq!(Health::of(status), health, "{status:?}");
    }
}
