//! The signing keys of a realm's gateways, read from Keycloak's own events.
//!
//! Each sign-in of a client is an event (`CLIENT_LOGIN`) with the `jti` of the client's
//! assertion, and our `jti` ends with the short name of the signing key. Each node of gateways
//! signs in at its start and at least every five minutes (the self-check). A `jti` without a
//! name counts as a key in use: nothing is retired on a guess.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::user_events::signer_of;
use serde_json::{Value, json};

use crate::keycloak_admin::{KeycloakAdmin, query};
use crate::setup::verify::JTI_PREFIX;
use crate::system;

const SIGN_IN_EVENT: &str = "CLIENT_LOGIN";
const PAGE: usize = 100;
/// The most pages of sign-ins to read for a client: enough for a thousand nodes at the usual
/// rate.
const PAGES_MAX: usize = 100;
/// A working gateway signs in within this time: three self-checks.
const AT_WORK_SECONDS: u64 = 15 * 60;

/// The latest sign-in by each signing key, under the key's short name; an empty name stands
/// for all unknown keys.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Seen {
    latest: BTreeMap<String, SignIn>,
    /// A key with a sign-in after this instant is in use.
    since: UnixMillis,
}

#[derive(Debug, Clone, PartialEq)]
struct SignIn {
    client_id: String,
    at: UnixMillis,
}

/// Why the events tell nothing; `None` if they do.
pub(crate) fn silence(admin: &KeycloakAdmin, seconds: u64) -> Result<Option<String>> {
    Ok(why_silent(&admin.get("events/config")?, seconds))
}

fn why_silent(config: &Value, seconds: u64) -> Option<String> {
    if config.get("eventsEnabled") != Some(&json!(true)) {
        return Some("the realm keeps no events: run apikeys setup".to_owned());
    }
    let types = config.get("enabledEventTypes").and_then(Value::as_array);
    if types.is_some_and(|types| !types.is_empty() && !types.contains(&json!(SIGN_IN_EVENT))) {
        return Some(format!(
            "the realm keeps no events {SIGN_IN_EVENT}: add the type in the admin console, Realm \
             settings, Events"
        ));
    }
    let kept = config.get("eventsExpiration").and_then(Value::as_u64);
    kept.filter(|kept| (1..seconds).contains(kept)).map(|kept| {
        format!("the realm keeps its events for {kept} s alone: keep them for {seconds} s or more")
    })
}

impl Seen {
    /// Reads the sign-ins of these clients. A key is in use if it was used in the last `seconds`.
    pub(crate) fn look(admin: &KeycloakAdmin, clients: &[String], seconds: u64) -> Result<Self> {
        let now = keycloaks_now(admin)?;
        let looked_at = seconds.max(AT_WORK_SECONDS);
        let from = now.minus_ms(looked_at.saturating_mul(1000)).0;
        let mut seen = Self {
            since: now.minus_ms(seconds.saturating_mul(1000)),
            ..Self::default()
        };
        for client_id in clients {
            for page in 0.. {
                ensure!(
                    page < PAGES_MAX,
                    "client {client_id:?} signed in more than {} times in {looked_at} s: too many \
                     to tell whose they were",
                    PAGE * PAGES_MAX
                );
                let events = admin.list(&format!(
                    "events?type={SIGN_IN_EVENT}&client={}&dateFrom={from}&max={PAGE}&first={}",
                    query(client_id),
                    page * PAGE
                ))?;
                events.iter().for_each(|event| seen.add(client_id, event));
                if events.len() < PAGE {
                    break;
                }
            }
        }
        Ok(seen)
    }

    fn add(&mut self, client_id: &str, event: &Value) {
        let jti = event.pointer("/details/client_assertion_id");
        let jti = jti.and_then(Value::as_str).unwrap_or_default();
        if jti.starts_with(JTI_PREFIX) {
            return;
        }
        let at = UnixMillis(
            event
                .get("time")
                .and_then(Value::as_u64)
                .unwrap_or_default(),
        );
        let signer = signer_of(jti).unwrap_or_default().to_owned();
        let latest = self.latest.entry(signer).or_insert_with(|| SignIn {
            client_id: client_id.to_owned(),
            at,
        });
        if at > latest.at {
            client_id.clone_into(&mut latest.client_id);
            latest.at = at;
        }
    }

    /// Whether a gateway signed in lately with the key of this short name.
    pub(crate) fn has(&self, signer: &str) -> bool {
        self.latest.contains_key(signer)
    }

