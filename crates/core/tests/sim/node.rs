//! A gateway's node: its clock, its shared data, its workers.

use std::sync::Arc;

use apikeys_core::background::poller::Polling;
use apikeys_core::background::{Background, Watch};
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::exchange::gate::Gate;
use apikeys_core::exchange::{Env, Exchange, Worker};
use apikeys_core::machine::{Effect, Event};
use apikeys_core::signing_key::SigningKey;

use super::dice::Dice;
use super::faults::Faults;
use super::store::{Access, Host, SharedData};

/// The time between two ticks of a worker.
const TICK_MS: u64 = 200;
/// The most ticks that are made up for at once; earlier ones would have shown nothing new.
const TICKS_MAX: u64 = 5;

/// The settings of a node's clock.
#[derive(Default)]
pub struct ClockSteps(Vec<(u64, i64)>);

impl ClockSteps {
    /// The number of times that it was set.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Milliseconds that it was set back since then, in all.
    pub fn backwards_since(&self, at: u64) -> u64 {
        self.backwards_capped(at, u64::MAX)
    }

    /// The same, with no step counted for more than `cap`.
    pub fn backwards_capped(&self, at: u64, cap: u64) -> u64 {
        let since = self.0.iter().filter(|(when, _)| *when >= at);
        let back = since.map(|(_, step)| step.min(&0).unsigned_abs());
        back.map(|step| step.min(cap)).sum()
    }

    /// Whether an instant within `ahead` of the clock may be one from before it was set back.
    pub fn owes(&self, now: u64, ahead: u64) -> bool {
        let mut steps = self.0.iter();
        steps.any(|(when, step)| now <= when + step.min(&0).unsigned_abs() + ahead)
    }
}

/// One worker: the filter's state for each route, made at its first request, and the gate that
/// the routes share.
pub struct NodeWorker {
    pub routes: Vec<Option<(Worker, Watch)>>,
    pub gate: Gate,
    /// The background work of each route's root context.
    pub backgrounds: Vec<Background>,
    /// The number of workers in its place before it.
    pub generation: u32,
}

impl NodeWorker {
    fn new(routes: usize, generation: u32) -> Self {
        Self {
            routes: (0..routes).map(|_| None).collect(),
            gate: Gate::new(),
            backgrounds: (0..routes).map(background).collect(),
            generation,
        }
    }
}

/// Every other root context is that of a host like Kong, where it calls out at ticks alone.
fn background(route: usize) -> Background {
    match route % 2 {
        0 => Background::default(),
        _ => Background::at_ticks_alone(),
    }
}

pub struct Node {
    pub host: Host,
    pub data: SharedData,
    pub workers: Vec<NodeWorker>,
    /// The error of its clock, in milliseconds.
    offset: i64,
    pub clock: ClockSteps,
    /// The instant of its workers' last tick.
    ticked_at: u64,
    /// The number of changes to its shared data and its clock by then, and of ticks since
    /// without a change.
    seen_changes: ((u64, usize), u32),
}

/// Everything that a step needs, beside its node.
pub struct With<'a> {
    pub now: u64,
    pub config: &'a Arc<Config>,
    pub signing_key: &'a Arc<SigningKey>,
    pub dice: &'a mut Dice,
    pub faults: &'a Faults,
    /// The host's id of the request.
    pub request_id: u64,
    /// The address that it comes from, as the host has it.
    pub address: Option<Vec<u8>>,
}

impl Node {
    pub fn new(host: Host, workers: usize, routes: usize, room: usize, offset: i64) -> Self {
        Self {
            host,
            data: SharedData::new(host, room),
            workers: (0..workers).map(|_| NodeWorker::new(routes, 0)).collect(),
            offset,
            clock: ClockSteps::default(),
            ticked_at: 0,
            seen_changes: ((0, 0), 0),
        }
    }

