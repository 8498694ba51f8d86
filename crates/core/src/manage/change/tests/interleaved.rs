//! Machines led step by step through interleavings that once lost a change, or would lose one
//! without some rule of the lock.

use super::*;

/// A machine, its clock, and the call that it waits for.
struct Writer {
    machine: OwnerChange,
    waits_for: Option<Call>,
    result: Option<Result<Changed, ChangeError>>,
}

/// The world: one Keycloak, one time.
struct World {
    keycloak: Keycloak,
    now: UnixMillis,
}

impl World {
    fn new(ids: &[&str]) -> Self {
        Self {
            keycloak: realm(ids),
            now: NOW,
        }
    }

    fn begin(&self, holder: &str, edit: Edit) -> Writer {
        let change = Change {
            holder: holder.to_owned(),
            wait_ms_max: 600_000,
            ..super::change(edit)
        };
        let mut writer = Writer {
            machine: OwnerChange::new(change, self.now),
            waits_for: None,
            result: None,
        };
        let output = writer.machine.begin("T", self.now);
        writer.obey(output, self.now);
        writer
    }

    /// The writer's call takes effect, and is answered.
    #[track_caller]
    fn step(&mut self, writer: &mut Writer, kind: &str) {
        let call = writer.call(kind);
        let answer = self.keycloak.answer(&call);
        self.answer(writer, &answer);
    }

    fn answer(&self, writer: &mut Writer, answer: &Answer) {
        let (status, body) = (answer.0, Some(answer.1.as_bytes()));
        writer.input(Event::Answer { status, body }, self.now);
    }

    /// Leads the writer on until its next call is this one.
    #[track_caller]
    fn until(&mut self, writer: &mut Writer, kind: &str) {
        for _ in 0..2_000 {
            let call = writer.waits_for.clone().expect("it has ended");
            if asked(&call) == kind {
                return;
            }
            let answer = self.keycloak.answer(&call);
            self.now = self.now.plus_ms(5);
            self.answer(writer, &answer);
        }
        panic!("it never came to {kind}");
    }

    #[track_caller]
    fn end(&mut self, writer: &mut Writer) {
        for _ in 0..10_000 {
            let Some(call) = writer.waits_for.clone() else {
                return;
            };
            let answer = self.keycloak.answer(&call);
            self.now = self.now.plus_ms(5);
            self.answer(writer, &answer);
        }
        panic!("it never ends");
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
    }

    fn holder(&self) -> Option<&str> {
        let lock = self.keycloak.links.get(LOCK_PROVIDER);
        lock.map(|(holder, _)| holder.as_str())
    }
}

impl Writer {
    fn input(&mut self, event: Event<'_>, now: UnixMillis) {
        let output = self.machine.handle_event(event, "T", now);
        self.obey(output, now);
    }

    fn obey(&mut self, output: ChangeOutput, now: UnixMillis) {
        self.waits_for = None;
        match output {
            ChangeOutput::Await(Effect::Call { call, .. }) => self.waits_for = Some(call),
            // Nobody here waits for long.
            ChangeOutput::Await(Effect::Yield { .. }) => self.input(Event::TURN, now),
            ChangeOutput::Await(Effect::Compute { .. }) => {
                unreachable!("a change computes nothing")
            }
            ChangeOutput::Done(result) => self.result = Some(*result),
        }
    }

    #[track_caller]
    fn call(&mut self, kind: &str) -> Call {
        let call = self.waits_for.clone().expect("it waits for a call");
        assert_eq!(asked(&call), kind);
        call
    }
}

const LOCK: &str = "POST api-keys-lock";
const UNLOCK: &str = "DELETE api-keys-lock";
const CLAIM: &str = "POST groups";
const READ_CLAIM: &str = "GET groups";

/// A world in which a dead writer's lock has just become stale.
fn with_a_stale_lock() -> World {
    let mut world = World::new(&[A]);
    let mut dead = world.begin("dead000000000000", create(B));
    world.step(&mut dead, LOCK);
    world.pass(STALE_MS);
    world
}

#[test]
fn a_lock_is_broken_when_it_is_stale_and_not_before() {
    let mut world = World::new(&[A]);
    let mut dead = world.begin("dead000000000000", create(B));
    world.step(&mut dead, LOCK);
    let mut next = world.begin("next000000000000", create(B));
    world.pass(STALE_MS - 1);
    world.step(&mut next, LOCK);
    world.step(&mut next, "GET links");
    assert_eq!(next.waits_for.as_ref().map(asked).as_deref(), Some(LOCK));
    world.pass(1);
    for kind in [LOCK, "GET links", CLAIM, READ_CLAIM, "GET links", UNLOCK] {
        world.step(&mut next, kind);
    }
    assert_eq!(world.holder(), None);
    assert_eq!(world.keycloak.groups.len(), 1);
    world.end(&mut next);
    assert!(next.result.unwrap().is_ok());
    holds_no_lock(&world.keycloak);
}

