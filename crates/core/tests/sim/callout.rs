//! The way of a callout to Keycloak and back, with its faults.

use apikeys_core::api_key::hash::StoredHash;
use apikeys_core::keycloak::Call;
use serde_json::{Value, json};

use super::dice::Dice;
use super::faults::{Fault, Faults};
use super::keycloak::{FakeKeycloak, Reply, claims, form, jwt, token_answer};

/// The purpose of a callout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asks {
    ServiceToken,
    /// The administrators' changes.
    Events,
    /// Whether Keycloak keeps those.
    EventsOn,
    /// The realm's discovery document, for the self-check.
    Realm,
    /// The owner of the key of this id.
    Lookup(String),
    /// A token for this owner, that ends by this second at the latest.
    Grant {
        subject: String,
        by: u64,
    },
}

impl Asks {
    pub fn of(call: &Call) -> Self {
        if call.path.ends_with("/events/config") {
            return Self::EventsOn;
        }
        let of_realm = ["/.well-known/openid-configuration", "/users/profile"];
        if of_realm.iter().any(|end| call.path.ends_with(end)) {
            return Self::Realm;
        }
        if call.path.contains("/admin-events?") {
            return Self::Events;
        }
        if call.method == "GET" {
            let index = call.path.split_once("q=apiKeyIndex%3A").unwrap().1;
            return Self::Lookup(index.trim_end_matches('.').to_owned());
        }
        let form = form(call);
        match form.get("assertion") {
            None => Self::ServiceToken,
            Some(assertion) => {
                let claims = claims(assertion);
                let subject = claims["sub"].as_str().unwrap().to_owned();
                let by = claims["exp"].as_u64().unwrap();
                Self::Grant { subject, by }
            }
        }
    }

    /// Its kind, for the trace, and for mixing up answers of one kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ServiceToken => "service token",
            Self::Events => "events",
            Self::EventsOn => "events on",
            Self::Realm => "realm",
            Self::Lookup(_) => "look-up",
            Self::Grant { .. } => "grant",
        }
    }
}

/// An answer as it comes to the gateway.
#[derive(Debug, Clone)]
pub struct Delivered {
    pub status: u16,
    /// None if it is larger than the limit.
    pub body: Option<Vec<u8>>,
    /// The fault for which nobody may believe it.
    pub poison: Option<&'static str>,
    /// The rounds of the hash in it.
    pub rounds: Option<u32>,
}

/// Spoils an answer, or leaves it as it is. `other` is the last answer of this kind
/// to somebody else.
pub fn deliver(
    asks: &Asks,
    reply: Reply,
    other: Option<&(Asks, Reply)>,
    keycloak: &FakeKeycloak,
    (faults, dice): (&Faults, &mut Dice),
) -> Delivered {
    let mut hits = |fault| faults.hits(fault, dice);
    let (mut status, mut body) = reply;
    if hits(Fault::AnswerOfAnother)
        && let Some((_, theirs)) = other.filter(|(theirs, reply)| is_mix_up(asks, theirs, reply))
    {
        (status, body) = theirs.clone();
    }
    let [foreign, two, capitals] = [
        Fault::ForeignOwner,
        Fault::TwoOwners,
        Fault::OwnerInCapitals,
    ]
    .map(&mut hits);
    let [subject, issuer] = [Fault::ForeignSubject, Fault::ForeignIssuer].map(&mut hits);
    match asks {
        Asks::Lookup(id) if status == 200 => {
            if foreign || two {
                body = another_owner(keycloak, id, &body, two).unwrap_or(body);
            } else if capitals {
                let text = String::from_utf8(body).unwrap();
                body = text
                    .replace(
                        &format!("key:{id}:"),
                        &format!("key:{}:", id.to_uppercase()),
                    )
                    .into_bytes();
            }
        }
        Asks::Grant { .. } if status == 200 && (subject || issuer) => {
            body = another_token(&body, subject, issuer);
        }
        _ => {}
    }
    let poison = (status == 200).then(|| poison(asks, &body)).flatten();
    let rounds = rounds(asks, &body);
    let sound = Delivered {
        status,
        body: Some(body),
        poison,
        rounds,
    };
    break_off(sound, faults, dice)
}