    /// The time by this node's clock.
    pub fn now(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.offset)
    }

    pub fn set_clock(&mut self, now: u64, step: i64) {
        self.offset += step;
        self.clock.0.push((now, step));
    }

    /// Sets the clock right.
    pub fn mend_clock(&mut self, now: u64) {
        self.set_clock(now, -self.offset);
    }

    /// A worker dies; another takes its place.
    pub fn crash(&mut self, worker: usize) {
        let died = &self.workers[worker];
        let (routes, generation) = (died.routes.len(), died.generation + 1);
        self.workers[worker] = NodeWorker::new(routes, generation);
    }

    /// All is gone.
    pub fn restart(&mut self) {
        for worker in 0..self.workers.len() {
            self.crash(worker);
        }
        self.data.wipe();
    }

    /// Makes up for the ticks that its workers had since the last event here: nobody could have
    /// seen their effects any sooner.
    pub fn tick(&mut self, now: u64, dice: &mut Dice, faults: &Faults) {
        let ticks = (now.saturating_sub(self.ticked_at) / TICK_MS).min(TICKS_MAX);
        if ticks > 0 {
            self.ticked_at = now;
        }
        let node_now = UnixMillis(self.now(now));
        for _ in 0..ticks {
            // Where nothing was written since the last three, there is nothing to see.
            let (changes, quiet) = self.seen_changes;
            let seen = (self.data.changes(), self.clock.0.len());
            self.seen_changes = (seen, if seen == changes { quiet + 1 } else { 0 });
            if quiet >= 3 && seen == changes {
                continue;
            }
            let routes = self
                .workers
                .iter_mut()
                .flat_map(|worker| &mut worker.routes);
            for (worker, _) in routes.flatten() {
                let data = &mut self.data;
                let mut store = Access { data, dice, faults };
                worker.tick(node_now, &mut store);
            }
        }
    }

    /// Gives a worker's background an answer or a tick; gives its next callout, whether a poll
    /// goes on, and the state of the polls.
    pub fn go_on(
        &mut self,
        (worker, route): (usize, usize),
        with: &mut With<'_>,
        event: Option<Event<'_>>,
    ) -> (Option<Effect>, bool, Option<Polling>) {
        let now = UnixMillis(self.now(with.now));
        // Without a request, Kong has no id of one to offer.
        let nonce = match self.host {
            Host::Kong => vec![7; 16],
            Host::Envoy => with.dice.bytes::<16>().to_vec(),
        };
        let NodeWorker {
            routes,
            gate,
            backgrounds,
            ..
        } = &mut self.workers[worker];
        let (Some((state, watch)), background) = (&mut routes[route], &mut backgrounds[route])
        else {
            return (None, false, None);
        };
        let polled = watch.is_polling();
        let mut store = Access {
            data: &mut self.data,
            dice: with.dice,
            faults: with.faults,
        };
        let mut env = Env {
            now,
            worker: state,
            gate,
            store: &mut store,
            nonce: &|| nonce.clone(),
            source: &|| None,
        };
        let call = match event {
            Some(event) => background.handle_event(event, watch, &mut env),
            None => background.tick(watch, &mut env),
        };
        let polls = polled && watch.is_polling();
        (call, polls, watch.take_polling())
    }

    /// Tells a worker that this owner is revoked; says whether the other workers will learn of
    /// it.
    pub fn revoke(&mut self, at: (usize, usize), with: &mut With<'_>, owner: &str) -> bool {
        let mut none = Exchange::new();
        self.act(at, with, &mut none, |_, env| {
            let told = env.worker.revoke_owner(owner, env.now, env.store);
            told.is_ok()
        })
    }

    /// Lets an exchange take a step on a worker of this node.
    pub fn act<T>(
        &mut self,
        (worker, route): (usize, usize),
        with: &mut With<'_>,
        exchange: &mut Exchange,
        act: impl FnOnce(&mut Exchange, &mut Env<'_>) -> T,
    ) -> T {
        self.tick(with.now, with.dice, with.faults);
        let now = UnixMillis(self.now(with.now));
        // Kong's source of randomness may give the same for ever; its id of the
        // request does not. Envoy's is random, and there is no such id.
        let nonce = match self.host {
            Host::Kong => [&[7; 16][..], format!("{:032x}", with.request_id).as_bytes()].concat(),
            Host::Envoy => with.dice.bytes::<16>().to_vec(),
        };
        let nonce = || nonce.clone();
        let address = with.address.take();
        let source = || address.clone();
        let NodeWorker { routes, gate, .. } = &mut self.workers[worker];
        let (state, _) = routes[route].get_or_insert_with(|| {
            let worker = Worker::new(
                Arc::clone(with.config),
                Arc::clone(with.signing_key),
                &nonce(),
            );
            let watch = Watch::new(&worker);
            (worker, watch)
        });
        let mut store = Access {
            data: &mut self.data,
            dice: with.dice,
            faults: with.faults,
        };
        let mut env = Env {
            now,
            worker: state,
            gate,
            store: &mut store,
            nonce: &nonce,
            source: &source,
        };
        act(exchange, &mut env)
    }
}
