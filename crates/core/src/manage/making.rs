//! The steps that change an owner's keys: scopes, a key and its hash, the change, and this
//! node's caches afterwards.

use std::sync::Arc;

use serde_json::Value;

use super::change::{Change, ChangeError, ChangeOutput, Changed, OwnerChange};
use super::owner_keys::{Edit, EditRefused, NewKey, Replacement};
use super::problem::{Code, Problem};
use super::steps::{answer, nothing};
use super::{
    Answer, Asked, Draft, End, LOCK_WAIT_MS, Manage, ManageEnv, Output, SETTLE_MS, State, Step,
    management,
};
use crate::api_key::hash::{HashJob, NewHash, ROUNDS_PER_SLICE};
use crate::clock::UnixMillis;
use crate::config::HashAlgorithm;
use crate::exchange::gate::Turn;
use crate::keycloak::owner::service_account_name;
use crate::keycloak::users::{self, Lookup, LookupError};
use crate::keycloak::{Endpoint, token};
use crate::machine::{Effect, Event};
use crate::rejection::Rejection;

const DAY_MS: u64 = 24 * 3600 * 1000;
/// The wait at the head of the gate's queue; each place behind adds as much.
const QUEUE_WAIT_MS: u64 = 15;
/// The longest wait in the queue.
const QUEUE_WAIT_MS_MAX: u64 = 100;
/// The wait of the next request for an owner; each request before it adds as much.
const OWNER_WAIT_MS: u64 = 25;
/// The longest wait for an owner.
const OWNER_WAIT_MS_MAX: u64 = 150;
/// The time between two looks at the clock, while other workers drop the owner's tokens.
const SETTLE_WAIT_MS: u64 = 100;

impl Manage {
    // ---- scopes ------------------------------------------------------------------

    /// Asks for a token of the gateway's own with these scopes. Keycloak refuses scopes that
    /// the gateway's client cannot have, so no role is needed to read them.
    pub(super) fn check_scopes(&mut self, scopes: &str, env: &mut ManageEnv<'_, '_>) -> Step {
        let config = Arc::clone(&env.exchange.worker.config);
        let jti = env.exchange.jti("scopes");
        let key = Arc::clone(&env.exchange.worker.signing_key);
        let assertion = token::client_assertion(&config, &key, &jti, env.exchange.now)
            .map_err(|_| End::unavailable("an assertion could not be signed"))?;
        let call = token::scoped_token_call(&config, &assertion, scopes);
        self.task()?.call(State::CheckingScopes, call, env)
    }

    pub(super) fn scopes_checked(&mut self, event: Event<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        let (status, body) = answer(Endpoint::Scopes, event)?;
        if status == 200 {
            return self.make_key(env);
        }
        let error: Option<Value> = serde_json::from_slice(body).ok();
        let error = error
            .as_ref()
            .and_then(|error| error.get("error")?.as_str());
        if status == 400 && error == Some("invalid_scope") {
            let problem = Problem::new(
                Code::InvalidScope,
                "Each scope must be a client scope of the realm that the gateway's client has as \
                 default or optional.",
            );
            return Err(End::new(
                problem,
                "a scope that the gateway's client cannot have",
            ));
        }
        Err(End::unavailable(format!(
            "scopes: Keycloak answered {status}"
        )))
    }

    // ---- the key and its hash ----------------------------------------------------

    pub(super) fn make_key(&mut self, env: &mut ManageEnv<'_, '_>) -> Step {
        let config = Arc::clone(&env.exchange.worker.config);
        let task = self.task()?;
        let nonce = (env.exchange.nonce)();
        let entropy = [task.bearer.as_bytes(), nonce.as_slice()];
        let mut random = env.manager.random.for_key(&entropy, env.exchange.now);
        let key = config.key_format.generate(|bytes| random.fill(bytes));
        let mut salt = [0_u8; 16];
        random.fill(&mut salt);
        self.report.key_id = Some(key.id().to_owned());
        let draft = Box::new(Draft {
            key,
            hash_text: String::new(),
            salt,
        });
        self.queue(draft, env)
    }

