//! The judge of the soak, on made-up histories: each rule is seen to break.
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    dead_code,
    reason = "a test may fail by panicking; what prints the figures is in the soak"
)]

#[path = "soak/judge.rs"]
mod judge;

use judge::{Answer, By, Cause, Death, History, Outage, Promise, Rule, Seen, Sent};

/// The poll's bound is 2 s, the TTL's 8.
const PROMISE: Promise = Promise {
    poll_ms: 1000,
    ttl_ms: 8000,
    recovery_ms: 5000,
    answer_ms: 6000,
    failures_per_minute: 20,
    workers: 2,
    growth_bytes: 1000,
};

/// A key that is alive at 0, one that died at 100 s, and an outage from 200 s to 210 s.
fn history() -> History {
    let outage = Outage {
        kind: "paused",
        from: 200_000,
        until: 210_000,
    };
    History {
        started: 0,
        promise: PROMISE,
        requests: Vec::new(),
        keys: vec![None, Some(death(Cause::Disabled, 100_000))],
        ids: vec!["abc".to_owned(), "def".to_owned()],
        outages: vec![outage],
        memory: vec![5000, 9000, 9500, 9900],
    }
}

fn death(cause: Cause, dead_at: u64) -> Death {
    Death {
        cause,
        dying_at: dead_at - 50,
        dead_at: Some(dead_at),
    }
}

fn seen(sent: Sent, answer: Answer, started: u64) -> Seen {
    Seen {
        sent,
        by: By::Load,
        answer,
        started,
        ended: started + 10,
    }
}

/// The rules that this history breaks.
fn broken(history: &History) -> Vec<Rule> {
    history.judge().iter().map(|failure| failure.rule).collect()
}

/// The rules that one request breaks.
fn broken_by(request: Seen) -> Vec<Rule> {
    let mut history = history();
    history.requests.push(request);
    broken(&history)
}

#[test]
fn what_is_promised_breaks_no_rule() {
    for (sent, answer, at) in [
        (Sent::Key(0), Answer::Owners, 1000),
        (Sent::Key(0), Answer::Unavailable, 205_000),
        (Sent::Key(0), Answer::Unavailable, 214_000),
        (Sent::Key(1), Answer::Owners, 90_000),
        (Sent::Key(1), Answer::Owners, 101_900),
        (Sent::Key(1), Answer::Refused, 100_000),
        (Sent::Key(1), Answer::Refused, 150_000),
        (Sent::Unknown, Answer::Refused, 1000),
        (Sent::Malformed, Answer::Refused, 1000),
    ] {
        assert_eq!(broken_by(seen(sent, answer, at)), [], "{sent:?} {answer:?}");
    }
}

#[test]
fn a_missing_a_strange_or_a_late_answer_is_seen() {
    let unanswered = seen(Sent::Unknown, Answer::Unanswered, 1000);
    assert_eq!(broken_by(unanswered), [Rule::Answered]);
    let strange = seen(Sent::Key(0), Answer::Strange(500), 1000);
    assert_eq!(broken_by(strange), [Rule::OneOfOurs]);
    let mut late = seen(Sent::Key(0), Answer::Owners, 1000);
    late.ended = 8000;
    assert_eq!(broken_by(late), [Rule::InTime]);
}

#[test]
fn another_owners_answer_is_seen_whatever_was_sent() {
    for request in [
        seen(Sent::Key(0), Answer::AnotherOwners, 1000),
        seen(Sent::Key(1), Answer::AnotherOwners, 100_010),
        seen(Sent::Unknown, Answer::Owners, 1000),
        seen(Sent::Malformed, Answer::Owners, 205_000),
    ] {
        assert_eq!(broken_by(request), [Rule::OwnersAlone], "{request:?}");
    }
}

#[test]
fn a_good_key_that_is_refused_is_seen_also_in_an_outage() {
    for at in [1000, 205_000] {
        let refused = seen(Sent::Key(0), Answer::Refused, at);
        assert_eq!(broken_by(refused), [Rule::GoodKeysPass]);
    }
    let before_its_end = seen(Sent::Key(1), Answer::Refused, 99_000);
    assert_eq!(broken_by(before_its_end), [Rule::GoodKeysPass]);
}

#[test]
fn a_dead_key_is_bound_by_the_poll_while_keycloak_is_well() {
    let late = seen(Sent::Key(1), Answer::Owners, 102_001);
    assert_eq!(broken_by(late), [Rule::DeadKeysEnd]);
    let said = {
        let mut history = history();
        history.requests.push(late);
        history.judge().remove(0).to_string()
    };
    for part in [
        "request 0",
        "key def",
        "102.001 s",
        "100.000 s",
        "2000 ms",
        "Disabled",
    ] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
}

