//! Judges each finding as good, a warning or bad, and says how to mend it.

use super::findings::State;
use crate::clock::UnixMillis;
use crate::config::Config;
use crate::keycloak::admin_events::{EventsError, may_read_events};
use crate::keycloak::realm_checks::{AttributePolicy, RealmError};
use crate::keycloak::users::{EVENTS_ROLE, LOOKUP_ROLE, needless_roles};
use crate::keycloak::{Endpoint, loggable};
use crate::rejection::Reason;

/// The most roles that a line names; the rest are counted.
const ROLES_NAMED: usize = 6;

/// There is no service token.
pub(super) fn no_token(reason: &Reason) -> State {
    State::Bad(format!(
        "no key can be exchanged: {reason}; check keycloak_url, client_id and the signing key, or \
         run: apikeys doctor"
    ))
}

/// The service token cannot look owners up.
pub(super) fn no_role(config: &Config, reason: &Reason) -> State {
    let client_id = &config.client_id;
    State::Bad(match reason {
        Reason::LightweightToken(_) => format!(
            "no key can be exchanged: client {client_id} gives lightweight access tokens, which \
             list no roles; turn off \"Always use lightweight access token\" of the client, or \
             run: apikeys setup"
        ),
        _ => format!(
            "no key can be exchanged: the service account of client {client_id} lacks the role \
             {LOOKUP_ROLE} of client realm-management; grant it, or run: apikeys setup"
        ),
    })
}

