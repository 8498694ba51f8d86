//! One request, taken on input by input, so that a test decides the order of events.

use apikeys_core::keycloak::ANSWER_BYTES_MAX;
use apikeys_core::machine::{Effect, Event};
use apikeys_core::manage::{Manage, Output, RequestHead};

use super::keycloak::{Reply, asked};
use super::request::Request;
use super::told::Told;
use super::world::World;

/// Steps that a request takes at most; bcrypt in slices takes most of them.
const STEPS_MAX: usize = 5_000;

pub struct Client {
    pub manage: Manage,
    /// The machine's latest output.
    pub output: Output,
    pub request: Request,
    /// The worker that it runs in.
    pub at: usize,
}

impl Client {
    /// Sends a request's head.
    pub fn send(world: &mut World, request: &Request) -> Self {
        Self::send_at(world, 0, request)
    }

    pub fn send_at(world: &mut World, at: usize, request: &Request) -> Self {
        let mut manage = Manage::new();
        let head = RequestHead {
            method: &request.method,
            path: &request.path,
            headers: &request.headers,
            body_follows: request.body.is_some(),
        };
        let output = world.begin(at, &mut manage, head);
        let mut client = Self {
            manage,
            output,
            request: request.clone(),
            at,
        };
        client.look(world);
        client
    }

    pub fn body(&mut self, world: &mut World, body: Option<&[u8]>) {
        self.output = world.body(self.at, &mut self.manage, body);
        self.look(world);
    }

    pub fn input(&mut self, world: &mut World, event: Event<'_>) {
        self.output = world.input(self.at, &mut self.manage, event);
        self.look(world);
    }

    fn look(&mut self, world: &mut World) {
        if self.is_over() {
            assert!(!self.manage.is_pending(), "what is over holds nothing");
            world.told(&self.told());
        }
    }

    pub fn is_over(&self) -> bool {
        matches!(self.output, Output::Respond(_))
    }

    #[track_caller]
    pub fn told(&self) -> Told {
        match &self.output {
            Output::Respond(answer) => {
                Told::new(&self.request, answer, self.manage.report().reason.as_ref())
            }
            other => panic!("no answer: {other:?}"),
        }
    }

    /// The event that it waits for: the name of a call to Keycloak, `body`, `turn`, `wait` or,
    /// at its end, `nothing`.
    pub fn waits_for(&self) -> &'static str {
        match &self.output {
            Output::ReadBody { .. } => "body",
            Output::Await(Effect::Call { call, .. }) => asked(call),
            Output::Await(Effect::Yield { wait_ms: None, .. }) => "turn",
            Output::Await(Effect::Yield { .. }) => "wait",
            Output::Await(Effect::Compute { .. }) => "verdict",
            Output::Respond(_) => "nothing",
        }
    }

    pub fn timeout_ms(&self) -> u64 {
        match &self.output {
            Output::ReadBody { timeout_ms } => *timeout_ms,
            Output::Await(effect) => effect.timeout_ms(),
            Output::Respond(_) => 0,
        }
    }

    /// The usual time until the event that it waits for.
    pub fn takes_ms(&self) -> u64 {
        match &self.output {
            Output::Await(Effect::Call { .. }) => 5,
            Output::Await(Effect::Yield { wait_ms, .. }) => wait_ms.unwrap_or(1),
            _ => 0,
        }
    }

    /// Gives it the event that it waits for, without a fault.
    #[track_caller]
    pub fn answer(&mut self, world: &mut World) {
        match &self.output {
            Output::ReadBody { .. } => {
                let body = self.request.body.clone();
                self.body(world, body.as_deref());
            }
            Output::Await(Effect::Call { call, .. }) => {
                let call = call.clone();
                let (status, body) = world.keycloak.answer(&call, world.now);
                self.reply(world, status, &body);
            }
            Output::Await(Effect::Yield { .. }) => self.reply(world, 204, b""),
            other => panic!("nothing to answer: {other:?}"),
        }
    }

    pub fn reply(&mut self, world: &mut World, status: u16, body: &[u8]) {
        let body = Some(body).filter(|body| body.len() <= ANSWER_BYTES_MAX);
        self.input(world, Event::Answer { status, body });
    }

    pub fn fail(&mut self, world: &mut World) {
        self.input(world, Event::Failed("timed out"));
    }

    /// Answers until it waits for this; time goes by as it does.
    #[track_caller]
    pub fn answer_until(&mut self, world: &mut World, what: &str) {
        for _ in 0..STEPS_MAX {
            if self.waits_for() == what {
                return;
            }
            world.pass(self.takes_ms());
            self.answer(world);
        }
        panic!("{what} is not reached: {:?}", self.output);
    }

    /// The client goes away.
    pub fn hang_up(&mut self, world: &mut World) {
        world.abort(self.at, &mut self.manage);
        assert!(!self.manage.is_pending());
    }

    /// Takes all of them to their ends, and gives their answers.
    pub fn finish_all(clients: Vec<Self>, world: &mut World) -> Vec<Told> {
        let finish = |client: Self| client.finish_with(world, |_, reply| Ok(reply));
        let told = clients.into_iter().map(finish).collect();
        world.expect_nothing_held();
        told
    }

    /// Takes it to its end; Keycloak's answers pass through `tamper`, which gets the name of
    /// the call and may lose the answer.
    pub fn finish_with(
        mut self,
        world: &mut World,
        mut tamper: impl FnMut(&'static str, Reply) -> Result<Reply, &'static str>,
    ) -> Told {
        for _ in 0..STEPS_MAX {
            if self.is_over() {
                return self.told();
            }
            world.pass(self.takes_ms());
            match &self.output {
                Output::Await(Effect::Call { call, .. }) => {
                    let (call, what) = (call.clone(), self.waits_for());
                    match tamper(what, world.keycloak.answer(&call, world.now)) {
                        Ok((status, body)) => self.reply(world, status, &body),
                        Err(why) => self.input(world, Event::Failed(why)),
                    }
                }
                _ => self.answer(world),
            }
        }
        panic!("{STEPS_MAX} steps, and no end");
    }
}
