//! Polls of a made-up log of events, answer by answer.

mod blind;
mod unwell;

use serde_json::{Value, json};

use super::*;
use crate::calls::Ids;
use crate::calls::service_token::{Asker, Need, ServiceToken};
use crate::config::Config;
use crate::keycloak::admin_events::EventsError;
use crate::revocation::Revocations;
use crate::store::slots::tests::Shared;
use crate::test_support::{config, jwt, signing_key};

const EVERY_MS: u64 = 5_000;

fn at(ms: u64) -> UnixMillis {
    UnixMillis(1_700_000_000_000 + ms)
}

fn asker(id: ExchangeId, started_at: u64) -> Asker {
    Asker {
        id,
        started_at: at(started_at),
        since: UnixMillis::default(),
    }
}

/// Keycloak's log of events. Its clock is an hour behind.
struct Events {
    /// Time, id, operation and path of each, the oldest first.
    events: Vec<(u64, String, &'static str, String)>,
    on: bool,
    roles: Value,
    tokens: u32,
    /// The queries for events, the latest last.
    asked: Vec<String>,
    /// The host resets a call with a larger answer.
    buffer: usize,
    /// Events are not answered, though all else is.
    no_events: bool,
}

impl Events {
    fn new() -> Self {
        Self {
            events: Vec::new(),
            on: true,
            roles: json!(["view-users", "view-events"]),
            tokens: 0,
            asked: Vec::new(),
            buffer: 1 << 20,
            no_events: false,
        }
    }

    fn tell(&mut self, ms: u64, operation: &'static str, path: &str) {
        let id = format!("event-{}", self.events.len());
        self.tell_as(&id, ms, operation, path);
    }

    fn tell_as(&mut self, id: &str, ms: u64, operation: &'static str, path: &str) {
        let time = at(ms).0 - 3_600_000;
        let event = (time, id.to_owned(), operation, path.to_owned());
        self.events.push(event);
    }

    fn answer(&mut self, call: &Call, now: UnixMillis) -> (u16, Vec<u8>) {
        if call.method == "POST" {
            self.tokens += 1;
            let claims = json!({
                "iss": config().realm.issuer, "sub": "gateway", "exp": now.as_seconds() + 300,
                "iat": now.as_seconds() - 3_600,
                "resource_access": { "realm-management": { "roles": self.roles } },
            });
            let answer = json!({
                "access_token": jwt(&claims), "expires_in": 300, "token_type": "Bearer",
            });
            return (200, answer.to_string().into_bytes());
        }
        if call.path.ends_with("/events/config") {
            let answer = json!({ "adminEventsEnabled": self.on });
            return (200, answer.to_string().into_bytes());
        }
        let (_, query) = call.path.split_once("/admin-events?").unwrap();
        self.asked.push(query.to_owned());
        let number = |name: &str| -> Option<u64> {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(name))?;
            Some(pair.parse().unwrap())
        };
        let (first, max) = (number("first=").unwrap(), number("max=").unwrap());
        let since = number("dateFrom=").unwrap_or(0);
        let mut newest_first: Vec<_> = self.events.iter().filter(|e| e.0 > since).collect();
        newest_first.sort_by_key(|event| std::cmp::Reverse(event.0));
        let page = newest_first
            .into_iter()
            .skip(usize::try_from(first).unwrap())
            .take(usize::try_from(max).unwrap());
        let bytes = page.clone().map(|event| event.3.len()).sum();
        if bytes > crate::keycloak::ANSWER_BYTES_MAX {
            // Nobody reads it.
            return (200, vec![b' '; bytes]);
        }
        let page: Vec<Value> = page
            .map(|(time, id, operation, path)| {
                json!({
                    "id": id, "time": time, "operationType": operation, "resourcePath": path,
                })
            })
            .collect();
        (200, Value::from(page).to_string().into_bytes())
    }
}

/// The part of a worker that polls.
struct Poll {
    poller: Poller,
    service_token: ServiceToken,
    revocations: Revocations,
    config: Config,
    ids: Ids,
}

impl Poll {
    fn new(seed: &[u8]) -> Self {
        let config = config();
        let revocations = Revocations::new(&config.realm.issuer, &signing_key(), true);
        Self {
            poller: Poller::new(EVERY_MS, &signing_key(), seed),
            service_token: ServiceToken::default(),
            revocations: revocations.polled_every(EVERY_MS),
            config,
            ids: Ids::new(&signing_key(), seed),
        }
    }