    /// Waits for the gate, or starts the hash.
    pub(super) fn queue(&mut self, mut draft: Box<Draft>, env: &mut ManageEnv<'_, '_>) -> Step {
        let config = Arc::clone(&env.exchange.worker.config);
        let rounds = match config.hash_algorithm {
            HashAlgorithm::Sha256 => 0,
            HashAlgorithm::Bcrypt => 1 << config.bcrypt_cost,
        };
        let task = self.task()?;
        if rounds > 0 {
            let now = env.exchange.now;
            let id = draft.key.id();
            match env.exchange.gate.show(task.ticket, id, rounds, now) {
                Turn::Go => {}
                Turn::Full => {
                    let problem = Code::Exchange(Rejection::Overloaded);
                    return Err(End::new(problem, "the queue of hashes is full"));
                }
                Turn::Wait { position, .. } => {
                    let places = u64::try_from(position).unwrap_or(u64::MAX);
                    let wait_ms = places.saturating_mul(QUEUE_WAIT_MS).min(QUEUE_WAIT_MS_MAX);
                    return task.wait_for(wait_ms, State::Queueing(draft), env);
                }
            }
        }
        let text = draft.key.expose().as_bytes();
        match NewHash::start(text, config.hash_algorithm, config.bcrypt_cost, draft.salt) {
            NewHash::Done(hash_text) => {
                draft.hash_text = hash_text;
                self.await_owner(Some(draft), env)
            }
            NewHash::Computing(job) => self.hash_slice(draft, job, env),
        }
    }

    pub(super) fn hash_slice(
        &mut self,
        mut draft: Box<Draft>,
        mut job: Box<HashJob>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let (now, config) = (env.exchange.now, Arc::clone(&env.exchange.worker.config));
        let task = self.task()?;
        let rounds = 1 << config.bcrypt_cost;
        let turn = env
            .exchange
            .gate
            .show(task.ticket, draft.key.id(), rounds, now);
        if turn != Turn::Go {
            return task.wait_for(QUEUE_WAIT_MS, State::Hashing(draft, job), env);
        }
        match job.run(ROUNDS_PER_SLICE) {
            None => task.turn(State::Hashing(draft, job), env),
            Some(hash_text) => {
                env.exchange.gate.leave(task.ticket);
                draft.hash_text = hash_text;
                self.await_owner(Some(draft), env)
            }
        }
    }

    // ---- the change --------------------------------------------------------------

    /// Waits until no other request of the worker changes the owner's keys, and begins.
    pub(super) fn await_owner(
        &mut self,
        draft: Option<Box<Draft>>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let now = env.exchange.now;
        let task = self.task()?;
        let waited_ms = now.since_ms(*task.ready_at.get_or_insert(now));
        let before = env.manager.owners.before(task.owner_id()?, task.id);
        if before == 0 {
            return self.begin_change(draft, waited_ms, env);
        }
        if waited_ms >= LOCK_WAIT_MS {
            return Err(End::new(
                Problem::from(&ChangeError::Busy),
                ChangeError::Busy,
            ));
        }
        let before = u64::try_from(before).unwrap_or(u64::MAX);
        let wait_ms = before.saturating_mul(OWNER_WAIT_MS).min(OWNER_WAIT_MS_MAX);
        task.wait_for(wait_ms, State::AwaitingOwner(draft), env)
    }

    /// The change of the owner's keys for this request.
    fn edit(&self, draft: Option<&Draft>, env: &ManageEnv<'_, '_>) -> Result<Edit, End> {
        let (now, config) = (env.exchange.now, &env.exchange.worker.config);
        let keys_max = usize::try_from(config.max_keys_per_user).unwrap_or(1);
        // Cut to whole seconds first, as they are stored: the answer then names the stored
        // instant.
        let in_days = |days: u64| UnixMillis::from_seconds(now.plus_ms(days * DAY_MS).as_seconds());
        let task = self.task.as_ref().ok_or_else(nothing)?;
        let made = draft.map(|draft| (draft.key.id().to_owned(), draft.hash_text.clone()));
        match (&task.asked, made) {
            (Asked::Revoke(id), None) => Ok(Edit::Revoke { id: id.clone() }),
            (Asked::RevokeAll, None) => Ok(Edit::RevokeAll),
            (Asked::Create(create), Some((id, hash_text))) => Ok(Edit::Create {
                key: NewKey {
                    id,
                    hash_text,
                    name: create.name.clone(),
                    created: now,
                    expires_at: in_days(create.expires_days),
                    scopes: create.scopes.clone(),
                },
                keys_max,
            }),
            (Asked::Rotate(old, rotate), Some((id, hash_text))) => Ok(Edit::Rotate {
                id: old.clone(),
                replacement: Replacement {
                    id,
                    hash_text,
                    created: now,
                    expires_at: rotate.expires_days.map(in_days),
                },
                grace_ms: rotate.grace_seconds * 1000,
                keys_max,
            }),
            _ => Err(nothing()),
        }
    }

