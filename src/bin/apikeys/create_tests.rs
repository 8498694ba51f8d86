//! What a key is given, and what is refused before Keycloak is asked.

use super::*;
use crate::args::{Cli, Command};
use apikey_jwt_exchange::api_key::record::KeyRecord;
use clap::Parser;

const ID: &str = "abc123def456";

fn args(extra: &[&str]) -> CreateArgs {
    let fixed = [
        "apikeys",
        "create",
        "--keycloak-url",
        "http://127.0.0.1:1",
        "--realm",
        "demo",
    ];
    let fixed = fixed.iter().chain(&["--owner", "alice"]);
    match Cli::parse_from(fixed.chain(extra)).command {
        Command::Create(args) => args,
        Command::Setup(_) => unreachable!(),
    }
}

fn now() -> UnixMillis {
    UnixMillis::parse_rfc3339("2026-11-24T10:00:00.700Z").unwrap()
}

fn refusal(extra: &[&str]) -> String {
    NewKey::from_args(&args(extra), now())
        .unwrap_err()
        .to_string()
}

#[test]
fn the_record_made_is_one_that_the_gateway_reads() {
    let extra = ["--name", " CI ", "--scopes", "a b", "--expires-days", "2"];
    let new_key = NewKey::from_args(&args(&extra), now()).unwrap();
    let mut owner: Attributes = [
        ("locale".to_owned(), vec!["de".to_owned()]),
        (KEYS_ATTRIBUTE.to_owned(), vec!["key:old:$2b$".to_owned()]),
    ]
    .into();
    let hash = hash_sha256(b"key");
    new_key.add_to(&mut owner, ID, &hash).unwrap();
    let record = KeyRecord::find(&owner, ID).unwrap();
    assert_eq!(record.hash_text, hash);
    assert_eq!(record.ends_at.to_rfc3339(), "2026-11-26T10:00:00Z");
    assert_eq!(record.scopes.as_deref(), Some("a b"));
    assert_eq!(owner[&Field::Name.attribute(ID)], ["CI"]);
    assert_eq!(
        owner[&Field::Created.attribute(ID)],
        ["2026-11-24T10:00:00Z"]
    );
    assert_eq!(owner["locale"], ["de"]);
    assert_eq!(owner[KEYS_ATTRIBUTE][0], "key:old:$2b$");
    assert!(
        new_key.add_to(&mut owner, ID, &hash).is_err(),
        "an id is used once"
    );
}

#[test]
fn names_are_one_to_a_hundred_printable_characters() {
    let hundred_one = "n".repeat(101);
    for name in ["", "  ", "a\nb", "\u{1b}[1m", hundred_one.as_str()] {
        assert!(refusal(&["--name", name]).contains("--name"), "{name:?}");
    }
    let hundred = "ж".repeat(100);
    assert!(NewKey::from_args(&args(&["--name", &hundred]), now()).is_ok());
}

#[test]
fn an_end_that_is_past_or_unreadable_is_refused() {
    for past in [
        "2026-11-24T10:00:00Z",
        "2026-11-24T10:00:00.800Z",
        "1999-01-01T00:00:00Z",
    ] {
        let message = refusal(&["--name", "n", "--expires-at", past]);
        assert!(message.contains("in the past"), "{message}");
    }
    assert!(refusal(&["--name", "n", "--expires-at", "tomorrow"]).contains("RFC 3339"));
    let soon = ["--name", "n", "--expires-at", "2026-11-24T11:00:01+01:00"];
    let key = NewKey::from_args(&args(&soon), now()).unwrap();
    assert_eq!(key.expires_at.to_rfc3339(), "2026-11-24T10:00:01Z");
}

#[test]
fn scopes_that_are_no_scopes_are_refused() {
    for scopes in ["", " ", "a  b", "a\"b", "a,b\n"] {
        let message = refusal(&["--name", "n", "--scopes", scopes]);
        assert!(message.contains("--scopes"), "{scopes:?}");
    }
    let client = json!({"defaultClientScopes": ["basic"], "optionalClientScopes": ["orders"]});
    assert_eq!(allowed_scopes(&client), ["basic", "openid", "orders"]);
}

#[test]
fn every_record_counts_towards_the_limit() {
    let holding = |count: usize| -> Attributes {
        [(KEYS_ATTRIBUTE.to_owned(), vec!["key:x:y".to_owned(); count])].into()
    };
    assert!(check_room(&Attributes::new(), 5, "alice").is_ok());
    assert!(check_room(&holding(4), 5, "alice").is_ok());
    let message = check_room(&holding(5), 5, "alice").unwrap_err().to_string();
    assert!(message.contains("expired ones included"), "{message}");
}

#[test]
fn the_gateways_own_account_owns_no_key() {
    let mut owner = Owner {
        id: "1".into(),
        username: "service-account-api-key-gateway".into(),
        enabled: true,
        required_actions: vec![],
        attributes: Attributes::new(),
    };
    assert!(check_owner(&owner, "api-key-gateway").is_err());
    assert!(check_owner(&owner, "API-Key-Gateway").is_err());
    owner.username = "service-account-billing".into();
    assert!(check_owner(&owner, "api-key-gateway").is_ok());
}

#[test]
fn json_has_the_promised_members_and_text_gives_the_key_alone() {
    let new_key = NewKey::from_args(&args(&["--name", "n"]), now()).unwrap();
    let key = generate(&KeyFormat::new("sk_live_").unwrap()).unwrap();
    let owner = Owner {
        id: "1".into(),
        username: "alice".into(),
        enabled: true,
        required_actions: vec![],
        attributes: Attributes::new(),
    };
    let json = shown(OutputFormat::Json, &key, &new_key, &owner);
    let document: Value = serde_json::from_str(&json.result).unwrap();
    assert_eq!(document["api_key"], key.expose());
    assert_eq!(document["key_id"], key.id());
    assert_eq!(document["owner"], json!({"id": "1", "username": "alice"}));
    assert_eq!(document["expires_at"], "2027-11-24T10:00:00Z");
    assert_eq!(document.as_object().unwrap().len(), 6);
    let text = shown(OutputFormat::Text, &key, &new_key, &owner);
    assert_eq!(text.result.as_str(), key.expose());
    assert!(text.notes.contains(key.id()) && !text.notes.contains(key.expose()));
}

#[test]
fn both_hashes_are_ones_that_the_gateway_verifies() {
    let key = generate(&KeyFormat::new("sk_live_").unwrap()).unwrap();
    for (extra, mark) in [
        (["--hash-algorithm", "sha256"], "$sha256$"),
        (["--bcrypt-cost", "4"], "$2b$04$"),
    ] {
        let args = args(&[&["--name", "n"], extra.as_slice()].concat());
        assert!(hash(&key, &args).unwrap().starts_with(mark));
    }
}