#[test]
fn a_lock_that_says_nothing_of_its_time_is_stale() {
    for name in ["", "alice", "alice@", "alice@soon"] {
        let mut world = World::new(&[A]);
        let foreign = ("another".to_owned(), name.to_owned());
        world
            .keycloak
            .links
            .insert(LOCK_PROVIDER.to_owned(), foreign);
        let mut writer = world.begin("next000000000000", create(B));
        world.end(&mut writer);
        assert!(writer.result.unwrap().is_ok(), "{name}");
    }
}

#[test]
fn of_two_that_break_one_lock_the_second_leaves_the_next_ones_alone() {
    let mut world = with_a_stale_lock();
    let mut first = world.begin("first00000000000", create(B));
    let mut second = world.begin("second0000000000", revoke(A));
    world.until(&mut first, CLAIM);
    world.until(&mut second, CLAIM);
    world.step(&mut first, CLAIM);
    world.step(&mut second, CLAIM);
    world.step(&mut second, READ_CLAIM);
    // Not its own: it waits, and asks for the lock again.
    assert_eq!(second.waits_for.as_ref().map(asked).as_deref(), Some(LOCK));
    world.until(&mut first, LOCK);
    world.step(&mut first, LOCK);
    world.end(&mut first);
    world.end(&mut second);
    assert!(first.result.unwrap().is_ok() && second.result.unwrap().is_ok());
    assert_eq!(ids(&world.keycloak), [B]);
}

#[test]
fn a_claim_to_break_what_is_broken_by_now_is_given_back() {
    let mut world = with_a_stale_lock();
    let mut slow = world.begin("slow000000000000", create(B));
    world.until(&mut slow, CLAIM);
    let mut quick = world.begin("quick00000000000", create(B));
    world.until(&mut quick, "GET user");
    assert_eq!(world.holder(), Some("quick00000000000"));
    for kind in [CLAIM, READ_CLAIM, "GET links"] {
        world.step(&mut slow, kind);
    }
    let next = slow.waits_for.as_ref().map(asked);
    assert!(
        next.as_deref()
            .is_some_and(|call| call.starts_with("DELETE group-"))
    );
    world.step(&mut slow, &next.unwrap());
    assert_eq!(world.holder(), Some("quick00000000000"));
}

#[test]
fn a_breaker_that_stood_still_takes_nobodys_lock_away() {
    let mut world = with_a_stale_lock();
    let mut slow = world.begin("slow000000000000", create(B));
    world.until(&mut slow, CLAIM);
    world.step(&mut slow, CLAIM);
    world.step(&mut slow, READ_CLAIM);
    let links = slow.call("GET links");
    let seen = world.keycloak.answer(&links);
    // Its claim becomes stale; others end it, break the lock and take it.
    world.pass(STALE_MS);
    let mut quick = world.begin("quick00000000000", create(B));
    world.until(&mut quick, "PUT user");
    assert_eq!(world.holder(), Some("quick00000000000"));
    world.answer(&mut slow, &seen);
    let next = slow.waits_for.as_ref().map(asked).unwrap();
    assert!(
        next.starts_with("DELETE group-"),
        "{next} under a stale claim"
    );
    for _ in 0..20 {
        let call = slow.waits_for.clone().unwrap();
        let answer = world.keycloak.answer(&call);
        world.answer(&mut slow, &answer);
    }
    assert_eq!(world.holder(), Some("quick00000000000"));
}

#[test]
fn a_deletion_that_was_not_answered_is_not_made_again() {
    let mut world = with_a_stale_lock();
    let mut breaker = world.begin("breaker000000000", create(B));
    world.until(&mut breaker, UNLOCK);
    // On its way; no answer comes.
    let late = breaker.call(UNLOCK);
    breaker.input(Event::Failed("no answer"), world.now);
    let mut other = world.begin("other00000000000", revoke(A));
    for _ in 0..100 {
        for writer in [&mut breaker, &mut other] {
            let call = writer.waits_for.clone().unwrap();
            assert_ne!(asked(&call), UNLOCK, "a second deletion beside the first");
            let answer = world.keycloak.answer(&call);
            world.pass(50);
            world.answer(writer, &answer);
        }
    }
    // It arrives before the claim is stale, and hits the lock that it was meant for.
    assert_eq!(world.holder(), Some("dead000000000000"));
    world.keycloak.answer(&late);
    world.end(&mut breaker);
    world.end(&mut other);
    assert!(breaker.result.unwrap().is_ok() && other.result.unwrap().is_ok());
    assert_eq!(ids(&world.keycloak), [B]);
}

