//! Events that cannot be read, or say that they are yet to come.

use super::*;

#[test]
fn an_event_that_is_too_large_concerns_everybody_and_hides_no_other() {
    let (mut poll, mut shared, mut events) = polled();
    events.tell(4_000, "UPDATE", "users/alice");
    let huge = "x".repeat(200_000);
    events.tell(4_500, "UPDATE", &format!("users/carol/{huge}"));
    poll.poll(5_000, &mut shared, &mut events);
    assert!(poll.kills("bob", 5_250));
    assert_eq!(poll.poller.take_notice(), None, "it polls as before");
    // It is come upon for no longer than any other, though none follows it.
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
    assert_eq!(poll.poller.take_notice(), Some(Polling::Good));
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
