//! The end of a presented key: its holder may end it.
//!
//! A leak scanner has no credentials but the key that it found. So the key is looked up and
//! verified as the exchange does it, and then ended as its owner would end it.
//!
//! Invariants held here: a text that is no key is answered as a key that was ended; a key that
//! may live on is answered 503, for every reason. Each request counts as a failure of its
//! address, that with a good key too: the count must not tell the two apart either.

use super::{Manage, Output, State, Step, answer, nothing};
use crate::api_key::hash::{BcryptJob, ROUNDS_PER_SLICE, Verification};
use crate::api_key::record::RecordError;
use crate::exchange::bucket::Bucket;
use crate::exchange::throttle::SourceAddress;
use crate::keycloak::Endpoint;
use crate::keycloak::users::{self, Lookup, LookupError, LookupRefusal, Owner};
use crate::machine::Event;
use crate::manage::answers::Answer;
use crate::manage::body::KeyBody;
use crate::manage::end::End;
use crate::manage::env::ManageEnv;
use crate::manage::problem::Code;
use crate::manage::request::Asked;
use crate::manage::router::Query;
use crate::rejection::{Reason, Rejection};

/// Look-ups that a worker makes for all addresses together: in each second, and at once. An
/// attacker may have any number of addresses.
const LOOK_UPS: Bucket = Bucket::new(10, 1000, 20);
/// A key is unknown only if the manager's roles were seen within this time. Without its role
/// Keycloak finds nobody, and a leaked key would be taken for ended.
const ROLES_SEEN_MS: u64 = 5_000;

/// The proof that a presented key is the owner's.
pub(super) struct Proof {
    owner: Box<Owner>,
    /// The verification, once it has begun.
    job: Option<Box<BcryptJob>>,
}

impl Manage {
    /// A key is presented, to be ended.
    pub(super) fn present(
        &mut self,
        query: Query,
        body: &KeyBody,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let source = env.exchange.source().unwrap_or(SourceAddress::Unknown);
        if env.exchange.count_failure(source) {
            return Err(End::new(
                Code::Exchange(Rejection::Throttled),
                Reason::Throttled,
            ));
        }
        let format = &env.exchange.worker.config.key_format;
        let key = match format.parse(body.api_key.as_bytes()) {
            Ok(key) => key,
            Err(fault) => return self.no_key(Reason::Malformed(fault)),
        };
        self.report.key_id = Some(key.id().to_owned());
        let now = env.exchange.now;
        if LOOK_UPS.reserve(&mut env.manager.presented, now).is_none() {
            let problem = Code::Exchange(Rejection::Overloaded);
            return Err(End::new(problem, "too many keys are presented"));
        }
        let asked = Asked::RevokePresented(key);
        self.admit(query, zeroize::Zeroizing::default(), asked, env)?;
        self.need_token(env)
    }

    /// Asks for the owner; or, with the roles seen, believes that the key has none.
    pub(super) fn find_owner(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task()?;
        if task.unseen {
            return self.no_key(Reason::Unknown);
        }
        let Asked::RevokePresented(key) = &task.asked else {
            return Err(nothing());
        };
        let call = users::lookup_call(&env.exchange.worker.config, &task.bearer, key.id());
        task.call(State::FindingOwner, call, env)
    }

    pub(super) fn owner_found(&mut self, event: Event<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        let (status, body) = answer(Endpoint::Lookup, event)?;
        let task = self.task()?;
        let Asked::RevokePresented(key) = &task.asked else {
            return Err(nothing());
        };
        match users::read_lookup_answer(status, body, key.id()) {
            // An expired key is ended too: an administrator may prolong it.
            Ok(Lookup::Owner(owner) | Lookup::Disabled(owner)) => {
                self.prove(Box::new(Proof { owner, job: None }), env)
            }
            Ok(Lookup::Unknown) => {
                task.unseen = true;
                task.token_since = env.exchange.now.minus_ms(ROLES_SEEN_MS);
                self.need_token(env)
            }
            Ok(Lookup::Refused {
                refusal: refusal @ LookupRefusal::Record(RecordError::Absent | RecordError::Hash(_)),
                ..
            }) => self.no_key(refusal),
            // No gateway takes this key now, but it would work were its record mended.
            Ok(Lookup::Refused { refusal, .. }) => Err(End::unavailable(Reason::from(refusal))),
            Err(LookupError::Unauthorized) => self.renew_token(env),
            Err(fault) => {
                if fault == LookupError::Forbidden {
                    env.manager.service_token.reject(&task.bearer);
                }
                Err(End::unavailable(Reason::LookupFault(fault)))
            }
        }
    }

    /// Verifies the key: at once, or a slice of it behind the gate.
    pub(super) fn prove(&mut self, mut proof: Box<Proof>, env: &mut ManageEnv<'_, '_>) -> Step {
        let task = self.task()?;
        let Asked::RevokePresented(key) = &task.asked else {
            return Err(nothing());
        };
        let hash = &proof.owner.record.hash;
        if let Some(wait_ms) = task.wait_at_gate(key.id(), hash.rounds(), env)? {
            return task.wait_for(wait_ms, State::Proving(proof), env);
        }
        let is_right = match &mut proof.job {
            Some(job) => job.run(ROUNDS_PER_SLICE),
            job => match hash.verify(key.expose().as_bytes()) {
                Verification::Decided(is_right) => Some(is_right),
                Verification::Computing(begun) => job.insert(begun).run(ROUNDS_PER_SLICE),
            },
        };
        match is_right {
            None => task.turn(State::Proving(proof), env),
            Some(false) => self.no_key(Reason::WrongSecret),
            Some(true) => {
                env.exchange.gate.leave(task.ticket);
                task.owner_id = Some(proof.owner.id.clone());
                self.report.owner = Some(proof.owner.id);
                self.await_owner(None, env)
            }
        }
    }

    /// The text is no key, so nothing was ended; the log alone says why.
    fn no_key(&mut self, reason: impl std::fmt::Display) -> Step {
        self.report.reason = Some(reason.to_string());
        Ok((State::Over, Output::Respond(Answer::no_content())))
    }
}