/// Two writers find the claim of a dead breaker stale; one deletes it after the other has
/// claimed anew. Gives the writers that could begin to write at the same time.
fn two_find_a_dead_breakers_claim(groups_have_no_id: bool) -> Vec<&'static str> {
    let mut world = with_a_stale_lock();
    world.keycloak.groups_have_no_id = groups_have_no_id;
    let mut dead = world.begin("deadbreaker00000", create(B));
    world.until(&mut dead, CLAIM);
    world.step(&mut dead, CLAIM);
    world.pass(STALE_MS);
    let mut first = world.begin("first00000000000", create(B));
    let mut second = world.begin("second0000000000", create(B));
    for writer in [&mut first, &mut second] {
        world.until(writer, CLAIM);
        world.step(writer, CLAIM);
        world.step(writer, READ_CLAIM);
    }
    let end_claim = format!("DELETE {}", world.keycloak.groups[0].id);
    world.step(&mut first, &end_claim);
    world.until(&mut first, UNLOCK);
    // The second's deletion of the dead claim comes now.
    world.step(&mut second, &end_claim);
    let mut breakers = vec![(&mut first, "first")];
    let came_to_break = (0..20).any(|_| {
        let call = second.waits_for.clone().unwrap();
        let is_break = asked(&call) == UNLOCK;
        if !is_break {
            let answer = world.keycloak.answer(&call);
            world.answer(&mut second, &answer);
        }
        is_break
    });
    if came_to_break {
        breakers.push((&mut second, "second"));
    }
    breakers.into_iter().map(|(_, name)| name).collect()
}

#[test]
fn a_dead_breakers_claim_is_ended_once_since_a_claim_has_an_id() {
    assert_eq!(two_find_a_dead_breakers_claim(false), ["first"]);
    // Were it a link, which has no id, both would break the lock: the later one would break the
    // lock of the next holder.
    assert_eq!(two_find_a_dead_breakers_claim(true), ["first", "second"]);
}

#[test]
fn nothing_is_begun_under_a_lock_that_may_be_anothers() {
    for (kind, edit) in [
        ("GET user", create(B)),
        ("GET holders", create(B)),
        ("POST api-keys", create(B)),
        ("PUT user", create(B)),
        ("GET user", revoke(A)),
    ] {
        let keys: &[&str] = if kind.ends_with("user") { &[A] } else { &[] };
        let mut world = World::new(keys);
        let mut slow = world.begin("slow000000000000", edit);
        world.until(&mut slow, kind);
        // The answer takes this long.
        let answer = world.keycloak.answer(&slow.call(kind));
        world.pass(HOLD_MS);
        world.answer(&mut slow, &answer);
        // It may read, and wait for the lock anew; nothing else.
        for _ in 0..4 {
            let Some(call) = slow.waits_for.clone() else {
                break;
            };
            let call_kind = asked(&call);
            assert!(
                call.method == "GET" || call_kind == LOCK,
                "{call_kind} after {kind}"
            );
            let answer = world.keycloak.answer(&call);
            world.answer(&mut slow, &answer);
        }
        // It does not give the lock back either: others break it in time.
        assert_eq!(world.holder(), Some("slow000000000000"), "{kind}");
    }
}

#[test]
fn a_holder_goes_on_until_just_before_that() {
    let mut world = World::new(&[A]);
    let mut writer = world.begin("slow000000000000", create(B));
    world.until(&mut writer, "GET user");
    let answer = world.keycloak.answer(&writer.call("GET user"));
    world.now = NOW.plus_ms(HOLD_MS - 1);
    world.answer(&mut writer, &answer);
    assert_eq!(
        writer.waits_for.as_ref().map(asked).as_deref(),
        Some("PUT user")
    );
    // After a clock was set back, the time held is unknown.
    world.now = NOW.minus_ms(1);
    let answer = world.keycloak.answer(&writer.call("PUT user"));
    world.answer(&mut writer, &answer);
    world.step(&mut writer, "GET user");
    assert!(writer.result.unwrap().is_ok());
    assert_eq!(world.holder(), Some("slow000000000000"));
}

