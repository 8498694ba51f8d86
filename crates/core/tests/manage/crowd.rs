//! Many requests at once, in any order of their answers: nothing lost, nothing that comes
//! back, no owner with more keys than it may hold.
//!
//! Three workers on two nodes serve some owners. A seed decides when a call reaches Keycloak
//! and when its answer comes back, so anything happens in between. At the end the answers are
//! held against the data in Keycloak.

use std::collections::BTreeSet;

use apikeys_core::api_key::record::Field;
use apikeys_core::machine::Effect;
use apikeys_core::manage::Output;
use serde_json::{Value, json};

use super::client::Client;
use super::dice::Dice;
use super::keycloak::{Reply, User};
use super::request::Request;
use super::told::Told;
use super::world::World;

const OWNERS: [&str; 3] = ["alice", "bob", "carol"];
const KEYS_MAX: usize = 5;
const REQUESTS: usize = 100;
/// Within this all requests begin.
const BEGIN_MS: u64 = 2_000;
/// The time of a call's way there, and back.
const WAY_MS: u64 = 20;

/// A client that waits, and its next event.
struct Waiting {
    client: Client,
    due_ms: u64,
    next: Next,
}

enum Next {
    /// Its call reaches Keycloak.
    Arrives,
    /// The answer comes back.
    Comes(Reply),
    /// A turn or its body comes.
    Turn,
}

/// The answers so far.
#[derive(Default)]
struct Answered {
    /// Keys that were told.
    made: Vec<String>,
    ended: BTreeSet<String>,
    statuses: Vec<u16>,
}

struct Crowd {
    world: World,
    dice: Dice,
    time_ms: u64,
    waiting: Vec<Waiting>,
    answered: Answered,
    /// The percentage of calls that are lost. At each step, so many of a thousand clients hang
    /// up.
    faults: u64,
    profiles: Vec<Value>,
}

impl Crowd {
    fn new(seed: u64, faults: u64) -> Self {
        let profile =
            |name: &str| json!({ "email": format!("{name}@example.com"), "firstName": name });
        let users = OWNERS.map(|name| {
            let mut user = User::new(name).with_profile(&profile(name));
            user.unlink();
            user
        });
        let changes = json!({ "max_keys_per_user": KEYS_MAX, "hash_algorithm": "sha256" });
        let mut world = World::with(users.to_vec(), &changes);
        world.add_manager(0);
        let other = world.add_node();
        world.add_manager(other);
        let profiles = world.keycloak.users.iter();
        Self {
            profiles: profiles.map(|user| user.profile.clone().into()).collect(),
            world,
            dice: Dice::new(seed),
            time_ms: 0,
            waiting: Vec::new(),
            answered: Answered::default(),
            faults,
        }
    }

    /// A request that comes now, by the answers so far.
    fn request(&mut self) -> Request {
        let owner = self.dice.pick(&OWNERS);
        let token = self.world.token(owner);
        let held = self.world.keycloak.user(owner).key_ids();
        let known = match held.len() {
            0 => "nothinghere1".to_owned(),
            length => held[self.dice.below(length)].clone(),
        };
        match self.dice.below(10) {
            0..=4 => Request::create(&token, &json!({ "name": "n" })),
            5..=6 => Request::revoke(&token, &known),
            7 => Request::rotate(&token, &known, &json!({ "grace_seconds": 0 })),
            8 => Request::rotate(&token, &known, &json!({ "grace_seconds": 600 })),
            _ => Request::list(&token),
        }
    }

    fn run(&mut self) {
        let mut begins: Vec<u64> = (0..REQUESTS)
            .map(|_| self.dice.range(0, BEGIN_MS))
            .collect();
        begins.sort_unstable();
        begins.reverse();
        while let Some(begin) = begins.pop() {
            while let Some(at) = self.next().filter(|at| self.waiting[*at].due_ms <= begin) {
                self.pass_to(self.waiting[at].due_ms);
                self.step(at);
            }
            self.pass_to(begin);
            let request = self.request();
            let at = self.dice.below(3);
            let client = Client::send_at(&mut self.world, at, &request);
            self.sort_in(client);
        }
        self.drain();
    }

    /// Answers all that wait.
    fn drain(&mut self) {
        while let Some(at) = self.next() {
            self.pass_to(self.waiting[at].due_ms);
            self.step(at);
        }
    }

    /// The client for which something happens next.
    fn next(&self) -> Option<usize> {
        let waiting = self.waiting.iter().enumerate();
        waiting.min_by_key(|(_, it)| it.due_ms).map(|(at, _)| at)
    }

    fn pass_to(&mut self, time_ms: u64) {
        self.world.pass(time_ms.saturating_sub(self.time_ms));
        self.time_ms = self.time_ms.max(time_ms);
    }