    /// The last sign-in with a key in use other than this one, in words.
    pub(crate) fn other_than(&self, signer: &str) -> Option<String> {
        let others = self
            .latest
            .iter()
            .filter(|(other, last)| *other != signer && last.at >= self.since);
        let (name, last) = others.max_by_key(|(_, last)| last.at)?;
        let key = match name.as_str() {
            "" => "a key that its assertion does not name (an older filter's)".to_owned(),
            name => format!("key {name}…"),
        };
        Some(format!(
            "{:?} signed in with {key} at {}",
            last.client_id,
            last.at.to_rfc3339()
        ))
    }

    /// For people: a line for each key.
    pub(crate) fn lines(&self) -> Vec<String> {
        let line = |(name, last): (&String, &SignIn)| {
            let name = if name.is_empty() { "unknown" } else { name };
            format!(
                "signed in with: key {name}…, {:?} last at {}",
                last.client_id,
                last.at.to_rfc3339()
            )
        };
        self.latest.iter().map(line).collect()
    }

    /// For programs.
    pub(crate) fn document(&self, ours: &str) -> Value {
        let entry = |(name, last): (&String, &SignIn)| {
            json!({
                "kid_begins": (!name.is_empty()).then_some(name),
                "is_given_key": name == ours,
                "client_id": last.client_id,
                "last_at": last.at.to_rfc3339(),
            })
        };
        self.latest.iter().map(entry).collect()
    }
}

/// The time of Keycloak's clock, which dates the events.
fn keycloaks_now(admin: &KeycloakAdmin) -> Result<UnixMillis> {
    let ours = system::now()?;
    let ahead = admin.clock_ahead_seconds().unwrap_or_default();
    let ms = ahead.unsigned_abs().saturating_mul(1000);
    Ok(match ahead {
        0.. => ours.minus_ms(ms),
        _ => ours.plus_ms(ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(events: &[(&str, u64)]) -> Seen {
        let mut seen = Seen::default();
        for (jti, time) in events {
            let event = json!({"time": time, "details": {"client_assertion_id": jti}});
            seen.add("gateway", &event);
        }
        seen
    }

    #[test]
    fn sign_ins_are_told_apart_by_the_signing_key_and_the_tools_own_do_not_count() {
        let seen = seen(&[
            ("poll.xyz.OLDOLDOL", 1000),
            ("check.xyz.NEWNEWNE", 3000),
            ("check.abc.OLDOLDOL", 2000),
            ("apikeys-0123.OLDOLDOL", 9000),
        ]);
        assert!(seen.has("NEWNEWNE") && seen.has("OLDOLDOL") && !seen.has("OTHEROTH"));
        let other = seen.other_than("NEWNEWNE").unwrap();
        assert!(
            other.contains("key OLDOLDOL…") && other.ends_with("1970-01-01T00:00:02Z"),
            "{other}"
        );
        assert_eq!(seen.lines().len(), 2);
    }

    #[test]
    fn what_names_no_signing_key_counts_as_another() {
        for jti in ["", "0123456789abcdef", "service.xyz"] {
            let seen = seen(&[(jti, 1000), ("check.xyz.NEWNEWNE", 3000)]);
            let other = seen.other_than("NEWNEWNE").unwrap();
            assert!(other.contains("older filter"), "{other}");
        }
        let only_ours = seen(&[("check.xyz.NEWNEWNE", 3000)]);
        assert_eq!(only_ours.other_than("NEWNEWNE"), None);
        assert!(!Seen::default().has(""));
    }

    #[test]
    fn a_key_that_was_last_used_long_enough_ago_is_not_in_use() {
        let mut seen = seen(&[("poll.xyz.OLDOLDOL", 1999), ("poll.xyz.NEWNEWNE", 1000)]);
        seen.since = UnixMillis(1999);
        assert!(seen.other_than("NEWNEWNE").is_some());
        seen.since = UnixMillis(2000);
        assert_eq!(seen.other_than("NEWNEWNE"), None);
        assert!(
            seen.has("NEWNEWNE"),
            "one that works may be quiet for a while"
        );
    }

    #[test]
    fn events_that_are_not_kept_tell_nothing() {
        for (config, words) in [
            (json!({}), Some("no events: run")),
            (json!({"eventsEnabled": false}), Some("no events: run")),
            (
                json!({"eventsEnabled": true, "enabledEventTypes": ["LOGIN"]}),
                Some("CLIENT_LOGIN"),
            ),
            (
                json!({"eventsEnabled": true, "eventsExpiration": 899}),
                Some("899 s"),
            ),
            (json!({"eventsEnabled": true, "eventsExpiration": 0}), None),
            (
                json!({"eventsEnabled": true, "eventsExpiration": 900,
                       "enabledEventTypes": ["CLIENT_LOGIN"]}),
                None,
            ),
        ] {
            let why = why_silent(&config, 900);
            assert_eq!(why.is_some(), words.is_some(), "{why:?}");
            assert!(why.unwrap_or_default().contains(words.unwrap_or_default()));
        }
    }
}
