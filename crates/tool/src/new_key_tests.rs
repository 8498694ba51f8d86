//! The output for a new key, and its hash.

use super::*;
use apikeys_core::clock::UnixMillis;
use apikeys_core::manage::owner_keys::KeyState;

fn generated(hash_algorithm: HashAlgorithm) -> Generated {
    let hash = HashArgs {
        hash_algorithm,
        bcrypt_cost: 4,
    };
    generate(&format("sk_live_").unwrap(), &hash).unwrap()
}

fn summary_of(key: &ApiKey) -> KeySummary {
    KeySummary {
        id: key.id().to_owned(),
        name: "n".into(),
        created: UnixMillis::parse_rfc3339("2026-11-24T10:00:00Z").ok(),
        expires_at: UnixMillis::parse_rfc3339("2027-11-24T10:00:00Z").ok(),
        scopes: None,
        grace_until: None,
        replaced_by: None,
        disabled: false,
        rate_limit: None,
        allowed_addresses: None,
        environment: None,
        labels: None,
        state: KeyState::Active,
    }
}

fn alice() -> User {
    User::from_value(json!({"id": "1", "username": "alice"})).unwrap()
}

#[test]
fn json_has_the_promised_members_and_text_gives_the_key_alone() {
    let key = generated(HashAlgorithm::Sha256).key;
    let made = summary_of(&key);
    let json = shown(OutputFormat::Json, &key, &made, &alice(), None);
    let document: Value = serde_json::from_str(&json.result).unwrap();
    assert_eq!(document["api_key"], key.expose());
    assert_eq!(document["key_id"], key.id());
    assert_eq!(document["owner"], json!({"id": "1", "username": "alice"}));
    assert_eq!(document["expires_at"], "2027-11-24T10:00:00Z");
    assert_eq!(document["state"], "active");
    assert_eq!(document.as_object().unwrap().len(), 7);
    let text = shown(OutputFormat::Text, &key, &made, &alice(), None);
    assert_eq!(text.result.as_str(), key.expose());
    assert!(text.notes.contains(key.id()) && !text.notes.contains(key.expose()));
}

#[test]
fn a_key_that_takes_anothers_place_tells_until_when_that_goes_on() {
    let key = generated(HashAlgorithm::Sha256).key;
    let made = summary_of(&key);
    let old = KeySummary {
        id: "abc123def456".into(),
        grace_until: UnixMillis::parse_rfc3339("2026-11-25T10:00:00Z").ok(),
        state: KeyState::Rotating,
        ..summary_of(&key)
    };
    for (goes_on, words) in [
        (Some(&old), "until 2026-11-25T10:00:00Z"),
        (None, "has ended"),
    ] {
        let replaced = Replaced {
            id: "abc123def456",
            goes_on,
        };
        let json = shown(OutputFormat::Json, &key, &made, &alice(), Some(replaced));
        let document: Value = serde_json::from_str(&json.result).unwrap();
        assert_eq!(
            document.get("replaces"),
            goes_on.map(|key| key.view(None)).as_ref()
        );
        let text = shown(OutputFormat::Text, &key, &made, &alice(), Some(replaced));
        assert!(text.notes.contains(words), "{}", text.notes);
    }
}

#[test]
fn both_hashes_are_ones_that_the_gateway_verifies() {
    for (algorithm, mark) in [
        (HashAlgorithm::Sha256, "$sha256$"),
        (HashAlgorithm::Bcrypt, "$2b$04$"),
    ] {
        assert!(generated(algorithm).hash_text.starts_with(mark));
    }
    assert!(format("sk live").is_err());
}
