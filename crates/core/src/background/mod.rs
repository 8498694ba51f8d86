//! What a root context does between requests: polls, self-checks, and tokens that are renewed.
//!
//! Kong allows a root context one callout at a time, so the jobs take turns: each has at
//! most one call to make, a poll's call goes first, and the others go out in their order. A
//! state machine without I/O: ticks and answers in, calls out.

pub mod poller;
pub mod self_check;
mod watch;

use std::collections::VecDeque;

use crate::clock::UnixMillis;
use crate::exchange::{Env, Exchange, Input, Output};
use poller::{PollCall, PollInput};
pub use watch::Watch;

/// A callout whose answer is this late never comes: the host has lost it.
const LOST_MS: u64 = 2000;

/// What a root context does between requests.
#[derive(Debug, Default)]
pub struct Background {
    /// Whose call is under way, and by when it is answered.
    under_way: Option<(Job, UnixMillis)>,
    /// Calls that wait for it.
    waiting: VecDeque<(Job, PollCall)>,
    renewal: Option<Exchange>,
    /// The renewal waits for the service token, which another fetches: it looks again at
    /// the next tick.
    looks_again: bool,
    renewed: Renewed,
    /// Calls are given out at ticks alone.
    at_ticks_alone: bool,
}

/// How many renewals came to their end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Renewed {
    /// With a new token.
    pub done: u64,
    /// Without one; a request is to do it.
    pub failed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Poll,
    SelfCheck,
    Renewal,
    /// Nobody's any more: its poll or check was given up.
    GivenUp,
}

impl Background {
    /// For a host whose root context may call out at ticks alone: a call that follows from
    /// an answer waits for the next tick.
    #[must_use]
    pub fn at_ticks_alone() -> Self {
        Self {
            at_ticks_alone: true,
            ..Self::default()
        }
    }

    /// Takes what happened and says what to call. To be told of each tick after
    /// [`Worker::tick`](crate::exchange::Worker::tick), and of the answer to each call.
    pub fn handle_input(
        &mut self,
        input: PollInput<'_>,
        watch: &mut Watch,
        env: &mut Env<'_>,
    ) -> Option<PollCall> {
        let is_tick = matches!(input, PollInput::Tick);
        if is_tick {
            self.tick(watch, env);
        } else {
            match self.under_way.take() {
                Some((Job::Poll, _)) => self.poll(input, watch, env),
                Some((Job::SelfCheck, _)) => self.check(input, watch, env),
                Some((Job::Renewal, _)) => {
                    let input = match input {
                        PollInput::Answer { status, body } => Input::Answer { status, body },
                        PollInput::Failed(why) => Input::Failed(why),
                        PollInput::Tick => return None,
                    };
                    self.go_on(&input, env);
                }
                Some((Job::GivenUp, _)) => {}
                None => return None,
            }
        }
        if self.at_ticks_alone && !is_tick {
            return None;
        }
        self.begin_renewal(env);
        self.next_call(env.now)
    }

    /// Gives back what is held: the root context ends.
    pub fn abort(&mut self, env: &mut Env<'_>) {
        if let Some(mut renewal) = self.renewal.take() {
            renewal.abort(env);
        }
    }

    /// Whether a token is being renewed.
    #[must_use]
    pub const fn is_renewing(&self) -> bool {
        self.renewal.is_some()
    }

    /// How many renewals came to their end.
    #[must_use]
    pub const fn renewed(&self) -> Renewed {
        self.renewed
    }

    fn tick(&mut self, watch: &mut Watch, env: &mut Env<'_>) {
        if let Some((job, until)) = self.under_way
            && (env.now >= until || env.now.plus_ms(120_000) < until)
        {
            self.under_way = None;
            match job {
                Job::Renewal => self.go_on(&Input::Failed("no answer came in time"), env),
                Job::SelfCheck => {
                    self.check(PollInput::Failed("no answer came in time"), watch, env);
                }
                Job::Poll | Job::GivenUp => {}
            }
        }
        // Itself it minds how long its call takes.
        self.poll(PollInput::Tick, watch, env);
        self.check(PollInput::Tick, watch, env);
        if std::mem::take(&mut self.looks_again) {
            let turn = Input::Answer {
                status: 200,
                body: None,
            };
            self.go_on(&turn, env);
        }
    }

    fn poll(&mut self, input: PollInput<'_>, watch: &mut Watch, env: &mut Env<'_>) {
        let call = watch.poll(input, env);
        if let Some(call) = call {
            // It has but one at a time: those before were given up.
            self.waiting.retain(|(job, _)| *job != Job::Poll);
            if let Some((job @ Job::Poll, _)) = &mut self.under_way {
                *job = Job::GivenUp;
            }
            self.waiting.push_back((Job::Poll, call));
        }
    }

    fn check(&mut self, input: PollInput<'_>, watch: &mut Watch, env: &mut Env<'_>) {
        let call = watch.self_check(input, env);
        if call.is_some() || !watch.is_checking() {
            // It has but one at a time: those before were given up.
            self.waiting.retain(|(job, _)| *job != Job::SelfCheck);
            if let Some((job @ Job::SelfCheck, _)) = &mut self.under_way {
                *job = Job::GivenUp;
            }
        }
        let call = call.map(|call| (Job::SelfCheck, call));
        self.waiting.extend(call);
    }

    fn begin_renewal(&mut self, env: &mut Env<'_>) {
        while self.renewal.is_none() && self.under_way.is_none() && self.waiting.is_empty() {
            let Some((renewal, output)) = Exchange::renew(env) else {
                return;
            };
            self.renewal = Some(renewal);
            self.obey(output, env);
        }
    }

    fn go_on(&mut self, input: &Input<'_>, env: &mut Env<'_>) {
        if let Some(renewal) = &mut self.renewal {
            let output = renewal.handle_input(input, env);
            self.obey(output, env);
        }
    }

    fn obey(&mut self, output: Output, env: &mut Env<'_>) {
        match output {
            Output::Callout { call, timeout_ms } => {
                let call = PollCall { call, timeout_ms };
                self.waiting.push_back((Job::Renewal, call));
                return;
            }
            Output::Yield { .. } => {
                self.looks_again = true;
                return;
            }
            Output::Forward(_) => self.renewed.done += 1,
            Output::Pass(_) | Output::Reject { .. } => {
                self.renewed.failed += 1;
                env.worker.renewing.pause(env.now);
            }
        }
        self.renewal = None;
    }

    fn next_call(&mut self, now: UnixMillis) -> Option<PollCall> {
        if self.under_way.is_some() {
            return None;
        }
        // A revocation waits for one call of the others at most.
        let poll = self.waiting.iter().position(|(job, _)| *job == Job::Poll);
        let (job, call) = self.waiting.remove(poll.unwrap_or(0))?;
        self.under_way = Some((job, now.plus_ms(call.timeout_ms + LOST_MS)));
        Some(call)
    }
}