#[test]
fn an_unlinking_that_comes_late_hits_no_later_keys_link() {
    let mut world = World::new(&[A]);
    let mut last = world.begin("last000000000000", revoke(A));
    world.until(&mut last, "DELETE api-keys");
    let late = last.call("DELETE api-keys");
    last.input(Event::Failed("no answer"), world.now);
    assert!(last.result.unwrap().is_ok());
    let mut first = world.begin("first00000000000", create(B));
    for _ in 0..200 {
        let call = first.waits_for.clone().unwrap();
        assert_ne!(asked(&call), "PUT user", "a key beside an unlinking");
        let answer = world.keycloak.answer(&call);
        world.pass(50);
        world.answer(&mut first, &answer);
    }
    world.keycloak.answer(&late);
    world.pass(STALE_MS);
    world.end(&mut first);
    assert!(first.result.unwrap().is_ok());
    assert!(world.keycloak.is_linked());
}

#[test]
fn who_was_too_slow_and_was_broken_begins_anew() {
    let mut world = World::new(&[A]);
    let mut slow = world.begin("slow000000000000", create(B));
    world.step(&mut slow, LOCK);
    world.pass(STALE_MS);
    let mut quick = world.begin("quick00000000000", create("cccc00000003"));
    world.end(&mut quick);
    assert!(quick.result.unwrap().is_ok());
    // Its lock is not there, and the realm is not at fault.
    world.end(&mut slow);
    assert!(slow.result.unwrap().is_ok());
    assert_eq!(ids(&world.keycloak), [A, "cccc00000003", B]);
}

#[test]
fn a_change_that_is_undone_by_hand_is_made_anew_and_no_key_twice() {
    for edit in [create(B), rotate(A, B, 0), rotate(A, B, 60_000), revoke(A)] {
        let mut world = World::new(&[A]);
        let opened = world.keycloak.user.clone();
        let mut writer = world.begin("writer0000000000", edit.clone());
        world.until(&mut writer, "PUT user");
        world.step(&mut writer, "PUT user");
        world.keycloak.user = opened.clone();
        world.end(&mut writer);
        let changed = writer.result.unwrap().unwrap();
        let told: Vec<&str> = changed.keys.iter().map(|key| key.id.as_str()).collect();
        let mut found = ids(&world.keycloak);
        found.sort();
        let mut sorted = told.clone();
        sorted.sort_unstable();
        assert_eq!(found, sorted, "{edit:?}");
        assert_eq!(
            found.contains(&B.to_owned()),
            !matches!(edit, Edit::Revoke { .. })
        );
    }
}

#[test]
fn what_is_undone_again_and_again_or_cannot_be_made_again_is_told_so() {
    let mut world = World::new(&[A]);
    let opened = world.keycloak.user.clone();
    let mut writer = world.begin("writer0000000000", create(B));
    for _ in 0..WRITES_MAX {
        world.until(&mut writer, "PUT user");
        world.step(&mut writer, "PUT user");
        world.keycloak.user = opened.clone();
    }
    world.end(&mut writer);
    assert_eq!(writer.result.unwrap(), Err(ChangeError::NotAsWritten));
    holds_no_lock(&world.keycloak);
    // Undone, and no room for it by now.
    let mut world = World::new(&[A]);
    let mut writer = world.begin("writer0000000000", create(B));
    world.until(&mut writer, "PUT user");
    world.step(&mut writer, "PUT user");
    world.keycloak.user = realm(&["d", "e", "f"]).user;
    world.end(&mut writer);
    let error = writer.result.unwrap().unwrap_err();
    assert!(
        matches!(&error, ChangeError::Unknown(why) if why.contains("may hold 3")),
        "{error}"
    );
}

#[test]
fn what_an_administrator_adds_meanwhile_is_no_matter() {
    let mut world = World::new(&[A]);
    let mut writer = world.begin("writer0000000000", create(B));
    world.until(&mut writer, "PUT user");
    world.step(&mut writer, "PUT user");
    let attributes = &mut world.keycloak.user["attributes"];
    attributes["apiKey_aaaa00000001_name"] = json!(["by hand"]);
    attributes["phone"] = json!(["3"]);
    world.end(&mut writer);
    let changed = writer.result.unwrap().unwrap();
    assert!(changed.keys.iter().any(|key| key.name == "by hand"));
    assert_eq!(world.keycloak.user["attributes"]["phone"], json!(["3"]));
}

#[test]
fn an_input_after_the_end_is_an_error_and_no_panic() {
    let mut world = World::new(&[A]);
    let mut writer = world.begin("writer0000000000", revoke(B));
    world.end(&mut writer);
    writer.input(Event::TURN, world.now);
    assert!(matches!(
        writer.result.unwrap(),
        Err(ChangeError::Keycloak { .. })
    ));
}
