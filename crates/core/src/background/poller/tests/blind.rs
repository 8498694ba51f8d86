//! Events that cannot be read, or that are dated ahead.

use super::*;

#[test]
fn an_event_that_is_too_large_concerns_everybody_and_hides_no_other() {
    let (mut poll, mut shared, mut events) = polled();
    events.tell(4_000, "UPDATE", "users/alice");
    let huge = "x".repeat(200_000);
    events.tell(4_500, "UPDATE", &format!("users/carol/{huge}"));
    poll.poll(5_000, &mut shared, &mut events);
    assert!(poll.kills("bob", 5_250));
    let notice = poll.poller.take_notice();
    assert!(matches!(notice, Some(Polling::Unread(_))), "{notice:?}");
    // Polls meet it no longer than any other, though no event follows it.
    poll.poll(10_000, &mut shared, &mut events);
    events.tell(100_500, "UPDATE", "users/dora");
    poll.poll(101_000, &mut shared, &mut events);
    assert!(poll.kills("dora", 101_250));
    poll.poll(106_000, &mut shared, &mut events);
    assert!(!poll.kills("bob", 101_251));
}

#[test]
fn an_event_that_is_too_large_is_stepped_over_by_the_first_poll_too() {
    let (mut shared, mut events) = (Shared::default(), Events::new());
    let huge = "x".repeat(200_000);
    events.tell(0, "UPDATE", &format!("users/carol/{huge}"));
    let mut poll = Poll::new(b"1");
    poll.poll(1_000, &mut shared, &mut events);
    let notice = poll.poller.take_notice();
    assert!(matches!(notice, Some(Polling::Unread(_))), "{notice:?}");
    events.tell(5_000, "UPDATE", "users/alice");
    poll.poll(6_000, &mut shared, &mut events);
    assert!(poll.kills("alice", 6_250));
}

#[test]
fn an_event_that_is_dated_ahead_of_keycloaks_clock_hides_none() {
    let (mut poll, mut shared, mut events) = polled();
    events.tell(3_600_000, "UPDATE", "users/alice");
    poll.poll(5_000, &mut shared, &mut events);
    assert!(poll.kills("alice", 5_250));
    events.tell(9_000, "UPDATE", "users/bob");
    poll.poll(10_000, &mut shared, &mut events);
    assert!(poll.kills("bob", 10_250) && !poll.kills("carol", 251));
}

/// Tells of so many changes of one user, each event as large as this.
fn tell_large(events: &mut Events, ms: u64, count: u64, bytes: usize) {
    for number in 0..count {
        let path = format!("users/carol/{}", "x".repeat(bytes));
        events.tell(ms + number, "UPDATE", &path);
    }
}

#[test]
fn a_page_that_the_host_does_not_buffer_is_asked_for_in_parts() {
    let (mut poll, mut shared, mut events) = polled();
    events.tell(900, "UPDATE", "users/alice");
    tell_large(&mut events, 1_000, 41, 100_000);
    events.tell(2_000, "UPDATE", "users/dora");
    poll.poll(5_000, &mut shared, &mut events);
    for owner in ["alice", "carol", "dora"] {
        assert!(poll.kills(owner, 5_250), "{owner}");
    }
    assert!(!poll.kills("bob", 251), "each of them was read");
    assert_eq!(poll.poller.take_notice(), None, "it polls as before");
    assert_eq!(poll.revocations.watched().failed_at, UnixMillis(0));
}

/// By our own reader or by the host, for one of them or many.
#[test]
fn events_that_are_too_large_concern_everybody_once() {
    for (count, bytes) in [(1, 146_000), (1, 2_000_000), (41, 146_000), (20, 2_000_000)] {
        let (mut poll, mut shared, mut events) = polled();
        tell_large(&mut events, 4_000, count, bytes);
        poll.poll(5_000, &mut shared, &mut events);
        assert!(poll.kills("bob", 5_250), "{count} of {bytes}");
        let said = poll.poller.take_notice().map(|notice| notice.to_string());
        assert!(said.is_some_and(|said| said.contains("adminEventsDetailsEnabled")));
        // While they are listed, and after that, later events are seen.
        let mut revoked = 0;
        for ms in (10_000..200_000).step_by(5_000) {
            if ms % 20_000 == 0 {
                events.tell(ms - 1_000, "UPDATE", "users/alice");
            }
            poll.poll(ms, &mut shared, &mut events);
            revoked += u64::from(poll.kills("bob", 5_251));
            assert_eq!(poll.kills("alice", ms), ms % 20_000 == 0, "{ms}");
        }
        assert_eq!(revoked, 0, "{count} of {bytes}");
        assert_eq!(poll.poller.take_notice(), Some(Polling::Good));
        assert!(events.tokens < 5, "{}", events.tokens);
    }
}