    fn begin_change(
        &mut self,
        draft: Option<Box<Draft>>,
        waited_ms: u64,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let edit = self.edit(draft.as_deref(), env)?;
        let wait_ms_max = LOCK_WAIT_MS.saturating_sub(waited_ms);
        self.begin_edit(edit, wait_ms_max, draft, env)
    }

    fn change_of(
        &mut self,
        edit: Edit,
        wait_ms_max: u64,
        env: &mut ManageEnv<'_, '_>,
    ) -> Result<Box<OwnerChange>, End> {
        let (now, config) = (env.exchange.now, Arc::clone(&env.exchange.worker.config));
        let management = management(&config)?;
        let nonce = (env.exchange.nonce)();
        let task = self.task()?;
        let entropy = [task.bearer.as_bytes(), nonce.as_slice()];
        let mut holder = [0_u8; 12];
        env.manager.random.for_key(&entropy, now).fill(&mut holder);
        let holder = holder.iter().map(|byte| format!("{byte:02x}")).collect();
        let change = Change {
            users_path: config.realm.users_path.clone(),
            identity_provider: config.identity_provider.clone(),
            owner_id: task.owner_id()?.to_owned(),
            edit,
            gateway_accounts: [&config.client_id, &management.client_id]
                .map(|client_id| service_account_name(client_id))
                .into(),
            disabled_owners: false,
            // Only an administrator acts for another.
            relink: task.query.user_id.is_some(),
            holder,
            wait_ms_max,
            callout_timeout_ms: config.callout_timeout_ms,
        };
        Ok(Box::new(OwnerChange::new(change, now)))
    }

    pub(super) fn change(
        &mut self,
        mut change: Box<OwnerChange>,
        draft: Option<Box<Draft>>,
        event: Event<'_>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let task = self.task()?;
        let is_first = change.is_at_its_first_call();
        let output = change.handle_event(event, &task.bearer, env.exchange.now);
        self.changes(change, draft, (output, is_first), env)
    }

    /// Begins a change of the owner's keys.
    fn begin_edit(
        &mut self,
        edit: Edit,
        wait_ms_max: u64,
        draft: Option<Box<Draft>>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let mut change = self.change_of(edit, wait_ms_max, env)?;
        let output = change.begin(&self.task()?.bearer, env.exchange.now);
        self.changes(change, draft, (output, false), env)
    }

    /// Turns the change's output into the request's next step. `is_first`: the output follows
    /// the answer to the change's first call.
    fn changes(
        &mut self,
        change: Box<OwnerChange>,
        draft: Option<Box<Draft>>,
        (output, is_first): (ChangeOutput, bool),
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let task = self.task()?;
        match output {
            // The request's deadline does not cut it short: a change ends by itself, and must
            // not stay half-made.
            ChangeOutput::Await(effect) => {
                Ok((State::Changing(change, draft), Output::Await(effect)))
            }
            ChangeOutput::Done(result) => match *result {
                Ok(_) if task.undoing => Err(End::new(
                    Problem::from(&ChangeError::from(EditRefused::OwnerNotFound)),
                    EditRefused::OwnerNotFound,
                )),
                Err(error) if task.undoing => Err(End::new(
                    Problem::from(&ChangeError::NotAsWritten),
                    format!(
                        "{}; its making could not be undone: {error}",
                        EditRefused::OwnerNotFound
                    ),
                )),
                Ok(changed) => self.look_up(Box::new(changed), draft, env),
                // Begun anew, with a key of its own.
                Err(ChangeError::Unauthorized) if is_first => self.renew_token(env),
                Err(error) => {
                    if error == ChangeError::Unauthorized {
                        env.manager.service_token.reject(&task.bearer);
                    }
                    Err(End::new(Problem::from(&error), error.loggable()))
                }
            },
        }
    }

