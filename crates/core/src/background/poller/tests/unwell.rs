//! A Keycloak that hangs, or that has lost a node.

use super::*;

#[test]
fn what_one_node_of_keycloak_does_not_answer_the_other_is_asked() {
    for every_other in [0, 1] {
        let (mut poll, mut shared, mut events) = polled();
        poll.service_token = ServiceToken::default();
        events.tell(1_000, "UPDATE", "users/alice");
        let mut call = poll.tick(5_000, &mut shared);
        for number in 0.. {
            let Some(Effect::Call { call: next, .. }) = call else {
                break;
            };
            let (status, body) = events.answer(&next, at(5_000));
            let input = match number % 2 {
                gone if gone == every_other => Event::Failed("connection refused"),
                _ => Event::Answer {
                    status,
                    body: Some(&body),
                },
            };
            call = poll.input(input, 5_000, &mut shared);
        }
        assert!(poll.kills("alice", 5_250));
        assert_eq!(poll.revocations.watched().failed_at, UnixMillis(0));
    }
}

#[test]
fn keys_in_use_go_on_while_a_poll_hangs_and_not_on_a_node_that_was_paused() {
    let (mut poll, mut shared, _) = polled();
    let mut other = Poll::new(b"other");
    let age = |poll: &Poll, ms: u64| poll.revocations.age_max_ms(at(ms));
    assert!(poll.tick(5_000, &mut shared).is_some());
    for ms in (5_200..13_000).step_by(200) {
        assert!(poll.tick(ms, &mut shared).is_none());
        other.revocations.look(at(ms), &mut shared);
        assert_eq!(
            (age(&poll, ms), age(&other, ms)),
            (u64::MAX, u64::MAX),
            "{ms}"
        );
    }
    // The worker that waited is gone, or the whole node stood still: that was long ago.
    assert_eq!(age(&poll, 15_300), 6_000);
    assert_eq!(age(&other, 15_300), 6_000);
    // A poll that is answered in time tells nobody that it waited.
    let (mut poll, mut shared, mut events) = polled();
    poll.poll(5_000, &mut shared, &mut events);
    assert_eq!(poll.revocations.watched().asked_at, UnixMillis(0));
}
