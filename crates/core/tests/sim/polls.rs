//! The workers' background, polls and renewals: ticks, callouts, answers.

use std::collections::BTreeSet;

use apikeys_core::keycloak::Call;
use apikeys_core::machine::{self, Effect};
use serde_json::Value;

use super::callout::Asks;
use super::faults::Fault;
use super::node::With;
use super::requests::KEY;
use super::world::{Event, Fed, World};

/// The time between two ticks that may begin a poll. It is longer than a host's, to keep runs
/// short; [`super::node`] makes up for the ticks that look at the log.
pub const TICK_MS: u64 = 1000;

/// A poll's callout that is under way.
pub struct PollFlight {
    node: usize,
    worker: usize,
    route: usize,
    asks: Asks,
    /// It lists changes; the very first asks for the newest event's time alone.
    lists: bool,
}

/// The events that each node was shown, by node and realm.
#[derive(Default)]
pub struct Shown(BTreeSet<(usize, usize, String)>);

impl World {
    /// Each worker of a node has its tick, and begins a poll if one is due.
    pub(super) fn tick(&mut self, node: usize) {
        self.nodes[node].tick(self.now, &mut self.dice, &self.faults);
        for worker in 0..self.nodes[node].workers.len() {
            for route in 0..self.routes.len() {
                if self.nodes[node].workers[worker].routes[route].is_some() {
                    self.poll((node, worker, route), &Fed::Request);
                }
            }
        }
        self.show_written(node);
        if self.now < self.ticks_until {
            self.push(self.now + TICK_MS, Event::Tick { node });
        }
    }

    /// Gives a worker's background an event; says whether a poll goes on.
    fn poll(&mut self, (node, worker, route): (usize, usize, usize), fed: &Fed) -> bool {
        let event = match fed {
            Fed::Request => None,
            Fed::Failed(why) => Some(machine::Event::Failed(why)),
            Fed::Answer(delivered) => Some(machine::Event::Answer {
                status: delivered.status,
                body: delivered.body.as_deref(),
            }),
        };
        let mut with = With {
            now: self.now,
            config: &self.routes[route].config,
            signing_key: &KEY,
            dice: &mut self.dice,
            faults: &self.faults,
            request_id: 0,
            address: None,
        };
        let (call, polls, polling) = self.nodes[node].go_on((worker, route), &mut with, event);
        if let Some(polling) = polling {
            self.say(&polling.to_string());
            self.note(format_args!("node {node} worker {worker}: {polling}"));
        }
        if let Some(Effect::Call { call, timeout_ms }) = call {
            self.dispatch_poll((node, worker, route), call, timeout_ms);
        }
        polls
    }

    fn dispatch_poll(&mut self, at: (usize, usize, usize), call: Call, timeout_ms: u64) {
        let (node, worker, route) = at;
        let asks = Asks::of(&call);
        let said = format!("{call:?} {}", call.path);
        self.say(&said);
        let id = self.next_request();
        let flight = PollFlight {
            node,
            worker,
            route,
            asks,
            lists: call.path.contains("dateFrom="),
        };
        self.polls.insert(id, flight);
        let (faults, dice) = (&self.faults, &mut self.dice);
        let mut hits = |fault| faults.hits(fault, dice);
        let [refused, lost, slow] = [
            Fault::CalloutRefused,
            Fault::CalloutLost,
            Fault::CalloutSlow,
        ]
        .map(&mut hits);
        let way = if slow {
            self.dice.range(timeout_ms / 3, timeout_ms * 5 / 4)
        } else {
            self.dice.range(1, 8)
        };
        let mut fail = |after, why| {
            let fed = Fed::Failed(why);
            self.push(self.now + after, Event::PollAnswer { id, fed });
        };
        if refused {
            return fail(0, "the host could not send it");
        }
        fail(timeout_ms, "timed out");
        if !lost {
            self.push(self.now + way, Event::PollArrive { id, call });
        }
    }

    /// A poll's callout comes to Keycloak.
    pub(super) fn poll_arrives(&mut self, id: u64, call: &Call) {
        let back = self.now + self.dice.range(1, 8);
        let Some(flight) = self.polls.get(&id) else {
            return;
        };
        let (at, asks) = (self.routes[flight.route].realm, flight.asks.clone());
        if self.now < self.realms[at].down_until {
            let fed = Fed::Failed("connection refused");
            return self.push(back, Event::PollAnswer { id, fed });
        }
        let delivered = self.serve(at, &asks, call);
        if !self.faults.hits(Fault::AnswerLost, &mut self.dice) {
            let fed = Fed::Answer(delivered);
            self.push(back, Event::PollAnswer { id, fed });
        }
    }

    /// The answer comes to the gateway, which from here on knows its contents.
    pub(super) fn poll_answered(&mut self, id: u64, fed: &Fed) {
        let Some(flight) = self.polls.remove(&id) else {
            return;
        };
        let PollFlight {
            node,
            worker,
            route,
            lists,
            ..
        } = flight;
        let taken = self.poll((node, worker, route), fed);
        self.show_written(node);
        // A worker without shared data tells nobody; a worker that does not go on had given the
        // poll up.
        let tells = taken && lists && self.routes[route].config.l2_slots > 0;
        if let (Fed::Answer(delivered), true) = (fed, tells) {
            let realm = self.routes[route].realm;
            let body = delivered.body.as_deref().unwrap_or_default();
            for (event, owner) in changed(body) {
                if self.shown.0.insert((node, realm, event)) {
                    self.tally.told += 1;
                    self.truth.tell(node, realm, &owner, self.now);
                }
            }
        }
    }

    /// A worker dies, or all of a node, with the polls that they have under way.
    pub(super) fn forget_polls(&mut self, node: usize, worker: Option<usize>) {
        self.polls.retain(|_, flight| {
            flight.node != node || worker.is_some_and(|worker| flight.worker != worker)
        });
    }
}

/// The events of an answer that name a changed owner.
fn changed(body: &[u8]) -> Vec<(String, String)> {
    let events: Vec<Value> = serde_json::from_slice(body).unwrap_or_default();
    let changed = events
        .iter()
        .filter(|event| event["operationType"] != "CREATE");
    let of_owner = changed.filter_map(|event| {
        let owner = event["resourcePath"].as_str()?.strip_prefix("users/")?;
        Some((event["id"].as_str()?.to_owned(), owner.to_owned()))
    });
    of_owner.collect()
}