    /// The change is made: a new key is looked up as a gateway does it.
    fn look_up(
        &mut self,
        changed: Box<Changed>,
        draft: Option<Box<Draft>>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let config = &env.exchange.worker.config;
        let Some(id) = &changed.edited.added else {
            return self.changed(changed, draft, env);
        };
        let call = users::lookup_call(config, &self.task()?.bearer, id);
        let timeout_ms = config.callout_timeout_ms;
        let state = State::LookingUp(changed, draft);
        Ok((state, Output::Await(Effect::Call { call, timeout_ms })))
    }

    /// Keycloak's search finds no owner in a user storage without import. No gateway would find
    /// the key, so it is taken away again. If the search gets no answer, the client gets the
    /// key: it was written, and read again.
    pub(super) fn looked_up(
        &mut self,
        changed: Box<Changed>,
        draft: Option<Box<Draft>>,
        event: Event<'_>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let id = changed.edited.added.clone().unwrap_or_default();
        let found = match event.answer() {
            Ok((status, body)) => users::read_lookup_answer(status, body, &id),
            Err(_) => Err(LookupError::Malformed),
        };
        if found != Ok(Lookup::Unknown) {
            return self.changed(changed, draft, env);
        }
        self.task()?.undoing = true;
        self.begin_edit(Edit::Revoke { id }, LOCK_WAIT_MS, None, env)
    }

    /// The change is made. If it ends a key, now or after a grace, the other workers of the
    /// node learn of it: they may hold a token of the key.
    fn changed(
        &mut self,
        changed: Box<Changed>,
        draft: Option<Box<Draft>>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let now = env.exchange.now;
        let task = self.task()?;
        env.manager.owners.leave(task.id);
        if matches!(task.asked, Asked::Create(_)) {
            return self.told(&changed, draft);
        }
        let owner_id = task.owner_id()?.to_owned();
        if matches!(task.asked, Asked::Revoke(_)) {
            self.report.key_id = changed.edited.ended.first().cloned();
        }
        if let Some(kept) = &changed.records_kept {
            self.report.reason = Some(format!("the records stay: {}", kept.loggable()));
        }
        let (worker, store) = (&mut *env.exchange.worker, &mut *env.exchange.store);
        if worker.revoke_owner(&owner_id, now, store).is_err() {
            // Other workers learn of the change by their polls, as of any change in Keycloak.
            self.report.reason = Some("the node's workers could not be told at once".to_owned());
        }
        self.settle(changed, draft, now.plus_ms(SETTLE_MS), env)
    }

    /// Waits until all workers of the node have dropped the owner's tokens.
    pub(super) fn settle(
        &mut self,
        changed: Box<Changed>,
        draft: Option<Box<Draft>>,
        until: UnixMillis,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let now = env.exchange.now;
        // A clock that was set back must not hold the answer back.
        if now >= until || until.since_ms(now) > SETTLE_MS {
            return self.told(&changed, draft);
        }
        let wait_ms = until.since_ms(now).min(SETTLE_WAIT_MS);
        let state = State::Settling(changed, draft, until);
        let turn = Effect::Yield {
            wait_ms: Some(wait_ms),
            timeout_ms: env.exchange.worker.config.callout_timeout_ms,
        };
        Ok((state, Output::Await(turn)))
    }

    pub(super) fn told(&mut self, changed: &Changed, draft: Option<Box<Draft>>) -> Step {
        let respond = |answer| Ok((State::Over, Output::Respond(answer)));
        let Some(draft) = draft else {
            return respond(match &self.task()?.asked {
                Asked::RevokeAll => Answer::all_ended(changed.records_kept.as_ref()),
                _ => Answer::no_content(),
            });
        };
        let by_id = |id: &str| changed.keys.iter().find(|key| key.id == id);
        let Some(key) = by_id(draft.key.id()) else {
            return Err(End::unavailable("the new key is not among the owner's"));
        };
        let replaced = match &self.task()?.asked {
            Asked::Rotate(old, _) => by_id(old),
            _ => None,
        };
        respond(Answer::made(key, draft.key.expose(), replaced))
    }
}
