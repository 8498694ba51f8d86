//! A request's way through a gateway of the world: each step that its exchange takes, and the
//! checkers' view of it.

use std::sync::{Arc, LazyLock};

use apikeys_core::exchange::{Env, Exchange, Forward, Output};
use apikeys_core::machine::{self, Effect};
use apikeys_core::signing_key::SigningKey;

use super::checkers::{Ended, Seen};
use super::node::With;
use super::request::{End, Headers, Request};
use super::setup::SIGNING_KEY;
use super::truth::Terms;
use super::world::{Event, Fed, InFlight, World};

pub(super) static KEY: LazyLock<Arc<SigningKey>> =
    LazyLock::new(|| Arc::new(SigningKey::parse(SIGNING_KEY).unwrap()));

impl World {
    pub(super) fn send(&mut self, request: Request) {
        let id = request.id;
        self.note(format_args!(
            "#{id} {:?} as {:?} to node {} worker {} route {}",
            request.credential, request.form, request.node, request.worker, request.route
        ));
        if let Some(after) = request.hangs_up_after {
            self.push(self.now + after, Event::HangUp { id });
        }
        let in_flight = InFlight {
            request,
            exchange: Exchange::new(),
            sent_at: self.now,
            step: 0,
            turns: 0,
            waited: false,
            rounds: 0,
            lost_buckets: 0,
        };
        self.in_flight.insert(id, in_flight);
        self.feed(id, 0, &Fed::Request);
    }

    /// Gives an exchange an event, and carries out its output.
    pub(super) fn feed(&mut self, id: u64, step: u32, fed: &Fed) {
        let Some(mut flight) = self.in_flight.remove(&id) else {
            return;
        };
        if flight.step != step {
            self.in_flight.insert(id, flight);
            return;
        }
        flight.step += 1;
        flight.lost_buckets = self.nodes[flight.request.node].data.lost_buckets();
        let headers = flight.request.headers();
        let (event, poison) = match fed {
            Fed::Request => (None, None),
            Fed::Failed(why) => (Some(machine::Event::Failed(why)), None),
            Fed::Answer(delivered) => {
                flight.rounds = delivered.rounds.unwrap_or(flight.rounds);
                let (status, body) = (delivered.status, delivered.body.as_deref());
                let event = machine::Event::Answer { status, body };
                (Some(event), delivered.poison)
            }
        };
        let output = self.act(&mut flight, |exchange, env| match event {
            None => exchange.begin(&headers, env),
            Some(event) => exchange.handle_event(event, env),
        });
        let node = &self.nodes[flight.request.node];
        let worker = &node.workers[flight.request.worker];
        let seen = Seen::Step {
            request: &flight.request,
            node_now: node.now(self.now),
            era: (node.clock.count(), worker.generation),
            output: &output,
            poison,
        };
        self.jury.see(&seen, &self.truth);
        self.show_written(flight.request.node);
        let said = format!("{output:?}");
        self.say(&said);
        self.obey(id, flight, output);
    }

