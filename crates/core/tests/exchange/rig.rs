//! The core as a rig of the scenarios that it has in common with the built filter.

use std::collections::BTreeMap;

use apikeys_core::background::Watch;
use apikeys_core::exchange::Worker;
use apikeys_core::machine::Effect;
use serde_json::Value;
use test_kit::scenarios::{Asked, Fate, Outcome, Rig};

use super::keycloak::{FakeKeycloak, User, asked};
use super::keys::new_worker;
use super::world::{Ended, World};

/// A node of the core's workers, of which one is awake at a time.
struct Node {
    world: World,
    /// All workers but the first.
    asleep: Vec<(Worker, Watch)>,
    fate: Box<dyn FnMut(Asked, u32) -> Fate>,
    counts: BTreeMap<Asked, u32>,
    /// Why requests were rejected.
    said: Vec<String>,
}

impl Node {
    /// Wakes this worker and has the first sleep in its place, or the other way round.
    fn swap(&mut self, worker: usize) {
        if worker > 0 {
            self.world.take_the_other(&mut self.asleep[worker - 1]);
        }
    }
}

fn kind(effect: &Effect) -> Option<Asked> {
    match effect {
        Effect::Yield { wait_ms, .. } => wait_ms.is_none().then_some(Asked::Turn),
        Effect::Call { call, .. } => Some(match asked(call) {
            "token" => Asked::ServiceToken,
            "look-up" => Asked::Lookup,
            "grant" => Asked::Grant,
            other => panic!("an exchange asks for {other}"),
        }),
        Effect::Compute { .. } => unreachable!("this host computes in slices"),
    }
}

impl Rig for Node {
    fn with(users: Vec<User>, changes: &Value) -> Self {
        Self {
            world: World::with(users, changes),
            asleep: Vec::new(),
            fate: Box::new(|_, _| Fate::Answered),
            counts: BTreeMap::new(),
            said: Vec::new(),
        }
    }

    fn add_worker(&mut self) -> usize {
        let worker = new_worker(&self.world.config, b"another worker");
        let watch = Watch::new(&worker);
        self.asleep.push((worker, watch));
        self.asleep.len()
    }

    fn send(&mut self, worker: usize, headers: &[(&str, &str)]) -> Outcome {
        self.swap(worker);
        let (fate, counts) = (&mut self.fate, &mut self.counts);
        let ended = self.world.request_led(headers, |effect, answer| {
            let Some(asked) = kind(effect) else {
                return Ok(answer());
            };
            let count = counts.entry(asked).or_default();
            *count += 1;
            match fate(asked, *count - 1) {
                Fate::Answered => Ok(answer()),
                Fate::Changed(change) => {
                    let (status, body) = answer();
                    Ok((status, change(&body)))
                }
                Fate::Status(status, body) => Ok((status, body)),
                Fate::Reset => Err("connection reset"),
            }
        });
        self.swap(worker);
        match ended {
            Ended::Forwarded(forward) => {
                let token = forward.authorization.strip_prefix("Bearer ").unwrap();
                Outcome::Forwarded(token.to_owned())
            }
            Ended::Passed(_) => Outcome::Passed,
            Ended::Rejected(rejection, reason) => {
                self.said.push(reason.to_string());
                Outcome::Rejected(rejection.status(), rejection.code().to_owned())
            }
        }
    }

    fn keycloak(&mut self, change: impl FnOnce(&mut FakeKeycloak)) {
        change(&mut self.world.keycloak);
    }

    fn fates(&mut self, fate: impl FnMut(Asked, u32) -> Fate + 'static) {
        self.fate = Box::new(fate);
    }

    fn count(&self, asked: Asked) -> u32 {
        self.counts.get(&asked).copied().unwrap_or_default()
    }

    fn pass(&mut self, ms: u64) {
        self.world.now = self.world.now.plus_ms(ms);
    }

    fn logged(&self, text: &str) -> bool {
        self.said.iter().any(|said| said.contains(text))
    }

    fn come_from(&mut self, address: &str) {
        self.world.address = Some(address.to_owned());
    }

    fn addresses_asked(&self) -> usize {
        self.world.asked_for_address.get() as usize
    }

    /// Which of a key's headers go on is the shell's doing.
    fn let_keys_pass(&mut self) {}
}

test_kit::run_scenarios!(Node);
