//! The world of a run: nodes, realms, clients, the time, and all that is under way.
//!
//! A run is a queue of events by time. An event lets one exchange take one step, or changes
//! something; its consequences go into the queue. Events of the same time come in the order in
//! which they were queued. So one seed is one run.

use std::collections::BTreeMap;

use apikeys_core::exchange::Exchange;
use apikeys_core::keycloak::Call;

use super::callout::{Asks, Delivered};
use super::checkers::{Jury, Seen, Violation};
use super::dice::Dice;
use super::faults::Faults;
use super::keycloak::Reply;
use super::node::Node;
use super::polls::{self, PollFlight, Shown};
use super::request::{Address, Credential, Form, Request};
use super::setup::{Realm, Route, START, Setup};
use super::tally::Tally;
use super::trace::Trace;
use super::truth::Truth;
use super::workload;

/// More events than any run has: a run with more goes on for ever.
const EVENTS_MAX: u64 = 400_000;
/// The time after the last fault by which all must be well again: no refusal is remembered any
/// more.
const SETTLED_MS: u64 = 45_000;
/// Ticks go on for so long after that.
const TICKS_MORE_MS: u64 = 20_000;
/// By then no token, no entry and no service token from before is left.
const HEALED_MS: u64 = 400_000;

/// Something that is to happen.
pub(super) enum Event {
    /// Clients send some requests.
    Burst,
    /// An edit or a fault.
    Happen,
    /// A callout comes to Keycloak.
    Arrive {
        id: u64,
        step: u32,
        asks: Asks,
        call: Call,
    },
    /// An answer comes to the gateway.
    Answer { id: u64, step: u32, fed: Fed },
    /// The client hangs up.
    HangUp { id: u64 },
    /// A key that was switched off is switched on again.
    SwitchOn { realm: usize, key: usize },
    /// A key's grace ends in this realm.
    Look { realm: usize },
    /// The workers of a node have their tick.
    Tick { node: usize },
    /// A poll's callout comes to Keycloak.
    PollArrive { id: u64, call: Call },
    /// Its answer comes to the gateway.
    PollAnswer { id: u64, fed: Fed },
    /// From here on all is well.
    Heal,
    /// A good key, which now must get its token.
    Probe {
        node: usize,
        worker: usize,
        route: usize,
        key: usize,
    },
}

/// An input of an exchange.
#[derive(Clone)]
pub(super) enum Fed {
    Request,
    Answer(Delivered),
    Failed(&'static str),
}

pub(super) struct InFlight {
    pub(super) request: Request,
    pub(super) exchange: Exchange,
    pub(super) sent_at: u64,
    /// Its inputs so far; an answer to an earlier one is too late.
    pub(super) step: u32,
    pub(super) turns: u32,
    pub(super) waited: bool,
    pub(super) rounds: u32,
    /// The buckets that its node had lost before its latest step.
    pub(super) lost_buckets: u64,
}

pub struct World {
    pub now: u64,
    pub dice: Dice,
    pub faults: Faults,
    pub nodes: Vec<Node>,
    pub routes: Vec<Route>,
    pub realms: Vec<Realm>,
    pub tally: Tally,
    pub(super) truth: Truth,
    pub trace: Trace,
    pub(super) jury: Jury,
    queue: BTreeMap<(u64, u64), Event>,
    queued: u64,
    pub(super) in_flight: BTreeMap<u64, InFlight>,
    requests: u64,
    pub(super) calm_since: Option<u64>,
    /// Nodes tick until then: later nothing changes any more, and nothing is remembered.
    pub(super) ticks_until: u64,
    pub(super) polls: BTreeMap<u64, PollFlight>,
    pub(super) shown: Shown,
    /// The last answer of each kind, in each realm.
    pub(super) last: BTreeMap<(usize, &'static str), (Asks, Reply)>,
}

/// The results of a run.
pub struct Run {
    pub trace: String,
    pub violation: Option<Violation>,
    pub tally: Tally,
}

impl World {
    pub fn new(seed: u64, faults_named: &str) -> Self {
        let mut dice = Dice::new(seed);
        let setup = Setup::drawn(&mut dice, faults_named);
        let calm_since = setup.faults.is_calm().then_some(START);
        let mut world = Self {
            now: START,
            dice,
            faults: setup.faults,
            nodes: setup.nodes,
            routes: setup.routes,
            realms: setup.realms,
            tally: Tally::default(),
            truth: Truth::default(),
            trace: Trace::default(),
            jury: Jury::new(),
            queue: BTreeMap::new(),
            queued: 0,
            in_flight: BTreeMap::new(),
            requests: 0,
            calm_since,
            ticks_until: START + setup.length_ms + SETTLED_MS + TICKS_MORE_MS,
            polls: BTreeMap::new(),
            shown: Shown::default(),
            last: BTreeMap::new(),
        };
        for at in 0..world.realms.len() {
            for (number, &end) in world.realms[at].ends.iter().enumerate() {
                let key = super::keys::ALL[number].text.clone();
                world.truth.ends.insert((at, key), end);
            }
            world.look(at);
        }
        for _ in 0..setup.requests {
            let at = START + world.dice.range(0, setup.length_ms);
            world.push(at, Event::Burst);
        }
        for _ in 0..setup.happenings {
            let at = START + world.dice.range(0, setup.length_ms);
            world.push(at, Event::Happen);
        }
        world.push(START + setup.length_ms, Event::Heal);
        for node in 0..world.nodes.len() {
            let at = START + world.dice.range(0, polls::TICK_MS);
            world.push(at, Event::Tick { node });
        }
        world
    }

