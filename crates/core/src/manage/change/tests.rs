//! Tests of a change against a Keycloak in memory: each step, each refusal, and the
//! interleavings that once lost a change; `sim` finds others.

mod interleaved;
mod keycloak;
mod refused;
mod sim;
mod steps;

use super::*;
use crate::api_key::hash::hash_sha256;
use crate::clock::UnixMillis;
use crate::keycloak::Call;
use crate::machine::{Effect, Event};
use crate::manage::change::steps::WRITES_MAX;
use crate::manage::owner_keys::{Edit, EditRefused, Edited, NewKey, Replacement, Setting};
use keycloak::{Answer, Keycloak, OWNER, PROVIDER, USERS};
use serde_json::json;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const HOLDER: &str = "holder0000000000";
const A: &str = "aaaa00000001";
const B: &str = "bbbb00000002";

fn change(edit: Edit) -> Change {
    Change {
        users_path: USERS.to_owned(),
        identity_provider: PROVIDER.to_owned(),
        owner_id: OWNER.to_owned(),
        edit,
        gateway_accounts: vec!["service-account-api-key-gateway".to_owned()],
        disabled_owners: false,
        relink: false,
        holder: HOLDER.to_owned(),
        wait_ms_max: 5_000,
        callout_timeout_ms: 2_000,
    }
}

fn create(id: &str) -> Edit {
    let key = NewKey {
        id: id.to_owned(),
        hash_text: hash_sha256(id.as_bytes()),
        name: "made".to_owned(),
        created: NOW,
        expires_at: NOW.plus_ms(86_400_000),
        scopes: None,
        settings: Vec::new(),
    };
    Edit::Create { key, keys_max: 3 }
}

fn revoke(id: &str) -> Edit {
    Edit::Revoke { id: id.to_owned() }
}

fn label(id: &str, labels: &str) -> Edit {
    Edit::Update {
        id: id.to_owned(),
        settings: vec![Setting::Labels(Some(labels.to_owned()))],
    }
}

fn rotate(id: &str, by: &str, grace_ms: u64) -> Edit {
    Edit::Rotate {
        id: id.to_owned(),
        replacement: Replacement {
            id: by.to_owned(),
            hash_text: hash_sha256(by.as_bytes()),
            created: NOW,
            expires_at: None,
        },
        grace_ms,
        keys_max: 3,
    }
}

/// A realm with one owner, who holds these keys, and is linked if it holds any.
fn realm(ids: &[&str]) -> Keycloak {
    let mut keycloak = Keycloak::new();
    let mut owner = keycloak.owner();
    for id in ids {
        create(id).apply(&mut owner.attributes, NOW).unwrap();
        let link = (OWNER.to_owned(), "alice".to_owned());
        keycloak.links.insert(PROVIDER.to_owned(), link);
    }
    keycloak.user = owner.to_value();
    keycloak
}

fn ids(keycloak: &Keycloak) -> Vec<String> {
    let owner = keycloak.owner();
    let ids = crate::manage::owner_keys::key_ids(&owner.attributes);
    ids.map(str::to_owned).collect()
}

/// The fate of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is answered.
    Answered,
    /// It never arrives.
    Dropped,
    /// It takes effect, and its answer is lost.
    Unheard,
    /// It has no effect, and is answered with this status.
    Refused(u16),
    /// It has no effect, and is answered with this status and body.
    RefusedWith(u16, &'static str),
    /// It takes effect, and is answered with this status.
    DoneAs(u16),
    /// Its answer is too large.
    TooLarge,
}

/// How a change went.
struct Ran {
    result: Result<Changed, ChangeError>,
    /// The calls made, in the form of [`asked`].
    calls: Vec<String>,
}

impl Ran {
    #[track_caller]
    fn made(self) -> Changed {
        self.result.unwrap()
    }

    #[track_caller]
    fn failed(self) -> ChangeError {
        self.result.unwrap_err()
    }
}

/// Method and last part of the path.
fn asked(call: &Call) -> String {
    let path = call.path.split('?').next().unwrap();
    let last = match path.rsplit('/').next().unwrap() {
        OWNER => "user",
        "federated-identity" => "links",
        "users" => "holders",
        other => other,
    };
    format!("{} {last}", call.method)
}

/// Runs a change to its end; `meanwhile` sees each call before it is made, and decides its
/// fate. Every call takes 10 ms.
fn run(
    keycloak: &mut Keycloak,
    change: Change,
    mut meanwhile: impl FnMut(&str, usize, &mut Keycloak) -> Fate,
) -> Ran {
    let mut now = NOW;
    let mut machine = OwnerChange::new(change, now);
    assert_eq!(machine.owner_id(), OWNER);
    let mut output = machine.begin("T", now);
    let mut calls: Vec<String> = Vec::new();
    loop {
        now = now.plus_ms(10);
        let call = match output {
            ChangeOutput::Await(Effect::Call { call, .. }) => call,
            ChangeOutput::Await(Effect::Yield { wait_ms, .. }) => {
                let ms = wait_ms.unwrap();
                now = now.plus_ms(ms);
                output = machine.handle_event(Event::TURN, "T", now);
                continue;
            }
            ChangeOutput::Await(Effect::Compute { .. }) => {
                unreachable!("a change computes nothing")
            }
            ChangeOutput::Done(result) => {
                return Ran {
                    result: *result,
                    calls,
                };
            }
        };
        assert_eq!(call.bearer.as_deref(), Some("T"));
        calls.push(asked(&call));
        let fate = meanwhile(calls.last().unwrap(), calls.len(), keycloak);
        let answer: Option<Answer> = match fate {
            Fate::Answered => Some(keycloak.answer(&call)),
            Fate::Dropped => None,
            Fate::Unheard => {
                keycloak.answer(&call);
                None
            }
            Fate::Refused(status) => Some((status, String::new())),
            Fate::RefusedWith(status, body) => Some((status, body.to_owned())),
            Fate::DoneAs(status) => {
                keycloak.answer(&call);
                Some((status, String::new()))
            }
            Fate::TooLarge => {
                let (status, _) = keycloak.answer(&call);
                let input = Event::Answer { status, body: None };
                output = machine.handle_event(input, "T", now);
                continue;
            }
        };
        output = match &answer {
            Some((status, body)) => {
                let (status, body) = (*status, Some(body.as_bytes()));
                machine.handle_event(Event::Answer { status, body }, "T", now)
            }
            None => machine.handle_event(Event::Failed("no answer"), "T", now),
        };
    }
}

fn undisturbed(keycloak: &mut Keycloak, change: Change) -> Ran {
    run(keycloak, change, |_, _, _| Fate::Answered)
}

/// The first call of this kind meets this fate, all others are answered.
fn with_fate(keycloak: &mut Keycloak, change: Change, kind: &str, fate: Fate) -> Ran {
    let mut left = 1;
    run(keycloak, change, |call, _, _| {
        if call == kind && left > 0 {
            left -= 1;
            fate
        } else {
            Fate::Answered
        }
    })
}

#[track_caller]
fn holds_no_lock(keycloak: &Keycloak) {
    assert_eq!(keycloak.links.get(LOCK_PROVIDER), None);
    assert!(keycloak.groups.is_empty());
}