#[test]
fn one_more_event_that_is_too_large_concerns_everybody_once_more() {
    for bytes in [146_000, 2_000_000] {
        let (mut poll, mut shared, mut events) = polled();
        // The unreadable event lies behind the new one, is about to leave the list, or has left
        // it.
        let told = [5_000, 65_000, 95_000, 100_000, 105_000, 160_000, 300_000];
        for ms in (5_000..320_000).step_by(5_000) {
            if told.contains(&ms) {
                tell_large(&mut events, ms - 1_000, 1, bytes);
            }
            poll.poll(ms, &mut shared, &mut events);
            assert_eq!(poll.kills("bob", ms), told.contains(&ms), "{ms}");
        }
    }
}

#[test]
fn a_keycloak_that_is_gone_or_answers_no_events_revokes_nobody() {
    for tokens_too in [true, false] {
        let (mut poll, mut shared, mut events) = polled();
        events.no_events = true;
        if tokens_too {
            events.buffer = 0;
        }
        for ms in (5_000..60_000).step_by(5_000) {
            assert!(poll.poll(ms, &mut shared, &mut events) <= 4);
        }
        assert!(!poll.kills("bob", 251));
        let notice = poll.poller.take_notice();
        assert!(matches!(notice, Some(Polling::Failing(_))), "{notice:?}");
    }
}

#[test]
fn a_refusal_with_a_large_body_is_a_refusal() {
    let (mut poll, mut shared, _) = polled();
    assert!(poll.tick(5_000, &mut shared).is_some());
    let refused = Event::Answer {
        status: 403,
        body: None,
    };
    assert!(poll.input(refused, 5_010, &mut shared).is_none());
    let notice = poll.poller.take_notice();
    let forbidden = PollError::Events(EventsError::Forbidden);
    assert_eq!(notice, Some(Polling::Failing(forbidden)));
}

#[test]
fn what_takes_its_time_is_no_event_that_is_too_large() {
    let (mut poll, mut shared, mut events) = polled();
    events.tell(1_000, "UPDATE", "users/alice");
    let (mut ms, mut call) = (5_000, poll.tick(5_000, &mut shared));
    while let Some(Effect::Call { call: next, .. }) = call {
        let (status, body) = events.answer(&next, at(ms));
        let listed = body.len() > 2;
        ms += if listed { 1_000 } else { 10 };
        let input = match listed {
            true => Event::Failed("timed out"),
            false => Event::Answer {
                status,
                body: Some(&body),
            },
        };
        call = poll.input(input, ms, &mut shared);
    }
    assert!(!poll.kills("bob", 251));
    let notice = poll.poller.take_notice();
    assert!(matches!(notice, Some(Polling::Failing(_))), "{notice:?}");
}

#[test]
fn an_event_that_keycloak_cannot_give_or_nobody_can_read_hides_no_other() {
    for broken in [(500, &b"{}"[..]), (200, &b"[{\"id\": 1}]"[..]), (502, b"")] {
        let (mut poll, mut shared, mut events) = polled();
        events.tell(1_000, "UPDATE", "users/alice");
        events.tell(2_000, "UPDATE", "users/broken");
        events.tell(3_000, "UPDATE", "users/dora");
        let mut call = poll.tick(5_000, &mut shared);
        while let Some(Effect::Call { call: next, .. }) = call {
            let (status, body) = events.answer(&next, at(5_000));
            let holds_it = body.windows(6).any(|part| part == b"broken");
            let (status, body) = if holds_it {
                broken
            } else {
                (status, &body[..])
            };
            let body = Some(body);
            call = poll.input(Event::Answer { status, body }, 5_000, &mut shared);
        }
        assert!(poll.kills("bob", 5_250), "{broken:?}");
        assert_eq!(poll.revocations.watched().failed_at, UnixMillis(0));
    }
}

#[test]
fn more_events_than_are_read_revoke_everybody_for_as_long_as_they_are_new() {
    let (mut poll, mut shared, mut events) = polled();
    for ms in 0..1_100 {
        events.tell(1_000 + ms, "UPDATE", "users/alice");
    }
    for ms in (5_000..=105_000).step_by(5_000) {
        poll.poll(ms, &mut shared, &mut events);
    }
    assert!(poll.kills("bob", 5_250));
    // No event follows, but they are of the past nevertheless.
    poll.poll(110_000, &mut shared, &mut events);
    assert!(!poll.kills("bob", 105_251));
    assert_eq!(poll.poller.take_notice(), Some(Polling::Good));
}