/// The roles of a service token that looks owners up.
pub(super) fn roles(config: &Config, roles: &[String]) -> State {
    if config.revocation_poll_ms > 0 && !may_read_events(roles) {
        return State::Bad(format!(
            "revocations take cache_ttl_seconds: the service account of client {} lacks the role \
             {EVENTS_ROLE} of client realm-management; grant it, or run: apikeys setup",
            config.client_id
        ));
    }
    let needless = needless_roles(roles);
    if needless.is_empty() {
        return State::Good;
    }
    let named: Vec<_> = needless
        .iter()
        .take(ROLES_NAMED)
        .map(|role| loggable(role))
        .collect();
    let more = match needless.len().saturating_sub(ROLES_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    State::Warning(format!(
        "the service account of client {} has roles of client realm-management that the gateway \
         does not need: {}{more}; take them from it, or run: apikeys setup",
        config.client_id,
        named.join(", ")
    ))
}

/// How far our clock is certainly ahead of Keycloak's, by a token that was asked for and given
/// between two instants of ours; negative if our clock is behind. `iat` is in whole seconds, and
/// the token was made at some time of the call: within that span, nothing is known.
fn ahead_ms(asked_at: UnixMillis, given_at: UnixMillis, issued_at: UnixMillis) -> i64 {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let ahead = asked_at.since_ms(issued_at.plus_ms(999));
    if ahead > 0 {
        return signed(ahead);
    }
    -signed(issued_at.since_ms(given_at))
}

/// Judges the clocks, by a token that was asked for and given between two instants of ours.
pub(super) fn clock(
    config: &Config,
    asked_at: UnixMillis,
    given_at: UnixMillis,
    issued_at: Option<UnixMillis>,
) -> State {
    let Some(issued_at) = issued_at else {
        return State::Warning(
            "cannot be checked: the service token has no iat; compare the gateway's clock with \
             Keycloak's"
                .to_owned(),
        );
    };
    let ahead = ahead_ms(asked_at, given_at, issued_at);
    let by = ahead.unsigned_abs();
    if by == 0 || by.saturating_mul(2) < config.clock_skew_ms {
        return State::Good;
    }
    let (seconds, skew) = (by.div_ceil(1000), config.clock_skew_ms / 1000);
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let text = format!(
        "the gateway's clock is {seconds} s {direction} Keycloak's, and clock_skew_seconds is \
         {skew}"
    );
    let advice = "let both keep time (NTP)";
    if by > config.clock_skew_ms {
        State::Bad(format!(
            "{text}: tokens are refused, or end too late; {advice}"
        ))
    } else {
        State::Warning(format!("{text}; {advice}"))
    }
}

/// Judges the issuer that the realm names.
pub(super) fn issuer(config: &Config, read: Result<Option<String>, RealmError>) -> State {
    match read {
        Ok(None) => State::Good,
        Ok(Some(other)) => State::Bad(format!(
            "the realm names issuer {other}, and keycloak_url and realm make it {}: set \
             keycloak_url to what stands before /realms/ in Keycloak's",
            config.realm.issuer
        )),
        Err(error) => cannot_be_checked(&error),
    }
}

/// Judges whether the realm keeps events.
pub(super) fn events(read: Result<bool, EventsError>) -> State {
    match read {
        Ok(true) => State::Good,
        Ok(false) => State::Bad(
            "the realm keeps no admin events, so revocations take cache_ttl_seconds; turn them on \
             in the realm's settings, or run: apikeys setup"
                .to_owned(),
        ),
        Err(error) => cannot_be_checked(&error),
    }
}

/// Judges the write access to the attributes that hold keys.
pub(super) fn profile(read: Result<AttributePolicy, RealmError>) -> State {
    match read {
        Ok(AttributePolicy::Administrators) => State::Good,
        Ok(AttributePolicy::Everybody) => State::Bad(
            "ANY USER CAN MAKE HIMSELF KEYS: unmanagedAttributePolicy is ENABLED, so users write \
             their own attributes; set it to ADMIN_EDIT at once, look for attributes apiKeys that \
             nobody made, and run: apikeys doctor"
                .to_owned(),
        ),
        Ok(AttributePolicy::Nobody) => State::Bad(
            "keys cannot be written: unmanagedAttributePolicy is not ADMIN_EDIT; set it, or run: \
             apikeys setup"
                .to_owned(),
        ),
        Err(error) => cannot_be_checked(&error),
    }
}

/// The call for it was not answered.
pub(super) fn call_failed(endpoint: Endpoint, failure: &str) -> State {
    let failure = loggable(failure);
    cannot_be_checked(&Reason::Callout { endpoint, failure })
}

fn cannot_be_checked(error: &dyn std::fmt::Display) -> State {
    State::Bad(format!("cannot be checked: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_support::{config, config_with};

    fn at(ms: u64) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + ms)
    }

    #[test]
    fn a_clock_is_judged_by_what_is_certain_of_it() {
        // Asked at 0, answered after a second; issued in each of the seconds of it.
        for issued in [0, 1_000] {
            let ahead = ahead_ms(at(0), at(1_000), at(issued));
            assert_eq!(ahead, 0, "{issued}");
        }
        // Its second began 1 ms before we asked, or 1 ms after we were answered.
        assert_eq!(ahead_ms(at(1_000), at(1_500), at(0)), 1);
        assert_eq!(ahead_ms(at(0), at(999), at(1_000)), -1);
        assert_eq!(ahead_ms(at(11_000), at(11_500), at(0)), 10_001);
    }

    #[test]
    fn a_clock_is_a_warning_from_half_of_the_skew_and_bad_beyond_all_of_it() {
        let judged =
            |asked: u64, issued: u64| clock(&config(), at(asked), at(asked), Some(at(issued)));
        for (asked, issued) in [(0, 0), (15_998, 0), (0, 14_999)] {
            assert_eq!(judged(asked, issued), State::Good, "{asked} {issued}");
        }
        for (asked, issued, words) in [
            (15_999, 0, "15 s ahead of"),
            (30_999, 0, "30 s ahead of"),
            (0, 15_000, "15 s behind"),
            (0, 30_000, "30 s behind"),
        ] {
            let State::Warning(text) = judged(asked, issued) else {
                panic!("{asked} {issued}: {:?}", judged(asked, issued))
            };
            assert!(text.contains(words) && text.contains("NTP"), "{text}");
        }
        for (asked, issued, words) in [
            (31_000, 0, "31 s ahead of"),
            (0, 30_001, "31 s behind"),
            (3_600_999, 0, "3600 s ahead of"),
        ] {
            let State::Bad(text) = judged(asked, issued) else {
                panic!("{asked} {issued}: {:?}", judged(asked, issued))
            };
            assert!(text.contains(words) && text.contains("NTP"), "{text}");
        }
        let far = judged(0, u64::MAX - 1_800_000_000_000);
        assert!(far.is_bad(), "{far:?}");
    }

    #[test]
    fn without_a_skew_the_seconds_of_a_token_are_no_difference() {
        let config = config_with(&json!({ "clock_skew_seconds": 0 }));
        let judged = |asked: u64| clock(&config, at(asked), at(asked + 100), Some(at(5_000)));
        assert_eq!(judged(4_900), State::Good);
        assert_eq!(judged(5_999), State::Good);
        assert!(judged(6_000).is_bad() && judged(4_899).is_bad());
    }

    #[test]
    fn a_token_that_does_not_say_when_it_was_made_tells_no_clock() {
        assert!(matches!(
            clock(&config(), at(0), at(0), None),
            State::Warning(_)
        ));
    }

    #[test]
    fn roles_that_are_missing_are_bad_and_those_too_many_a_warning() {
        let polling = config_with(&json!({ "revocation_poll_seconds": 5 }));
        let judged = |config: &Config, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            roles(config, &names)
        };
        let composites = ["view-users", "query-users", "query-groups", "view-events"];
        assert_eq!(judged(&polling, &composites), State::Good);
        assert_eq!(judged(&config(), &["view-users"]), State::Good);
        let text = |state: State| match state {
            State::Bad(text) => text,
            other => panic!("{other:?}"),
        };
        let lacking = |reason| text(no_role(&config(), &reason));
        assert!(lacking(Reason::MissingRole).contains("view-users"));
        let light = lacking(Reason::LightweightToken("gateway's"));
        assert!(
            light.contains("Always use lightweight access token"),
            "{light}"
        );
        let said = text(judged(&polling, &["view-users"]));
        assert!(said.contains("view-events") && said.contains("cache_ttl_seconds"));
        for (names, words) in [
            (
                &["view-users", "view-events", "manage-users"][..],
                "manage-users;",
            ),
            (&["manage-users", "view-events"], "manage-users;"),
            (
                &["realm-admin", "a", "b", "c", "d", "e", "f", "g"],
                "realm-admin, a, b, c, d, e and 2 more;",
            ),
            (&["realm-admin", "x\ny"], "realm-admin, x?y;"),
        ] {
            let State::Warning(text) = judged(&polling, names) else {
                panic!("{names:?}: {:?}", judged(&polling, names))
            };
            assert!(text.contains(words), "{text}");
        }
    }
}
