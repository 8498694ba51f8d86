//! Kong's files.

use super::*;

#[test]
fn kongs_credentials_are_read_within_their_consumers_and_beside_them() {
    let text = format!(
        r#"
_format_version: "3.0"
services: [{{name: orders, url: "http://orders"}}]
consumers:
- id: 5f0c1d0e-7a52-4f0e-9a57-0e4b8a6d1c11
  username: mobile
  custom_id: alice
  keyauth_credentials:
  - key: {KEY}
  - key: 1234567890123456
- username: nightly
keyauth_credentials:
- consumer: 5f0c1d0e-7a52-4f0e-9a57-0e4b8a6d1c11
  key: {OTHER}
  created_at: 1700000000
  ttl: 1827000000
- consumer: {{username: nightly}}
  key: old-key-number-three
- key: old-key-number-four
- {{consumer: nightly, key: old-key-number-five, ttl: 60}}
"#
    );
    let read = |field| rules().apply(kong::read(&text, by(field)).unwrap());
    let (imports, refused) = read(OwnerField::Username);
    let owners: Vec<(&str, &str)> = imports
        .iter()
        .map(|import| (import.owner.as_str(), import.place.as_str()))
        .collect();
    assert_eq!(
        owners,
        [
            ("mobile", "consumers[0].keyauth_credentials[0]"),
            ("mobile", "keyauth_credentials[0]"),
            ("nightly", "keyauth_credentials[1]"),
        ]
    );
    assert_eq!(imports[1].expires_at.as_seconds(), 1_827_000_000);
    let reasons: Vec<&str> = refused
        .iter()
        .map(|refusal| refusal.reason.as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            "its key is no text: quote it in the file",
            "it names no consumer",
            "its ttl is the seconds that were left when the file was written: give that time \
             by --dumped-at",
        ]
    );
    let (imports, refused) = read(OwnerField::CustomId);
    assert!(imports.iter().all(|import| import.owner == "alice") && imports.len() == 2);
    assert!(refused.iter().any(|refusal| {
        refusal.owner.as_deref() == Some("nightly") && refusal.reason.contains("no custom_id")
    }));
    // JSON is YAML too. An error in a text that is neither names its place alone.
    let json = format!(r#"{{"keyauth_credentials": [{{"consumer": "a", "key": "{KEY}"}}]}}"#);
    assert_eq!(
        kong::read(&json, by(OwnerField::Username)).unwrap().len(),
        1
    );
    for text in [
        format!("consumers: {KEY}"),
        format!("a: b: {KEY}"),
        format!("- {KEY}"),
    ] {
        let error = kong::read(&text, by(OwnerField::Username))
            .unwrap_err()
            .to_string();
        assert!(error.contains("Kong") && !error.contains(KEY), "{error}");
    }
}

#[test]
fn a_ttl_is_the_seconds_left_at_the_dump_or_an_instant() {
    // Created two years before the dump, with a year left.
    let text = |ttl: &str| {
        format!(
            "keyauth_credentials:\n- {{consumer: alice, key: {KEY}, created_at: 1732000000, ttl: \
             {ttl}}}\n- {{consumer: bob, key: {OTHER}}}\n"
        )
    };
    let dumped_at = UnixMillis::parse_rfc3339("2026-11-20T10:00:00Z").unwrap();
    let day = 24 * 3600;
    let default = rules().expires_at.as_seconds();
    for (ttl, dumped, ends) in [
        (
            "31536000",
            Some(dumped_at),
            Ok(dumped_at.as_seconds() + 365 * day),
        ),
        (
            "31536000.0",
            Some(dumped_at),
            Ok(dumped_at.as_seconds() + 365 * day),
        ),
        (
            "100000000",
            Some(dumped_at),
            Ok(dumped_at.as_seconds() + 100_000_000),
        ),
        ("1827000000", Some(dumped_at), Ok(1_827_000_000)),
        ("1827000000", None, Ok(1_827_000_000)),
        ("0", None, Ok(default)),
        ("~", None, Ok(default)),
        ("31536000", None, Err("--dumped-at")),
        (
            "60",
            Some(dumped_at),
            Err("it ended at 2026-11-20T10:01:00Z"),
        ),
        ("1732000000", None, Err("it ended at 2024")),
        ("-1", Some(dumped_at), Err("no number of seconds")),
        ("'60'", Some(dumped_at), Err("no number of seconds")),
    ] {
        let reading = kong::Reading {
            dumped_at: dumped,
            ..by(OwnerField::Username)
        };
        let (imports, refused) = rules().apply(kong::read(&text(ttl), reading).unwrap());
        match ends {
            Ok(ends) => {
                assert_eq!(refused, [], "{ttl}");
                assert_eq!(imports[0].expires_at.as_seconds(), ends, "{ttl}");
            }
            Err(words) => {
                assert_eq!(imports.len(), 1, "{ttl}: the other line stays in");
                assert!(refused[0].reason.contains(words), "{ttl}: {refused:?}");
            }
        }
    }
}

#[test]
fn the_time_of_a_dump_is_an_instant_that_has_been() {
    let now = rules().now;
    assert_eq!(dumped_at(None, now).unwrap(), None);
    assert_eq!(
        dumped_at(Some("2026-11-24T10:00:00Z"), now).unwrap(),
        Some(now)
    );
    for wrong in ["yesterday", "2026-11-24T10:00:01Z"] {
        let error = dumped_at(Some(wrong), now).unwrap_err().to_string();
        assert!(error.contains("--dumped-at"), "{error}");
    }
}

#[test]
fn a_key_that_a_merge_brings_is_a_key() {
    let text = format!(
        "_anchors:\n  held: &held\n    keyauth_credentials:\n    - &first {{key: {KEY}}}\n\
         consumers:\n- username: alice\n  <<: *held\n- username: bob\n  keyauth_credentials:\n  \
         - <<: *first\n    key: {OTHER}\n"
    );
    let (imports, refused) = rules().apply(kong::read(&text, by(OwnerField::Username)).unwrap());
    assert_eq!(refused, []);
    let ids: Vec<&str> = imports.iter().map(|import| import.id.as_str()).collect();
    assert_eq!(ids, [id_of(KEY), id_of(OTHER)]);
    for broken in ["consumers:\n- <<: 1\n", "consumers:\n- <<: [1]\n"] {
        assert!(
            kong::read(broken, by(OwnerField::Username)).is_err(),
            "{broken}"
        );
    }
}