    /// Carries out a client's event that is due.
    fn step(&mut self, at: usize) {
        let Waiting {
            mut client, next, ..
        } = self.waiting.swap_remove(at);
        if self.dice.range(0, 999) < self.faults {
            client.hang_up(&mut self.world);
            return;
        }
        let lost = self.dice.range(0, 99) < self.faults;
        match (next, &client.output) {
            (Next::Arrives, Output::Await(Effect::Call { call, .. })) if !lost => {
                let call = call.clone();
                let reply = self.world.keycloak.answer(&call, self.world.now);
                self.expect_limits();
                let due_ms = self.time_ms + self.dice.range(1, WAY_MS);
                let next = Next::Comes(reply);
                self.waiting.push(Waiting {
                    client,
                    due_ms,
                    next,
                });
                return;
            }
            (Next::Comes((status, body)), _) if !lost => {
                client.reply(&mut self.world, status, &body);
            }
            (Next::Arrives | Next::Comes(_), _) => {
                self.pass_to(self.time_ms + client.timeout_ms().min(300));
                client.fail(&mut self.world);
            }
            _ => client.answer(&mut self.world),
        }
        self.sort_in(client);
    }

    fn sort_in(&mut self, client: Client) {
        let (next, takes_ms) = match &client.output {
            Output::Respond(_) => return self.note(&client.told()),
            Output::Await(Effect::Call { .. }) => (Next::Arrives, self.dice.range(1, WAY_MS)),
            _ => (Next::Turn, client.takes_ms().max(1)),
        };
        let due_ms = self.time_ms + takes_ms;
        self.waiting.push(Waiting {
            client,
            due_ms,
            next,
        });
    }

    fn note(&mut self, told: &Told) {
        let path: Vec<&str> = told.request.path.split('/').collect();
        self.answered.statuses.push(told.status);
        match (told.request.method.as_str(), told.status) {
            ("POST", 201) => {
                self.answered.made.push(told.made().0);
                let body = told.request.body.clone().unwrap();
                if body == json!({ "grace_seconds": 0 }).to_string().into_bytes() {
                    self.answered.ended.insert(path[4].to_owned());
                }
            }
            ("DELETE", 204) => {
                self.answered.ended.insert(path[4].to_owned());
            }
            ("GET", 200) | (_, 404 | 409 | 503) => {}
            (method, status) => panic!("{method}: {status}"),
        }
    }

    /// Counted in any way, no owner holds more keys than it may.
    fn expect_limits(&self) {
        for user in &self.world.keycloak.users {
            let ids = user.key_ids();
            let replaced = |id: &&String| {
                user.attributes
                    .contains_key(&Field::ReplacedBy.attribute(id))
            };
            let rotating = ids.iter().filter(replaced).count();
            assert!(ids.len() - rotating <= KEYS_MAX, "{}: {ids:?}", user.id);
            let unique: BTreeSet<&String> = ids.iter().collect();
            assert_eq!(unique.len(), ids.len());
        }
    }

    fn expect_truth(&self, seed: u64) {
        let users = &self.world.keycloak.users;
        let stored: BTreeSet<String> = users.iter().flat_map(User::key_ids).collect();
        for id in &self.answered.ended {
            assert!(!stored.contains(id), "seed {seed}: {id} came back");
        }
        if self.faults == 0 {
            for id in &self.answered.made {
                let kept = stored.contains(id) || self.answered.ended.contains(id);
                assert!(kept, "seed {seed}: {id} is lost");
            }
            for id in &stored {
                assert!(
                    self.answered.made.contains(id),
                    "seed {seed}: {id} was told to nobody"
                );
            }
            self.world.expect_no_lock();
        }
        for (user, before) in users.iter().zip(&self.profiles) {
            assert_eq!(Value::from(user.profile.clone()), *before, "seed {seed}");
            let held = !user.key_ids().is_empty();
            assert!(self.faults > 0 || user.is_linked() == held, "seed {seed}");
        }
        self.world.expect_nothing_held();
    }
}

fn run(seeds: std::ops::Range<u64>, faults: u64) -> Vec<u16> {
    let mut statuses = Vec::new();
    for seed in seeds {
        let mut crowd = Crowd::new(seed, faults);
        crowd.run();
        crowd.expect_truth(seed);
        statuses.extend(&crowd.answered.statuses);
    }
    statuses
}

#[test]
fn a_hundred_requests_at_once_lose_nothing_and_hold_the_limit() {
    let statuses = run(0..8, 0);
    let count = |status| statuses.iter().filter(|known| **known == status).count();
    assert_eq!(statuses.len(), 8 * REQUESTS);
    assert!(count(201) > 100 && count(204) > 50 && count(409) > 20);
    assert!(count(200) > 20 && count(404) > 20);
}

/// One request is worth a bounded number of calls, however many others wait.
#[test]
fn a_crowd_for_one_owner_asks_keycloak_little_more_than_it_must() {
    let mut crowd = Crowd::new(1, 0);
    let token = crowd.world.token("alice");
    let request = Request::create(&token, &json!({ "name": "n" }));
    for _ in 0..REQUESTS {
        let client = Client::send(&mut crowd.world, &request);
        crowd.sort_in(client);
    }
    crowd.drain();
    let locks = crowd.world.count("lock");
    assert!(locks <= REQUESTS, "{locks}");
    assert!(crowd.world.calls.len() <= 5 * REQUESTS);
    assert_eq!(crowd.answered.made.len(), KEYS_MAX);
    crowd.expect_truth(1);
}

#[test]
fn lost_answers_and_clients_that_hang_up_bring_nothing_back() {
    let statuses = run(100..108, 3);
    let made = statuses.iter().filter(|status| **status == 201).count();
    assert!(made > 50, "{made}");
}