    fn act<T>(
        &mut self,
        flight: &mut InFlight,
        act: impl FnOnce(&mut Exchange, &mut Env<'_>) -> T,
    ) -> T {
        let Request {
            id,
            node,
            worker,
            route,
            ..
        } = flight.request;
        let mut with = With {
            now: self.now,
            config: &self.routes[route].config,
            signing_key: &KEY,
            dice: &mut self.dice,
            faults: &self.faults,
            request_id: id,
            address: flight.request.from.text(),
        };
        self.nodes[node].act((worker, route), &mut with, &mut flight.exchange, act)
    }

    /// Tells a worker of a node that an owner is revoked, as a tool does that changed it.
    pub(super) fn tell(&mut self, realm: usize, owner: &str) {
        let routes: Vec<usize> = (0..self.routes.len())
            .filter(|route| self.routes[*route].realm == realm)
            .collect();
        if routes.is_empty() {
            return;
        }
        let route = self.dice.pick(&routes);
        let node = self.dice.below(self.nodes.len());
        let worker = self.dice.below(self.nodes[node].workers.len());
        let request_id = self.next_request();
        let mut with = With {
            now: self.now,
            config: &self.routes[route].config,
            signing_key: &KEY,
            dice: &mut self.dice,
            faults: &self.faults,
            request_id,
            address: None,
        };
        if self.nodes[node].revoke((worker, route), &mut with, owner) {
            self.tally.told += 1;
            self.truth.tell(node, realm, owner, self.now);
            self.note(format_args!("node {node} is told of {owner}"));
        }
        self.show_written(node);
    }

    fn obey(&mut self, id: u64, mut flight: InFlight, output: Output) {
        match output {
            Output::Await(Effect::Call { call, timeout_ms }) => {
                self.dispatch(id, flight.step, call, timeout_ms);
            }
            Output::Await(Effect::Yield {
                wait_ms,
                timeout_ms,
            }) => {
                flight.turns += u32::from(wait_ms.is_none());
                flight.waited |= wait_ms.is_some();
                self.wait(id, flight.step, wait_ms, timeout_ms);
            }
            Output::Await(Effect::Compute { .. }) => unreachable!("this host computes in slices"),
            Output::Forward(forward) => {
                let end = forwarded(flight.request.headers(), &forward);
                return self.ended(&flight, &end);
            }
            Output::Pass(why) => {
                let headers = flight.request.headers();
                return self.ended(&flight, &End::Passed { headers, why });
            }
            Output::Reject { rejection, reason } => {
                let body = rejection.body(&id.to_string());
                self.say(&format!("{reason} {body} {:?}", rejection.headers("demo")));
                let reason = reason.to_string();
                return self.ended(&flight, &End::Rejected { rejection, reason });
            }
        }
        self.in_flight.insert(id, flight);
    }

    fn ended(&mut self, flight: &InFlight, end: &End) {
        let request = &flight.request;
        let key_id = flight.exchange.key_id().unwrap_or("-").to_owned();
        self.say(&format!("key_id={key_id}"));
        match end {
            End::Forwarded { source, .. } => {
                let subject = end.token().and_then(|token| self.truth.tokens.get(token));
                let subject = subject
                    .map_or("nobody known", |issued| &issued.subject)
                    .to_owned();
                self.note(format_args!(
                    "#{} goes on as {subject}, {source:?}",
                    request.id
                ));
            }
            other => self.note(format_args!("#{} {}", request.id, brief(other))),
        }
        self.tally.ended(end);
        let route = &self.routes[request.route];
        let node = &self.nodes[request.node];
        let ended = Ended {
            request,
            end,
            config: &route.config,
            realm: route.realm,
            now: self.now,
            node_now: node.now(self.now),
            sent_at: flight.sent_at,
            clock: &node.clock,
            turns: flight.turns,
            waited: flight.waited,
            rounds: flight.rounds,
            generation: node.workers[request.worker].generation,
            owner: flight.exchange.owner_id(),
            terms: flight.exchange.terms().map(Terms::said),
            lost_buckets: (flight.lost_buckets, node.data.lost_buckets()),
            calm_since: self.calm_since,
        };
        self.jury.see(&Seen::Ended(&ended), &self.truth);
        self.measure(request.node, request.worker);
    }

    /// Shows the sizes of a worker's state, and that it keeps nothing without a request.
    fn measure(&mut self, node: usize, worker: usize) {
        let here =
            |flight: &InFlight| (flight.request.node, flight.request.worker) == (node, worker);
        let idle = !self.in_flight.values().any(here);
        let state = &self.nodes[node].workers[worker];
        let places = state.gate.places();
        let held = state.routes.iter().zip(&state.backgrounds);
        for (route, (held, background)) in self.routes.iter().zip(held) {
            let Some(held) = held else {
                continue;
            };
            let (worker, watch) = held;
            let worker = worker.sizes();
            let seen = Seen::Sizes {
                worker,
                events: watch.events(),
                places,
                config: &route.config,
            };
            self.jury.see(&seen, &self.truth);
            if idle && !background.is_renewing() {
                let seen = Seen::Idle { worker, places };
                self.jury.see(&seen, &self.truth);
            }
        }
    }

    /// Shows the checkers all that a step wrote into shared data.
    pub(super) fn show_written(&mut self, node: usize) {
        let slots = self.routes.iter().map(|route| route.config.l2_slots).max();
        // And buckets, claims of renewals, two copies of the log of each realm, and the lease of its
        // polls.
        let slots_max = 6 * slots.unwrap_or(0) as usize + 3 * self.realms.len();
        let data = &mut self.nodes[node].data;
        let (written, entries) = (data.take_written(), data.len());
        for (name, value) in &written {
            let seen = Seen::Shared {
                entries,
                slots_max,
                name,
                value,
            };
            self.jury.see(&seen, &self.truth);
        }
    }

    pub(super) fn say(&mut self, text: &str) {
        self.jury.see(&Seen::Said(text), &self.truth);
    }

    pub(super) fn hang_up(&mut self, id: u64) {
        if let Some(mut flight) = self.in_flight.remove(&id) {
            self.tally.hung_up += 1;
            self.note(format_args!("#{id} hangs up"));
            self.act(&mut flight, |exchange, env| exchange.abort(env));
            self.measure(flight.request.node, flight.request.worker);
        }
    }

    /// A worker dies, or a whole node, and with it the requests that it holds.
    pub fn crash(&mut self, node: usize, worker: Option<usize>) {
        self.forget_polls(node, worker);
        self.in_flight.retain(|_, flight| {
            let request = &flight.request;
            request.node != node || worker.is_some_and(|worker| request.worker != worker)
        });
        match worker {
            Some(worker) => self.nodes[node].crash(worker),
            None => self.nodes[node].restart(),
        }
    }
}

/// A shell's work with a token: it replaces the header and removes others.
fn forwarded(mut headers: Headers, forward: &Forward) -> End {
    headers.retain(|(name, _)| name != "authorization" && !forward.remove.contains(name));
    let value = forward.authorization.as_bytes().to_vec();
    headers.push(("authorization".to_owned(), value));
    End::Forwarded {
        headers,
        source: forward.source,
    }
}

fn brief(end: &End) -> String {
    match end {
        End::Forwarded { source, .. } => format!("goes on, {source:?}"),
        End::Passed { why, .. } => format!("passes, {why:?}"),
        End::Rejected { rejection, reason } => {
            format!("is refused, {}: {reason}", rejection.code())
        }
    }
}
