//! One request, taken on input by input, so that a test decides the order of events.

use apikeys_core::exchange::{Exchange, Forward, Output};
use apikeys_core::machine::{Effect, Event};
use apikeys_core::rejection::{Reason, Rejection};

pub use super::keys::{FAR, ending, owner, plain_owner, plain_owner_with, set_fact};
use super::world::{World, headers, key};

pub struct Client {
    pub exchange: Exchange,
    /// The exchange's latest output.
    pub output: Output,
}

impl Client {
    /// Sends the key of this number as `x-api-key`.
    pub fn send(world: &mut World, number: u8) -> Self {
        Self::send_key(world, &key(number))
    }

    pub fn send_key(world: &mut World, key: &str) -> Self {
        let mut exchange = Exchange::new();
        let headers = headers(&[("x-api-key", key)]);
        let output = world.begin(&mut exchange, &headers);
        Self { exchange, output }
    }

    /// Gives it the event that it waits for, at once and without a fault.
    #[track_caller]
    pub fn answer(&mut self, world: &mut World) {
        match &self.output {
            Output::Await(Effect::Call { call, .. }) => {
                let (status, body) = world.keycloak.answer(call, world.now);
                self.reply(world, status, &body);
            }
            Output::Await(Effect::Yield { .. }) => self.reply(world, 204, b""),
            other => panic!("nothing to answer: {other:?}"),
        }
    }

    pub fn reply(&mut self, world: &mut World, status: u16, body: &[u8]) {
        let body = Some(body);
        self.output = world.input(&mut self.exchange, Event::Answer { status, body });
    }

    pub fn fail(&mut self, world: &mut World) {
        self.output = world.input(&mut self.exchange, Event::Failed("timed out"));
    }

    /// Answers until `there` holds; no time passes.
    #[track_caller]
    pub fn answer_until(&mut self, world: &mut World, there: impl Fn(&Self) -> bool) {
        for _ in 0..10_000 {
            if there(self) {
                return;
            }
            self.answer(world);
        }
        panic!("not reached: {:?}", self.output);
    }

    /// Whether it waits for the owner's token.
    pub fn is_granting(&self) -> bool {
        matches!(&self.output, Output::Await(Effect::Call { call, .. })
            if call.form.as_deref().is_some_and(|form| form.contains("&assertion=")))
    }

    pub fn is_looking_up(&self) -> bool {
        matches!(&self.output, Output::Await(Effect::Call { call, .. }) if call.method == "GET")
    }

    pub fn is_over(&self) -> bool {
        !matches!(self.output, Output::Await(_))
    }

    /// The wait that it asked for; none for a turn at once.
    #[track_caller]
    pub fn wait_ms(&self) -> Option<u64> {
        match &self.output {
            Output::Await(Effect::Yield { wait_ms, .. }) => *wait_ms,
            other => panic!("no yield: {other:?}"),
        }
    }

    #[track_caller]
    pub fn timeout_ms(&self) -> u64 {
        match &self.output {
            Output::Await(effect) => effect.timeout_ms(),
            other => panic!("nothing to wait for: {other:?}"),
        }
    }

    #[track_caller]
    pub fn forwarded(&self) -> &Forward {
        match &self.output {
            Output::Forward(forward) => forward,
            other => panic!("not forwarded: {other:?}"),
        }
    }

    #[track_caller]
    pub fn rejected(&self) -> (Rejection, &Reason) {
        match &self.output {
            Output::Reject { rejection, reason } => (*rejection, reason),
            other => panic!("not rejected: {other:?}"),
        }
    }
}
