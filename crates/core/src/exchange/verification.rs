//! The steps that verify a key against its owner's record: memo, gate, slices.

use super::gate::Turn;
use super::{End, Env, Pending, State, Step};
use crate::api_key::hash::{BcryptJob, ROUNDS_PER_SLICE, Verification};
use crate::keycloak::users::Owner;
use crate::rejection::Reason;

/// The wait of whoever is next at the gate.
const NEXT_MS: u64 = 5;
/// Each place in the queue adds this much to the wait.
const PLACE_MS: u64 = 15;
/// The longest wait in the queue.
const QUEUE_MS_MAX: u64 = 100;

impl Pending {
    pub(super) fn check_record(&mut self, owner: Box<Owner>, env: &mut Env<'_>) -> Step {
        self.owner_id = Some(owner.id.as_str().into());
        let record = &owner.record;
        if record.ends_at <= env.now {
            return Err(End::invalid(Reason::Expired));
        }
        if env
            .worker
            .cache
            .is_verified(&self.digest, &record.hash_text, env.store)
        {
            self.known = true;
            return self.sign(owner, env);
        }
        let Some(key) = &self.key else {
            return Err(End::refused(Reason::NoKeyAtHand));
        };
        if record.hash.rounds() == 0 {
            let key = key.expose().as_bytes();
            let same = matches!(record.hash.verify(key), Verification::Decided(true));
            return self.verified(owner, same, env);
        }
        self.queue(owner, env)
    }

    /// Waits for the gate, or starts the verification.
    pub(super) fn queue(&mut self, owner: Box<Owner>, env: &mut Env<'_>) -> Step {
        let rounds = owner.record.hash.rounds();
        match env.gate.show(self.ticket, &self.key_id, rounds, env.now) {
            Turn::Full => Err(End::refused(Reason::QueueFull)),
            Turn::Go => {
                // While this one waited, another worker of the node may have been faster.
                let hash_text = &owner.record.hash_text;
                let cache = &mut env.worker.cache;
                if self.queued && cache.is_verified(&self.digest, hash_text, env.store) {
                    env.gate.leave(self.ticket);
                    self.known = true;
                    return self.sign(owner, env);
                }
                self.allow_for(u64::from(rounds), env);
                let Some(key) = &self.key else {
                    return Err(End::refused(Reason::NoKeyAtHand));
                };
                match owner.record.hash.verify(key.expose().as_bytes()) {
                    Verification::Decided(same) => self.verified(owner, same, env),
                    Verification::Computing(job) => self.verify_slice(owner, job, env),
                }
            }
            Turn::Wait {
                position,
                rounds_before,
            } => {
                self.allow_for(rounds_before + u64::from(rounds), env);
                let places = u64::try_from(position)
                    .unwrap_or(u64::MAX)
                    .saturating_sub(1);
                let wait_ms = (NEXT_MS + places.saturating_mul(PLACE_MS)).min(QUEUE_MS_MAX);
                self.wait(State::Queueing { owner }, wait_ms, env)
            }
        }
    }

    /// Moves the deadline, once, to make room for so many rounds of bcrypt. The time
    /// of other requests in between is allowed for: four times what the rounds take
    /// on an idle worker, 0.1 ms each.
    fn allow_for(&mut self, rounds: u64, env: &mut Env<'_>) {
        if std::mem::replace(&mut self.queued, true) {
            return;
        }
        let callouts = env.worker.config.callout_timeout_ms;
        let enough = env.now.plus_ms(rounds * 2 / 5 + callouts);
        self.deadline_at = self.deadline_at.max(enough);
        env.worker
            .flights
            .extend(&self.digest, self.id, self.deadline_at);
    }

    pub(super) fn verify_slice(
        &mut self,
        owner: Box<Owner>,
        mut job: Box<BcryptJob>,
        env: &mut Env<'_>,
    ) -> Step {
        let rounds = owner.record.hash.rounds();
        if env.gate.show(self.ticket, &self.key_id, rounds, env.now) != Turn::Go {
            return self.wait(State::Verifying { owner, job }, NEXT_MS, env);
        }
        match job.run(ROUNDS_PER_SLICE) {
            None => self.turn(State::Verifying { owner, job }, env),
            Some(same) => {
                env.gate.leave(self.ticket);
                self.verified(owner, same, env)
            }
        }
    }

    fn verified(&mut self, owner: Box<Owner>, same: bool, env: &mut Env<'_>) -> Step {
        if !same {
            return Err(End::invalid(Reason::WrongSecret));
        }
        self.first_use = true;
        self.known = true;
        let record = &owner.record;
        env.worker.cache.remember_verified(
            &self.digest,
            &record.hash_text,
            record.ends_at,
            env.now,
            env.store,
        );
        self.turn(State::Signing { owner }, env)
    }
}