#[test]
fn a_dead_key_is_bound_by_the_ttl_where_keycloak_cannot_be_asked() {
    for dead_at in [198_500, 205_000, 214_000] {
        let mut history = history();
        history.keys[1] = Some(death(Cause::Removed, dead_at));
        let exchanged = |after| seen(Sent::Key(1), Answer::Owners, dead_at + after);
        history.requests = vec![exchanged(7900)];
        assert_eq!(broken(&history), [], "{dead_at}");
        history.requests = vec![exchanged(8001)];
        assert_eq!(broken(&history), [Rule::DeadKeysEnd], "{dead_at}");
    }
    let mut history = history();
    history.keys[1] = Some(death(Cause::Removed, 216_000));
    history.requests = vec![seen(Sent::Key(1), Answer::Owners, 218_001)];
    assert_eq!(broken(&history), [Rule::DeadKeysEnd]);
}

#[test]
fn a_key_that_ended_by_itself_has_no_time_left() {
    let mut history = history();
    history.keys[1] = Some(death(Cause::Expired, 205_000));
    history.requests = vec![seen(Sent::Key(1), Answer::Owners, 205_001)];
    assert_eq!(broken(&history), [Rule::DeadKeysEnd]);
}

#[test]
fn a_death_that_keycloak_never_confirmed_allows_either() {
    let mut history = history();
    history.keys[1] = Some(Death {
        dead_at: None,
        ..death(Cause::Deleted, 100_000)
    });
    for answer in [Answer::Owners, Answer::Refused] {
        history.requests = vec![seen(Sent::Key(1), answer, 150_000)];
        assert_eq!(broken(&history), []);
    }
}

#[test]
fn a_503_is_seen_unless_keycloak_was_unwell() {
    for sent in [Sent::Key(0), Sent::Key(1), Sent::Unknown] {
        for at in [150_000, 215_001] {
            let unavailable = seen(sent, Answer::Unavailable, at);
            assert_eq!(broken_by(unavailable), [Rule::WellWhenKeycloakIs]);
        }
    }
}

#[test]
fn a_429_is_the_floods_alone_and_not_for_a_key_in_use() {
    let flood = |sent, answer| Seen {
        by: By::Flood,
        ..seen(sent, answer, 1000)
    };
    assert_eq!(broken_by(flood(Sent::Unknown, Answer::Throttled)), []);
    for request in [
        flood(Sent::Key(0), Answer::Throttled),
        seen(Sent::Unknown, Answer::Throttled, 1000),
        seen(Sent::Key(0), Answer::Throttled, 1000),
    ] {
        assert_eq!(broken_by(request), [Rule::FloodIsThrottled], "{request:?}");
    }
    let mut history = history();
    history.requests = vec![flood(Sent::Unknown, Answer::Refused); 81];
    assert_eq!(broken(&history), [Rule::FloodIsThrottled]);
    history.requests.pop();
    assert_eq!(broken(&history), []);
}

#[test]
fn memory_that_grows_after_the_first_third_is_seen() {
    let mut history = history();
    history.memory = vec![5000, 9000, 9500, 10_001];
    assert_eq!(broken(&history), [Rule::MemoryIsFlat]);
}

#[test]
fn a_soak_in_which_nothing_happened_proves_nothing() {
    let mut history = history();
    history.keys[1] = None;
    history.outages.clear();
    let missing = history.judge_happened(&["paused"], &[Cause::Disabled]);
    // The outage, the death, a delay of either kind, a 429.
    assert_eq!(missing.len(), 5, "{missing:?}");
}

#[test]
fn delays_are_told_apart_by_whether_keycloak_was_well() {
    let mut history = history();
    history.keys = vec![
        Some(death(Cause::Disabled, 100_000)),
        Some(death(Cause::Removed, 199_000)),
        Some(death(Cause::Expired, 50_000)),
        None,
    ];
    history.requests = vec![
        seen(Sent::Key(0), Answer::Owners, 99_000),
        seen(Sent::Key(0), Answer::Owners, 100_700),
        seen(Sent::Key(0), Answer::Refused, 101_000),
        seen(Sent::Key(1), Answer::Owners, 205_000),
        seen(Sent::Key(2), Answer::Owners, 49_000),
        seen(Sent::Key(3), Answer::Owners, 300_000),
    ];
    assert_eq!(history.delays(), [vec![700], vec![6000]]);
}

#[test]
fn recovery_is_from_the_end_of_an_outage_to_its_last_503() {
    let mut history = history();
    let unavailable = |at| seen(Sent::Key(0), Answer::Unavailable, at);
    history.requests = vec![unavailable(205_000), unavailable(211_200)];
    assert_eq!(history.recoveries(), [1200]);
    history.requests.pop();
    assert_eq!(history.recoveries(), [0]);
}