    /// Takes the run to its end, or to the first violation.
    pub fn run(mut self) -> Run {
        let mut events = 0;
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            self.restore_roles();
            events += 1;
            if events > EVENTS_MAX {
                let what = format!("still going on after {EVENTS_MAX} events");
                self.jury.violation = Some(Violation { invariant: 7, what });
            }
            if self.jury.violation.is_some() {
                break;
            }
            self.take(event);
        }
        if self.jury.violation.is_none() {
            self.close();
        }
        Run {
            trace: self.trace.text(),
            violation: self.jury.violation,
            tally: self.tally,
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Burst => {
                for request in workload::burst(self) {
                    self.send(request);
                }
            }
            Event::Happen => workload::happen(self),
            Event::Arrive {
                id,
                step,
                asks,
                call,
            } => self.arrive(id, step, &asks, &call),
            Event::Answer { id, step, fed } => self.feed(id, step, &fed),
            Event::HangUp { id } => self.hang_up(id),
            Event::SwitchOn { realm, key } => workload::switch_on(self, realm, key),
            Event::Look { realm } => self.look(realm),
            Event::Tick { node } => self.tick(node),
            Event::PollArrive { id, call } => self.poll_arrives(id, &call),
            Event::PollAnswer { id, fed } => self.poll_answered(id, &fed),
            Event::Heal => self.heal(),
            Event::Probe {
                node,
                worker,
                route,
                key,
            } => {
                let request = Request {
                    id: self.next_request(),
                    node,
                    worker,
                    route,
                    credential: Credential::Key(key),
                    form: Form::ApiKey,
                    from: Address::Own(self.requests),
                    hangs_up_after: None,
                };
                self.send(request);
            }
        }
    }

    pub(super) fn push(&mut self, at: u64, event: Event) {
        self.queued += 1;
        self.queue.insert((at.max(self.now), self.queued), event);
    }

    pub fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.now - START, what);
    }

    /// Notes the holders of each key now.
    pub fn look(&mut self, realm: usize) {
        let keycloak = &self.realms[realm].keycloak;
        self.truth.look(realm, keycloak, self.now);
    }

    pub fn look_again_at(&mut self, at: u64, realm: usize) {
        self.push(at, Event::Look { realm });
    }

    fn restore_roles(&mut self) {
        for realm in &mut self.realms {
            if realm.role_back_at <= self.now {
                realm.role_back_at = u64::MAX;
                realm.keycloak.management_roles.push("view-users");
            }
        }
    }

    /// Ends all faults; after a while every good key must get its token at once.
    fn heal(&mut self) {
        self.note(format_args!("from here on all is well"));
        self.tally.struck(&self.faults);
        self.faults = Faults::none();
        self.calm_since = Some(self.calm_since.unwrap_or(self.now));
        for realm in &mut self.realms {
            realm.down_until = 0;
            realm.role_back_at = realm.role_back_at.min(self.now);
        }
        for node in &mut self.nodes {
            node.mend_clock(self.now);
        }
        // Soon, while much is still remembered, and again when all of it is over.
        for (from, every) in [(SETTLED_MS, 500), (HEALED_MS, 3_000)] {
            for key in 0..super::keys::KEYS {
                let at = self.now + from + every * key as u64;
                let node = self.dice.below(self.nodes.len());
                let worker = self.dice.below(self.nodes[node].workers.len());
                let route = self.dice.below(self.routes.len());
                self.push(
                    at,
                    Event::Probe {
                        node,
                        worker,
                        route,
                        key,
                    },
                );
            }
        }
    }

    fn close(&mut self) {
        let reuses = self.realms.iter().map(|realm| realm.keycloak.reuses).sum();
        let seen = Seen::Closed {
            unanswered: self.in_flight.len(),
            reuses,
        };
        self.jury.see(&seen, &self.truth);
    }
}
