//! One run: a queue of coming events, and the machines that take them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::Tally;
use super::faults::{Breakage, Faults};
use super::truth::{KEYS_MAX, Truth};
use super::writer::{Attempt, End, Fate, Read, Writer};
use crate::api_key::hash::hash_sha256;
use crate::clock::UnixMillis;
use crate::keycloak::Call;
use crate::machine::{Effect, Event as Outcome};
use crate::manage::change::tests::keycloak::{Answer, Keycloak, OWNER, PROVIDER, USERS};
use crate::manage::change::{
    Change, ChangeError, ChangeOutput, Changed, HOLD_MS, LOCK_PROVIDER, OwnerChange,
};
use crate::manage::owner_keys::{Edit, NewKey, Replacement, Setting};

const WRITERS: usize = 8;
const CHANGES_EACH: u32 = 6;
pub(super) const TIMEOUT_MS: u64 = 2_000;
pub(super) const EPOCH: u64 = 1_800_000_000_000;

/// An event of the run.
#[derive(Debug)]
pub(super) enum Event {
    /// A writer begins a change.
    Begin(usize),
    /// A call reaches Keycloak.
    Arrives(Sent),
    /// A writer is given the input that it waits for.
    Input(usize, u64, Given),
    /// The administrator opens the owner, and later saves the data read now.
    Opens,
    Saves(serde_json::Value),
}

/// A call under way.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) writer: usize,
    pub(super) awaited: u64,
    pub(super) serial: usize,
    pub(super) call: Call,
    /// The owner as its sender had read it by then.
    pub(super) basis: Read,
    /// The delay of the answer, if it comes, and its status, if it is changed.
    pub(super) answered: Option<(u64, Option<u16>)>,
}

#[derive(Debug, Clone)]
pub(super) enum Given {
    Begin,
    Answer(Answer),
    Failed,
    Waited,
}

/// A world and its history.
pub(super) struct Run {
    pub(super) dice: ChaCha8Rng,
    pub(super) faults: Faults,
    pub(super) breakage: Option<Breakage>,
    pub(super) now: u64,
    pub(super) queue: BinaryHeap<Reverse<(u64, u64)>>,
    pub(super) events: std::collections::BTreeMap<u64, Event>,
    pub(super) keycloak: Keycloak,
    pub(super) writers: Vec<Writer>,
    pub(super) fates: Vec<Fate>,
    pub(super) truth: Truth,
    /// The number of ids given to new keys.
    pub(super) ids_given: usize,
    /// Ids of all keys that were ever there, the latest last.
    pub(super) known: Vec<String>,
    pub(super) tally: Tally,
    pub(super) trace: Vec<String>,
    pub(super) traced: bool,
}