    fn input(&mut self, event: Event<'_>, ms: u64, shared: &mut Shared) -> Option<Effect> {
        self.with_env(ms, shared, |poller, env| poller.handle_event(event, env))
    }

    fn tick(&mut self, ms: u64, shared: &mut Shared) -> Option<Effect> {
        self.revocations.watch_clock(at(ms));
        self.revocations.look(at(ms), shared);
        self.with_env(ms, shared, Poller::tick)
    }

    fn with_env<T>(
        &mut self,
        ms: u64,
        shared: &mut Shared,
        act: impl FnOnce(&mut Poller, &mut WatchEnv<'_>) -> T,
    ) -> T {
        let mut env = WatchEnv {
            now: at(ms),
            config: &self.config,
            signing_key: &signing_key(),
            service_token: &mut self.service_token,
            revocations: &mut self.revocations,
            store: shared,
            ids: &mut self.ids,
            nonce: &Vec::new,
        };
        act(&mut self.poller, &mut env)
    }

    /// A tick and all its calls; gives their number.
    fn poll(&mut self, ms: u64, shared: &mut Shared, events: &mut Events) -> usize {
        let mut call = self.tick(ms, shared);
        let mut calls = 0;
        while let Some(Effect::Call { call: next, .. }) = call {
            calls += 1;
            let (status, body) = events.answer(&next, at(ms));
            let input = if body.len() > events.buffer
                || events.no_events && next.path.contains("/admin-events?")
            {
                Event::Failed("reset")
            } else {
                let body = (body.len() <= crate::keycloak::ANSWER_BYTES_MAX).then_some(&body[..]);
                Event::Answer { status, body }
            };
            call = self.input(input, ms, shared);
        }
        calls
    }

    fn kills(&self, owner: &str, ms: u64) -> bool {
        self.revocations.kills(owner, at(ms))
    }
}

/// The call that is asked for.
#[track_caller]
fn called(effect: Option<Effect>) -> Call {
    match effect {
        Some(Effect::Call { call, .. }) => call,
        other => panic!("no call: {other:?}"),
    }
}

/// A worker that has polled once, at 0.
fn polled() -> (Poll, Shared, Events) {
    let (mut poll, mut shared, mut events) = (Poll::new(b"1"), Shared::default(), Events::new());
    assert_eq!(poll.poll(0, &mut shared, &mut events), 4);
    assert_eq!(poll.poller.take_notice(), Some(Polling::Good));
    (poll, shared, events)
}

#[test]
fn what_is_done_to_an_owner_revokes_that_owner_at_the_next_poll() {
    let (mut poll, mut shared, mut events) = polled();
    events.tell(1000, "UPDATE", "users/alice");
    events.tell(1001, "CREATE", "users/bob/federated-identity/api-keys-lock");
    assert_eq!(poll.poll(4_999, &mut shared, &mut events), 0, "not due yet");
    assert_eq!(poll.poll(5_000, &mut shared, &mut events), 2);
    assert!(poll.kills("alice", 5_250) && !poll.kills("alice", 5_251));
    assert!(!poll.kills("bob", 1_100));
    // Each event counts once.
    assert_eq!(poll.poll(10_000, &mut shared, &mut events), 2);
    assert!(!poll.kills("alice", 5_251));
    assert_eq!(poll.poller.take_notice(), None);
    let mut other = Poll::new(b"2");
    other.tick(10_000, &mut shared);
    assert!(other.kills("alice", 5_250), "others are told by the log");
}

#[test]
fn what_may_concern_anybody_revokes_everybody() {
    let (mut poll, mut shared, mut events) = polled();
    events.tell(1000, "UPDATE", "roles/clerk/composites");
    poll.poll(5_000, &mut shared, &mut events);
    assert!(poll.kills("anybody", 5_250) && !poll.kills("anybody", 5_251));
}

#[test]
fn the_first_poll_of_a_node_revokes_everybody_and_takes_nothing_before_it_for_news() {
    let (mut poll, mut shared, mut events) = (Poll::new(b"1"), Shared::default(), Events::new());
    for ms in 0..150 {
        events.tell(ms, "UPDATE", "users/alice");
    }
    events.tell(150, "UPDATE", "roles/clerk");
    poll.poll(1000, &mut shared, &mut events);
    let since = at(150).0 - 3_600_000 - 90_000;
    assert_eq!(
        events.asked,
        [
            "first=0&max=1".to_owned(),
            format!("first=0&max=100&dateFrom={since}"),
            format!("first=100&max=100&dateFrom={since}"),
        ]
    );
    assert!(poll.kills("bob", 1_250) && !poll.kills("bob", 1_251));
    poll.poll(6_000, &mut shared, &mut events);
    assert!(!poll.kills("alice", 1_251) && !poll.kills("bob", 1_251));
}

#[test]
fn a_realm_without_events_so_far_is_not_polled_for_the_first_time_twice() {
    let (mut poll, mut shared, mut events) = polled();
    assert!(poll.kills("bob", 250));
    poll.poll(5_000, &mut shared, &mut events);
    assert!(!poll.kills("bob", 251));
    events.tell(6_000, "DELETE", "users/alice");
    poll.poll(10_000, &mut shared, &mut events);
    assert!(poll.kills("alice", 10_250) && !poll.kills("bob", 251));
}

#[test]
fn an_event_that_comes_late_twice_or_out_of_order_is_seen() {
    let (mut poll, mut shared, mut events) = polled();
    events.tell(90_000, "UPDATE", "users/alice");
    poll.poll(90_000, &mut shared, &mut events);
    poll.poll(90_000, &mut shared, &mut events);
    // Done 89 s before the newest, and shown now.
    events.tell_as("late", 90_000 - 89_000, "UPDATE", "users/bob");
    events.tell_as("late", 90_000 - 89_000, "UPDATE", "users/bob");
    poll.poll(95_000, &mut shared, &mut events);
    assert!(poll.kills("bob", 95_250));
    assert!(!poll.kills("alice", 90_251));
}

#[test]
fn more_events_than_are_read_revoke_everybody() {
    let (mut poll, mut shared, mut events) = polled();
    for ms in 0..1_000 {
        events.tell(1_000 + ms, "UPDATE", "users/alice");
    }
    assert_eq!(poll.poll(5_000, &mut shared, &mut events), 11);
    assert!(poll.kills("bob", 5_250));
    events.events.truncate(999);
    let (mut poll, mut shared) = (Poll::new(b"1"), Shared::default());
    poll.poll(0, &mut shared, &mut Events::new());
    assert_eq!(poll.poll(5_000, &mut shared, &mut events), 11);
    assert!(poll.kills("alice", 5_250) && !poll.kills("bob", 251));
}

#[test]
fn a_page_that_is_too_large_is_asked_for_in_parts() {
    let (mut poll, mut shared, mut events) = polled();
    let long = "x".repeat(4_000);
    for number in 0..50 {
        events.tell(1_000, "UPDATE", &format!("users/owner-{number}/{long}"));
    }
    poll.poll(5_000, &mut shared, &mut events);
    for number in 0..50 {
        assert!(poll.kills(&format!("owner-{number}"), 5_250), "{number}");
    }
    assert!(events.asked.iter().any(|query| query.contains("max=10&")));
    assert!(!poll.kills("bob", 251));
}

#[test]
fn events_that_are_cleared_revoke_everybody_once() {
    let (mut poll, mut shared, mut events) = polled();
    events.tell(1_000, "UPDATE", "users/alice");
    poll.poll(5_000, &mut shared, &mut events);
    events.events.clear();
    poll.poll(10_000, &mut shared, &mut events);
    assert!(poll.kills("bob", 10_250));
    poll.poll(15_000, &mut shared, &mut events);
    assert!(!poll.kills("bob", 10_251));
}

#[test]
fn a_realm_that_keeps_no_events_is_told_of_and_the_ttl_counts() {
    let (mut poll, mut shared, mut events) = polled();
    events.on = false;
    poll.poll(5_000, &mut shared, &mut events);
    assert_eq!(poll.poller.take_notice(), Some(Polling::Off));
    // Changes made after they were seen to be on may be in no event.
    assert!(poll.kills("bob", 5_250));
    poll.poll(10_000, &mut shared, &mut events);
    assert!(!poll.kills("bob", 5_251));
    assert_eq!(poll.revocations.age_max_ms(at(15_000)), u64::MAX);
    events.on = true;
    poll.poll(15_000, &mut shared, &mut events);
    assert!(poll.kills("bob", 15_250), "nor what was changed meanwhile");
    assert_eq!(poll.poller.take_notice(), Some(Polling::Good));
}

#[test]
fn what_another_worker_told_of_last_is_news_when_it_changes() {
    let (mut one, mut shared, mut events) = polled();
    let mut other = Poll::new(b"2");
    events.on = false;
    other.poll(5_500, &mut shared, &mut events);
    assert_eq!(other.poller.take_notice(), Some(Polling::Off));
    events.on = true;
    one.poll(11_000, &mut shared, &mut events);
    // It was good when this worker polled before.
    assert_eq!(one.poller.take_notice(), Some(Polling::Good));
}

#[test]
fn one_worker_polls_and_another_takes_over_when_it_is_gone() {
    let (mut one, mut shared, mut events) = polled();
    let mut other = Poll::new(b"2");
    for ms in (200..=5_200).step_by(200) {
        assert_eq!(other.poll(ms, &mut shared, &mut events), 0, "{ms}");
    }
    assert!(one.tick(5_200, &mut shared).is_some());
    // Its lease lasts while its call is out, even when the next poll is due.
    assert_eq!(other.poll(9_000, &mut shared, &mut events), 0);
    // The worker dies. Three time-outs and two seconds after it began, another polls.
    events.tell(9_100, "UPDATE", "users/alice");
    assert_eq!(other.poll(13_199, &mut shared, &mut events), 0);
    assert_eq!(other.poll(13_200, &mut shared, &mut events), 3);
    assert!(other.kills("alice", 13_450) && !other.kills("bob", 300));
    assert_eq!(other.poll(18_199, &mut shared, &mut events), 0);
    assert_eq!(other.poll(18_200, &mut shared, &mut events), 2);
}

#[test]
fn who_takes_over_begins_where_the_other_stopped() {
    let (mut one, mut shared, mut events) = polled();
    events.tell(1_000, "UPDATE", "users/alice");
    one.poll(5_000, &mut shared, &mut events);
    events.tell(6_000, "UPDATE", "users/bob");
    let mut other = Poll::new(b"2");
    assert_eq!(other.poll(10_399, &mut shared, &mut events), 0);
    assert_eq!(other.poll(10_400, &mut shared, &mut events), 3);
    assert!(other.kills("bob", 10_650) && !other.kills("carol", 300));
}

#[test]
fn a_poll_that_fails_is_told_of_once_and_tried_again() {
    let (mut poll, mut shared, mut events) = polled();
    assert!(poll.tick(5_000, &mut shared).is_some());
    let failed = Event::Failed("connection refused");
    // Another node of Keycloak might answer, or the page might be too large.
    for ms in [5_050, 5_060, 5_070] {
        assert!(poll.input(failed, ms, &mut shared).is_some(), "{ms}");
    }
    assert!(poll.input(failed, 5_100, &mut shared).is_none());
    let notice = poll.poller.take_notice().unwrap().to_string();
    assert!(notice.contains("events") && notice.contains("connection refused"));
    assert!(poll.tick(10_099, &mut shared).is_none());
    let call = poll.tick(10_100, &mut shared).unwrap();
    assert_eq!(call.timeout_ms(), 2_000);
    while poll.input(failed, 10_101, &mut shared).is_some() {}
    assert_eq!(poll.poller.take_notice(), None);
    events.tell(10_200, "UPDATE", "users/alice");
    poll.poll(15_101, &mut shared, &mut events);
    assert_eq!(poll.poller.take_notice(), Some(Polling::Good));
    assert!(poll.kills("alice", 15_351) && !poll.kills("bob", 300));
}

#[test]
fn a_call_that_is_never_answered_ends_with_its_poll() {
    let (mut poll, mut shared, _) = polled();
    assert!(poll.tick(5_000, &mut shared).is_some());
    assert!(poll.tick(12_999, &mut shared).is_none());
    assert_eq!(poll.poller.take_notice(), None);
    assert!(poll.tick(13_000, &mut shared).is_none());
    assert!(matches!(
        poll.poller.take_notice(),
        Some(Polling::Failing(_))
    ));
    let late = Event::Answer {
        status: 200,
        body: Some(b"[]"),
    };
    assert!(poll.input(late, 13_001, &mut shared).is_none());
    assert!(poll.tick(18_000, &mut shared).is_some());
}

#[test]
fn a_service_token_that_is_refused_is_fetched_anew_once() {
    let (mut poll, mut shared, mut events) = polled();
    assert!(poll.tick(5_000, &mut shared).is_some());
    let refused = Event::Answer {
        status: 401,
        body: Some(b""),
    };
    let call = called(poll.input(refused, 5_000, &mut shared));
    assert_eq!(call.method, "POST");
    let (status, body) = events.answer(&call, at(5_000));
    let body = Some(&body[..]);
    let call = poll.input(Event::Answer { status, body }, 5_000, &mut shared);
    assert!(called(call).path.contains("admin-events?first=0"));
    assert!(poll.input(refused, 5_000, &mut shared).is_none());
    let failing = Polling::Failing(EventsError::Unauthorized.into());
    assert_eq!(poll.poller.take_notice(), Some(failing));
}

#[test]
fn a_missing_role_is_named() {
    let (mut poll, mut shared, _) = polled();
    assert!(poll.tick(5_000, &mut shared).is_some());
    let forbidden = Event::Answer {
        status: 403,
        body: Some(b"{}"),
    };
    poll.input(forbidden, 5_000, &mut shared);
    let said = poll.poller.take_notice().unwrap().to_string();
    assert!(said.contains("view-events"), "{said}");
    // A token that cannot look owners up is not kept for the requests that need to.
    let (mut poll, mut events) = (Poll::new(b"1"), Events::new());
    events.roles = json!(["view-events"]);
    poll.poll(20_000, &mut Shared::default(), &mut events);
    let said = poll.poller.take_notice().unwrap().to_string();
    assert!(said.contains("view-users"), "{said}");
    let needed = poll
        .service_token
        .need(asker(99, 20_001), at(30_000), at(20_001));
    assert_eq!(needed, Need::Fetch);
}

#[test]
fn without_shared_data_each_worker_polls_for_itself() {
    let (mut shared, mut events) = (Shared::default(), Events::new());
    for seed in [b"1", b"2"] {
        let mut poll = Poll::new(seed);
        poll.revocations = Revocations::new(&poll.config.realm.issuer, &signing_key(), false)
            .polled_every(EVERY_MS);
        poll.poll(0, &mut shared, &mut events);
        events.tell(1_000, "UPDATE", "users/alice");
        poll.poll(5_000, &mut shared, &mut events);
        assert!(poll.kills("alice", 5_250));
    }
    assert!(shared.0.is_empty());
}

#[test]
fn polling_that_is_off_asks_nothing() {
    let (mut poll, mut shared) = (Poll::new(b"1"), Shared::default());
    poll.poller = Poller::new(0, &signing_key(), b"1");
    poll.revocations = Revocations::new(&poll.config.realm.issuer, &signing_key(), true);
    assert!(poll.tick(0, &mut shared).is_none());
    assert_eq!(poll.revocations.age_max_ms(at(1_000_000)), u64::MAX);
}

#[test]
fn how_old_a_cached_token_may_be_depends_on_how_far_what_was_changed_is_known() {
    let (mut poll, mut shared, _) = polled();
    let age = |poll: &Poll, ms: u64| poll.revocations.age_max_ms(at(ms));
    assert_eq!(age(&poll, 6_000), u64::MAX);
    // Nobody tried: the node was paused. Only entries within the bound are young enough.
    assert_eq!(age(&poll, 6_001), 6_000);
    // The poll was tried, and failed: for five minutes nothing changes, then a minute counts.
    assert!(poll.tick(20_000, &mut shared).is_some());
    let gone = Event::Failed("gone");
    while poll.input(gone, 20_100, &mut shared).is_some() {}
    assert_eq!(age(&poll, 300_000), u64::MAX);
    assert_eq!(age(&poll, 300_001), 60_000);
    let new = Poll::new(b"2");
    assert_eq!(age(&new, 0), 6_000);
    let mut slow = Poll::new(b"3");
    slow.revocations = slow.revocations.polled_every(300_000);
    assert_eq!(age(&slow, 0), 301_000);
    slow.revocations.watched_mut().failed_at = at(0);
    assert_eq!(age(&slow, 0), 301_000);
    slow.revocations.watched_mut().polled_at = at(0).minus_ms(10);
    assert_eq!(age(&slow, 899_990), u64::MAX);
    assert_eq!(age(&slow, 899_991), 301_000);
}