/// Faults that leave no answer to believe.
fn break_off(sound: Delivered, faults: &Faults, dice: &mut Dice) -> Delivered {
    let mut hits = |fault| faults.hits(fault, dice);
    let [truncated, status, redirected, huge] = [
        Fault::AnswerTruncated,
        Fault::AnswerStatus,
        Fault::AnswerRedirected,
        Fault::AnswerHuge,
    ]
    .map(&mut hits);
    let other = dice.pick(&[401, 403, 404, 429, 500, 503]);
    let broken = |status, body| Delivered {
        status,
        body,
        poison: None,
        rounds: None,
    };
    let text = |text: &str| Some(text.as_bytes().to_vec());
    if huge {
        return broken(200, None);
    }
    if redirected {
        return broken(302, text("<html>over there</html>"));
    }
    if status {
        return broken(other, text("{\"error\":\"unknown_error\"}"));
    }
    if truncated && let Some(body) = &sound.body {
        let cut = dice.below(body.len().max(1));
        return broken(sound.status, Some(body[..cut].to_vec()));
    }
    sound
}

/// Whether the answer to one call is wrong for the other, and visibly so: an answer "nobody"
/// could be true of both.
fn is_mix_up(mine: &Asks, theirs: &Asks, reply: &Reply) -> bool {
    match (mine, theirs) {
        // Nor an owner of both keys.
        (Asks::Lookup(mine), Asks::Lookup(_)) => {
            let text = String::from_utf8_lossy(&reply.1);
            text != "[]" && !text.contains(&format!("key:{mine}:"))
        }
        (
            Asks::Grant { subject: mine, .. },
            Asks::Grant {
                subject: theirs, ..
            },
        ) => mine != theirs,
        _ => false,
    }
}

/// A list with a user that does not hold this key.
fn another_owner(keycloak: &FakeKeycloak, id: &str, body: &[u8], two: bool) -> Option<Vec<u8>> {
    let mark = format!("key:{id}:");
    let other = keycloak.users.iter().find(|user| {
        let values = user.attributes.get("apiKeys").into_iter().flatten();
        !values.into_iter().any(|value| value.starts_with(&mark))
    })?;
    let mut list: Vec<Value> = serde_json::from_slice(body).ok()?;
    if !two {
        list.clear();
    } else if list.is_empty() {
        return None;
    }
    list.push(other.representation());
    Some(Value::from(list).to_string().into_bytes())
}

fn another_token(body: &[u8], subject: bool, issuer: bool) -> Vec<u8> {
    let answer: Value = serde_json::from_slice(body).unwrap();
    let mut claims = claims(answer["access_token"].as_str().unwrap());
    let life = answer["expires_in"].as_u64().unwrap();
    if subject {
        claims["sub"] = json!("mallory");
    }
    if issuer {
        claims["iss"] = json!("https://login.example.com/realms/elsewhere");
    }
    token_answer(&jwt(&claims), life)
}

/// The fault for which nobody may believe this answer with status 200.
fn poison(asks: &Asks, body: &[u8]) -> Option<&'static str> {
    match asks {
        Asks::ServiceToken | Asks::Events | Asks::EventsOn | Asks::Realm => None,
        Asks::Lookup(id) => {
            let list: Vec<Value> = serde_json::from_slice(body).ok()?;
            if list.len() > 1 {
                return Some("a list of two owners");
            }
            let values = list.first()?["attributes"]["apiKeys"].as_array();
            let mark = format!("key:{id}:");
            let holds = values
                .into_iter()
                .flatten()
                .any(|value| value.as_str().is_some_and(|value| value.starts_with(&mark)));
            (!holds).then_some("a user who does not hold this key")
        }
        Asks::Grant { subject, .. } => {
            let answer: Value = serde_json::from_slice(body).ok()?;
            let claims = claims(answer["access_token"].as_str()?);
            if claims["sub"] != json!(subject) {
                Some("a token of another subject")
            } else if claims["iss"].as_str()?.ends_with("elsewhere") {
                Some("a token of another realm")
            } else {
                None
            }
        }
    }
}

fn rounds(asks: &Asks, body: &[u8]) -> Option<u32> {
    let Asks::Lookup(id) = asks else {
        return None;
    };
    let list: Vec<Value> = serde_json::from_slice(body).ok()?;
    let mark = format!("key:{id}:");
    let values = list.first()?["attributes"]["apiKeys"].as_array()?;
    let hash = values
        .iter()
        .find_map(|value| value.as_str()?.strip_prefix(&mark))?;
    StoredHash::parse(hash).ok().map(|hash| hash.rounds())
}