impl Run {
    pub(super) fn new(seed: u64, faults: Faults, breakage: Option<Breakage>) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let mut keycloak = Keycloak::new();
        keycloak.links_are_no_lock = breakage == Some(Breakage::LinksAreNoLock);
        let truth = Truth::new(&keycloak);
        let skew_ms = [0, 1_000, faults.skew_ms][dice.random_range(0..3_usize)];
        let way_ms = [20, 60, 250, 700][dice.random_range(0..4_usize)];
        let faults = Faults {
            skew_ms,
            way_ms: faults.way_ms.min(way_ms),
            ..faults
        };
        let faults = faults.mixed(|| [0.0, 0.5, 1.0, 5.0][dice.random_range(0..4_usize)]);
        let apart_ms = match breakage {
            Some(Breakage::ClocksFurtherApart) => skew_ms + 60_000,
            _ => skew_ms,
        };
        let writers = (0..WRITERS).map(|_| Writer {
            offset_ms: dice.random_range(0..=apart_ms),
            changes_left: CHANGES_EACH,
            awaited: 0,
            at_the_break: false,
            attempt: None,
        });
        let mut run = Self {
            faults,
            breakage,
            now: 0,
            queue: BinaryHeap::new(),
            events: std::collections::BTreeMap::new(),
            keycloak,
            writers: writers.collect(),
            fates: Vec::new(),
            truth,
            ids_given: 0,
            known: Vec::new(),
            tally: Tally::new(),
            trace: Vec::new(),
            traced: false,
            dice,
        };
        for writer in 0..WRITERS {
            let at = run.range(0, 300);
            run.at(at, Event::Begin(writer));
        }
        run
    }

    pub(super) fn traced(seed: u64, faults: Faults, breakage: Option<Breakage>) -> Self {
        Self {
            traced: true,
            ..Self::new(seed, faults, breakage)
        }
    }

    /// Runs until nothing is left to happen; gives the first promise that is broken.
    pub(super) fn run_out(&mut self) -> Result<(), String> {
        while let Some(Reverse((at, number))) = self.queue.pop() {
            self.now = at;
            let event = self.events.remove(&number).expect("an event");
            self.happens(event)?;
        }
        self.one_more()?;
        self.truth.at_the_end(&self.keycloak)
    }

    fn happens(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Begin(writer) => self.begin(writer),
            Event::Arrives(sent) => self.arrives(&sent),
            Event::Input(writer, awaited, given) if self.writers[writer].awaited == awaited => {
                self.input(writer, given)
            }
            Event::Input(..) => Ok(()),
            Event::Opens => {
                let user = self.keycloak.user.clone();
                let at = self.now + self.range(10, 5_000);
                self.at(at, Event::Saves(user));
                Ok(())
            }
            Event::Saves(user) => {
                self.save(user);
                Ok(())
            }
        }
    }

    // --- the writers ---

    fn begin(&mut self, writer: usize) -> Result<(), String> {
        self.writers[writer].changes_left -= 1;
        let patience_ms = if self.chance(0.5) { 15_000 } else { 120_000 };
        let edit = self.edit(writer);
        let serial = self.fates.len();
        let holder = format!("holder{serial:010}w{writer}");
        let change = change(edit.clone(), &holder, patience_ms, false);
        let machine = OwnerChange::new(change, self.clock(writer));
        self.note(|| format!("{holder} begins {edit:?}"));
        self.fates.push(Fate {
            holder,
            edit,
            patience_ms,
            faulty: false,
            slow: false,
            last_read: None,
            writes: 0,
            end: None,
        });
        self.writers[writer].attempt = Some(Attempt {
            serial,
            machine,
            began_at: self.now,
            inputs: 0,
        });
        let chance = self.faults.administrator / 4.0;
        if self.chance(chance) {
            let at = self.now + self.range(0, 500);
            self.at(at, Event::Opens);
        }
        self.input(writer, Given::Begin)
    }

    /// A writer's next change.
    fn edit(&mut self, writer: usize) -> Edit {
        let new_id = format!("{:012}", self.ids_given);
        let hash_text = hash_sha256(new_id.as_bytes());
        let created = self.clock(writer);
        let kind = self.range(0, 99);
        let at = self.range(0, 1_000_000) as usize;
        let grace_ms = [0, 5_000, 60_000][at % 3];
        // The latest ones are the likeliest to be there.
        let recent = self.known.len().saturating_sub(6);
        let id = match self.known.get(recent..) {
            Some(ids) if !ids.is_empty() => ids[at % ids.len()].clone(),
            _ => new_id.clone(),
        };
        if kind < 45 || id == new_id {
            self.ids_given += 1;
            let key = NewKey {
                id: new_id,
                hash_text,
                name: "made".to_owned(),
                created,
                expires_at: created.plus_ms(86_400_000),
                scopes: None,
                settings: Vec::new(),
            };
            Edit::Create {
                key,
                keys_max: KEYS_MAX,
            }
        } else if kind < 75 {
            Edit::Revoke { id }
        } else if kind < 85 {
            let labels = Setting::Labels(Some(format!("number={at}")));
            Edit::Update {
                id,
                settings: vec![labels],
            }
        } else {
            self.ids_given += 1;
            let replacement = Replacement {
                id: new_id,
                hash_text,
                created,
                expires_at: None,
            };
            Edit::Rotate {
                id,
                replacement,
                grace_ms,
                keys_max: KEYS_MAX,
            }
        }
    }

    fn input(&mut self, writer: usize, given: Given) -> Result<(), String> {
        let now = self.clock(writer);
        let serial = self.writers[writer].attempt.as_ref().expect("one").serial;
        let (crashed, paused) = (self.faults.crashed, self.faults.paused);
        // Few writers break a lock, and faults on their way matter most.
        let weight = if self.writers[writer].at_the_break {
            10.0
        } else {
            1.0
        };
        let crashed = (crashed * weight).min(0.3);
        if self.chance(crashed) {
            self.count("crashed");
            self.note(|| format!("holder{serial:010} crashes"));
            self.fates[serial].faulty = true;
            self.fates[serial].end = Some(End::Crashed);
            return self.over(writer);
        }
        if self.chance(paused) {
            self.count("paused");
            self.fates[serial].faulty = true;
            let longest = [500, 20_000, 120_000][self.dice.random_range(0..3_usize)];
            let at = self.now + self.range(1, longest);
            let awaited = self.await_next(writer);
            self.at(at, Event::Input(writer, awaited, given));
            return Ok(());
        }
        let attempt = self.writers[writer].attempt.as_mut().expect("one");
        attempt.inputs += 1;
        let (inputs, took) = (attempt.inputs, self.now - attempt.began_at);
        let output = match &given {
            Given::Begin => attempt.machine.begin("T", now),
            Given::Waited => attempt.machine.handle_event(Outcome::TURN, "T", now),
            Given::Failed => attempt
                .machine
                .handle_event(Outcome::Failed("no answer"), "T", now),
            Given::Answer((status, body)) => {
                let input = Outcome::Answer {
                    status: *status,
                    body: Some(body.as_bytes()),
                };
                attempt.machine.handle_event(input, "T", now)
            }
        };
        let fate = &mut self.fates[serial];
        fate.slow |= took >= HOLD_MS;
        let allowed_ms = fate.patience_ms + 16 * TIMEOUT_MS;
        if inputs > 20 + fate.patience_ms / 5 || (took > allowed_ms && !fate.faulty) {
            return Err(format!("no end: {inputs} inputs in {took} ms"));
        }
        match output {
            ChangeOutput::Await(Effect::Call { call, .. }) => {
                self.send(writer, serial, call);
                Ok(())
            }
            ChangeOutput::Await(Effect::Yield { wait_ms, .. }) => {
                let ms = wait_ms.unwrap();
                self.count("waited");
                let awaited = self.await_next(writer);
                self.at(self.now + ms, Event::Input(writer, awaited, Given::Waited));
                Ok(())
            }
            ChangeOutput::Await(Effect::Compute { .. }) => {
                unreachable!("a change computes nothing")
            }
            ChangeOutput::Done(result) => self.ended(writer, serial, *result),
        }
    }

    fn ended(
        &mut self,
        writer: usize,
        serial: usize,
        result: Result<Changed, ChangeError>,
    ) -> Result<(), String> {
        let (end, what) = match &result {
            Ok(_) => (End::Made, "made"),
            Err(ChangeError::Refused(_)) => (End::NotMade, "refused"),
            Err(ChangeError::Busy) => (End::NotMade, "busy"),
            Err(ChangeError::Unknown(_)) => (End::Unknown, "unknown"),
            Err(ChangeError::NotAsWritten) => (End::Unknown, "not as written"),
            Err(_) => (End::NotMade, "failed"),
        };
        self.count(what);
        self.note(|| format!("holder{serial:010} ends: {result:?}"));
        let fate = &mut self.fates[serial];
        fate.end = Some(end);
        let keys = result
            .ok()
            .map(|changed| changed.keys.into_iter().map(|key| key.id).collect());
        self.truth.told(fate, keys, &self.keycloak)?;
        let fate = &self.fates[serial];
        if !fate.faulty && !fate.slow && self.holds_a_lock(&fate.holder) {
            return Err(format!("{} left its lock behind", fate.holder));
        }
        self.over(writer)
    }

    fn over(&mut self, writer: usize) -> Result<(), String> {
        self.await_next(writer);
        self.writers[writer].attempt = None;
        if self.writers[writer].changes_left > 0 {
            let longest = [400, 400, 10_000, 60_000][self.dice.random_range(0..4_usize)];
            let at = self.now + self.range(0, longest);
            self.at(at, Event::Begin(writer));
        }
        Ok(())
    }

    // --- the administrator ---

    fn save(&mut self, mut user: serde_json::Value) {
        self.count("administered");
        let value = format!("{}@example.com", self.now);
        if self.chance(0.5) {
            user["email"] = json!(value);
        } else {
            user["attributes"]["phone"] = json!([value]);
        }
        let before = self.keycloak.clone();
        self.keycloak.user = user;
        self.note(|| format!("the administrator saves {value}"));
        self.truth
            .administered(&before, &self.keycloak, &mut self.tally);
    }

    // --- the end ---

    /// One more change, by a patient writer without faults: no owner is blocked for good.
    fn one_more(&mut self) -> Result<(), String> {
        let relink = self.faults.administrator > 0.0;
        let change = change(Edit::Reindex, "oneMoreHolder0000", 600_000, relink);
        let clock = |now| UnixMillis(EPOCH + now);
        let mut machine = OwnerChange::new(change, clock(self.now));
        let mut given = Given::Begin;
        loop {
            let now = clock(self.now);
            let output = match &given {
                Given::Answer((status, body)) => {
                    let (status, body) = (*status, Some(body.as_bytes()));
                    machine.handle_event(Outcome::Answer { status, body }, "T", now)
                }
                Given::Waited => machine.handle_event(Outcome::TURN, "T", now),
                _ => machine.begin("T", now),
            };
            given = match output {
                ChangeOutput::Await(Effect::Call { call, .. }) => {
                    self.now += 5;
                    Given::Answer(self.keycloak.answer(&call))
                }
                ChangeOutput::Await(Effect::Yield { wait_ms, .. }) => {
                    let ms = wait_ms.unwrap();
                    self.now += ms;
                    Given::Waited
                }
                ChangeOutput::Await(Effect::Compute { .. }) => {
                    unreachable!("a change computes nothing")
                }
                ChangeOutput::Done(result) => {
                    if let Err(error) = *result {
                        return Err(format!("the owner is blocked for good: {error}"));
                    }
                    break;
                }
            };
        }
        if self.keycloak.links.contains_key(LOCK_PROVIDER) {
            return Err("a lock was left behind".to_owned());
        }
        Ok(())
    }

    // --- chance and time ---

    fn holds_a_lock(&self, holder: &str) -> bool {
        let lock = self.keycloak.links.get(LOCK_PROVIDER);
        lock.is_some_and(|(id, _)| id == holder)
            || self
                .keycloak
                .groups
                .iter()
                .any(|group| group.attributes.to_string().contains(holder))
    }

    fn clock(&self, writer: usize) -> UnixMillis {
        UnixMillis(EPOCH + self.now + self.writers[writer].offset_ms)
    }

    pub(super) fn await_next(&mut self, writer: usize) -> u64 {
        self.writers[writer].awaited += 1;
        self.writers[writer].awaited
    }

    pub(super) fn at(&mut self, at: u64, event: Event) {
        let number = self.events.last_key_value().map_or(0, |(last, _)| last + 1);
        self.events.insert(number, event);
        self.queue.push(Reverse((at, number)));
    }

    /// Draws in any case, so that switching a fault off leaves the rest of the run unchanged.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.dice.random::<f64>() < probability
    }

    pub(super) fn range(&mut self, low: u64, high: u64) -> u64 {
        self.dice.random_range(low..=high)
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.traced {
            self.trace.push(format!("{:>9} {}", self.now, what()));
        }
    }
}

fn change(edit: Edit, holder: &str, wait_ms_max: u64, relink: bool) -> Change {
    Change {
        users_path: USERS.to_owned(),
        identity_provider: PROVIDER.to_owned(),
        owner_id: OWNER.to_owned(),
        edit,
        gateway_accounts: Vec::new(),
        disabled_owners: false,
        relink,
        holder: holder.to_owned(),
        wait_ms_max,
        callout_timeout_ms: 2_000,
    }
}
