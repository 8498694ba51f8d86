//! The jobs of a root context between requests: polls, self-checks and renewals of tokens.
//!
//! Kong allows a root context one callout at a time, so the jobs take turns: each has at most one
//! call to make, a poll's call goes first, and the others go out in their order. A state machine
//! without I/O: ticks and answers in, calls out.

mod env;
pub mod poller;
pub mod self_check;
mod watch;

use std::collections::VecDeque;

use crate::clock::UnixMillis;
use crate::exchange::{Env, Exchange, Output};
use crate::machine::{Effect, Event};
pub use watch::Watch;

/// If the answer to a callout is this late, the host has lost it.
const LOST_MS: u64 = 2000;

/// The jobs of a root context.
#[derive(Debug, Default)]
pub struct Background {
    /// The job with a call under way, and the instant by which it is answered.
    under_way: Option<(Job, UnixMillis)>,
    /// Calls that wait for it.
    waiting: VecDeque<(Job, Effect)>,
    renewal: Option<Exchange>,
    /// The renewal waits for the service token, which another asker fetches: it asks again at the
    /// next tick.
    looks_again: bool,
    renewed: Renewed,
    /// Calls are only given out at ticks.
    at_ticks_alone: bool,
}

/// Renewals that have ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Renewed {
    /// With a new token.
    pub done: u64,
    /// Without one; a request must get it.
    pub failed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Poll,
    SelfCheck,
    Renewal,
    /// No job's any more: its poll or check was given up.
    GivenUp,
}

impl Background {
    /// For a host that lets a root context call out only at ticks: a call that follows from an
    /// answer waits for the next tick.
    #[must_use]
    pub fn at_ticks_alone() -> Self {
        Self {
            at_ticks_alone: true,
            ..Self::default()
        }
    }

    /// Watches the time, and gives the next call. Call it at each tick, after
    /// [`Worker::tick`](crate::exchange::Worker::tick).
    pub fn tick(&mut self, watch: &mut Watch, env: &mut Env<'_>) -> Option<Effect> {
        if let Some((job, until)) = self.under_way
            && (env.now >= until || env.now.plus_ms(120_000) < until)
        {
            self.under_way = None;
            // A poll watches the time of its own call.
            if job != Job::Poll {
                self.tell(job, Event::Failed("no answer came in time"), watch, env);
            }
        }
        let call = watch.poll(env);
        self.polls(call);
        let call = watch.check(env);
        self.checks(call, watch);
        if std::mem::take(&mut self.looks_again) {
            self.tell(Job::Renewal, Event::TURN, watch, env);
        }
        self.begin_renewal(env);
        self.next_call(env.now)
    }

    /// Takes the outcome of the call under way, and gives the next call.
    pub fn handle_event(
        &mut self,
        event: Event<'_>,
        watch: &mut Watch,
        env: &mut Env<'_>,
    ) -> Option<Effect> {
        let (job, _) = self.under_way.take()?;
        self.tell(job, event, watch, env);
        if self.at_ticks_alone {
            return None;
        }
        self.begin_renewal(env);
        self.next_call(env.now)
    }

    /// Gives back all claims: the root context ends.
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

    /// The renewals that have ended.
    #[must_use]
    pub const fn renewed(&self) -> Renewed {
        self.renewed
    }

    /// Tells a job the outcome of its call, or that it may go on.
    fn tell(&mut self, job: Job, event: Event<'_>, watch: &mut Watch, env: &mut Env<'_>) {
        match job {
            Job::Poll => {
                let call = watch.poll_event(event, env);
                self.polls(call);
            }
            Job::SelfCheck => {
                watch.check_event(event, env);
                self.checks(None, watch);
            }
            Job::Renewal => {
                if let Some(renewal) = &mut self.renewal {
                    let output = renewal.handle_event(event, env);
                    self.obey(output, env);
                }
            }
            Job::GivenUp => {}
        }
    }

    fn polls(&mut self, call: Option<Effect>) {
        if let Some(call) = call {
            self.give_up(Job::Poll);
            self.waiting.push_back((Job::Poll, call));
        }
    }

    fn checks(&mut self, call: Option<Effect>, watch: &Watch) {
        if call.is_some() || !watch.is_checking() {
            self.give_up(Job::SelfCheck);
        }
        self.waiting.extend(call.map(|call| (Job::SelfCheck, call)));
    }

    /// Drops the waiting calls of a job that asks anew or is over: a job has only one at a time.
    fn give_up(&mut self, job: Job) {
        self.waiting.retain(|(other, _)| *other != job);
        if let Some((other, _)) = &mut self.under_way
            && *other == job
        {
            *other = Job::GivenUp;
        }
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

    fn obey(&mut self, output: Output, env: &mut Env<'_>) {
        match output {
            Output::Await(call @ Effect::Call { .. }) => {
                self.waiting.push_back((Job::Renewal, call));
                return;
            }
            Output::Await(Effect::Yield { .. } | Effect::Compute { .. }) => {
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

    fn next_call(&mut self, now: UnixMillis) -> Option<Effect> {
        if self.under_way.is_some() {
            return None;
        }
        // A revocation waits for at most one call of the other jobs.
        let poll = self.waiting.iter().position(|(job, _)| *job == Job::Poll);
        let (job, call) = self.waiting.remove(poll.unwrap_or(0))?;
        self.under_way = Some((job, now.plus_ms(call.timeout_ms() + LOST_MS)));
        Some(call)
    }
}
