//! Which credential is found in which headers.

use super::*;
use crate::rejection::Rejection;
use crate::test_support::config;

const KEY: &str = "sk_live_abc123def456_0123456789abcdefghijABCDEFGHIJ012twXKk";

fn key() -> String {
    // The checksum of the constant is made here, so that it is right.
    let mut next = 0_u8;
    let key = config().key_format.generate(|bytes| {
        for byte in bytes {
            *byte = next;
            next = next.wrapping_add(1);
        }
    });
    key.expose().to_owned()
}

fn headers(pairs: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
        .collect()
}

fn extracted(pairs: &[(&str, &str)]) -> Result<Credentials, Reason> {
    extract(&config(), &headers(pairs))
}

fn rejected(pairs: &[(&str, &str)]) -> Rejection {
    extracted(pairs).expect_err("a rejection").rejection()
}

#[test]
fn takes_a_key_in_each_of_its_forms() {
    let key = key();
    for (name, value, removed) in [
        ("authorization", format!("ApiKey {key}"), vec![]),
        ("authorization", format!("APIKEY   {key} "), vec![]),
        ("authorization", format!("bEARER {key}"), vec![]),
        ("Authorization", format!("apikey\t{key}"), vec![]),
        ("x-api-key", key.clone(), vec!["x-api-key".to_owned()]),
        (
            "X-API-Key",
            format!(" {key} "),
            vec!["X-API-Key".to_owned()],
        ),
    ] {
        let Ok(Credentials::Key { key: found, remove }) = extracted(&[(name, &value)]) else {
            panic!("{name}: {value}")
        };
        assert_eq!(found.expose(), key);
        assert_eq!(remove, removed);
    }
}

#[test]
fn a_preflight_passes_where_that_is_configured_and_nothing_that_is_merely_like_one() {
    use crate::test_support::config_with;
    const PREFLIGHT: [(&str, &str); 3] = [
        (":method", "OPTIONS"),
        ("origin", "https://shop.example.com"),
        ("access-control-request-method", "POST"),
    ];
    for policy in ["bearer", "reject"] {
        let config = config_with(&serde_json::json!({
            "preflight": "pass", "on_missing_key": policy,
        }));
        let passes =
            |pairs: &[(&str, &str)]| extract(&config, &headers(pairs)) == Ok(Credentials::Pass);
        assert!(passes(&PREFLIGHT));
        for missing in 0..PREFLIGHT.len() {
            let mut less = PREFLIGHT.to_vec();
            less.remove(missing);
            assert!(!passes(&less), "{missing}");
            let mut other = PREFLIGHT.to_vec();
            other[missing].1 = if missing == 0 { "GET" } else { "" };
            assert!(!passes(&other), "{missing}");
            let twice = [&PREFLIGHT[..], &PREFLIGHT[missing..=missing]].concat();
            assert!(!passes(&twice), "{missing}");
        }
        let with = |name, value| {
            let more = [&PREFLIGHT[..], &[(name, value)]].concat();
            extract(&config, &headers(&more))
        };
        assert!(with("authorization", "Basic eDp5").is_err());
        let key = key();
        assert!(with("x-other", &key).is_err(), "no key passes");
        let exchanged = with("x-api-key", &key);
        assert!(matches!(exchanged, Ok(Credentials::Key { .. })));
    }
    let refused = extracted(&PREFLIGHT);
    assert_eq!(refused, Err(Reason::Preflight), "unless it is");
}

#[test]
fn the_same_key_in_two_headers_is_one_credential() {
    let key = key();
    let bearer = format!("Bearer {key}");
    let both = extracted(&[("authorization", &bearer), ("x-api-key", &key)]);
    assert!(matches!(both, Ok(Credentials::Key { remove, .. }) if remove == ["x-api-key"]));
}

#[test]
fn a_header_that_holds_the_key_as_well_is_removed() {
    let mut importing = config();
    importing.key_format = importing.key_format.with_index_key(&[1; 32]);
    let imported = "legacy-0123456789".to_owned();
    for (config, key) in [
        (&config(), key()),
        (&importing, key()),
        (&importing, imported),
    ] {
        let cookie = format!("token={key}; path=/");
        let (first, last) = (format!("{key};"), format!("the key is {key}"));
        let headers = headers(&[
            ("x-api-key", &key),
            ("cookie", &cookie),
            (":path", &cookie),
            ("x-same", &key),
            ("x-first", &first),
            ("x-last", &last),
            ("x-other", &key[1..]),
        ]);
        let Ok(Credentials::Key { remove, .. }) = extract(config, &headers) else {
            panic!("{key}")
        };
        let all = ["x-api-key", "cookie", "x-same", "x-first", "x-last"];
        assert_eq!(remove, all, "{key}");
    }
}

#[test]
fn a_text_that_holds_a_key_is_told_from_others() {
    let key = key();
    let mut importing = config();
    importing.key_format = importing.key_format.with_index_key(&[1; 32]);
    let imported = "legacy-0123456789";
    let bearer = format!("Bearer {imported}");
    for (config, name, value, text, holds) in [
        (&config(), "x-api-key", key.as_str(), key.as_str(), true),
        (&config(), "x-api-key", &key, "x.sk_live_", true),
        (&config(), "x-api-key", &key, "k_live_sk_liv", false),
        (&config(), "x-api-key", imported, imported, false),
        (&importing, "x-api-key", imported, imported, true),
        (
            &importing,
            "X-API-Key",
            imported,
            "a:legacy-0123456789:b",
            true,
        ),
        (&importing, "authorization", &bearer, imported, true),
        (&importing, "x-api-key", imported, "legacy-012345678", false),
        (&importing, "x-other", imported, imported, false),
        (&importing, "x-api-key", "short", "short", false),
    ] {
        let headers = headers(&[(name, value)]);
        assert_eq!(
            may_hold_key(config, &headers, text.as_bytes()),
            holds,
            "{name}: {value}, {text}"
        );
    }
}

#[test]
fn two_credentials_are_refused() {
    let key = key();
    let apikey = format!("ApiKey {key}");
    let joined = format!("ApiKey {key},ApiKey {key}");
    let hidden = format!("Basic eDp5, Bearer {key}");
    for pairs in [
        &[
            ("authorization", "Bearer a.b.c"),
            ("x-api-key", key.as_str()),
        ][..],
        &[("authorization", "Basic eDp5"), ("x-api-key", &key)],
        &[("authorization", &apikey), ("x-api-key", "another")],
        &[("authorization", &apikey), ("authorization", &apikey)],
        &[("x-api-key", &key), ("X-Api-Key", &key)],
        &[("authorization", &joined)],
        &[("authorization", &hidden)],
        &[("authorization", "Bearer a.b.c, Bearer d.e.f")],
        &[("x-api-key", "one,two")],
    ] {
        assert_eq!(
            rejected(pairs),
            Rejection::AmbiguousCredentials,
            "{pairs:?}"
        );
    }
}

#[test]
fn what_cannot_be_a_key_is_an_invalid_key() {
    let mut mistyped = key();
    mistyped.replace_range(30..31, if &mistyped[30..31] == "x" { "y" } else { "x" });
    let mistyped = format!("Bearer {mistyped}");
    let long = "a".repeat(73);
    for pairs in [
        &[("authorization", "ApiKey")][..],
        &[("authorization", "ApiKey  ")],
        &[("authorization", "ApiKey two words")],
        &[("authorization", "ApiKey ApiKey x")],
        &[("authorization", &mistyped)],
        &[("authorization", "Bearer sk_live_")],
        &[("x-api-key", KEY)],
        &[("x-api-key", &long)],
    ] {
        assert_eq!(rejected(pairs), Rejection::InvalidApiKey, "{pairs:?}");
    }
    let not_utf8 = vec![("x-api-key".to_owned(), b"\xff\xfe\xfd".to_vec())];
    let reason = extract(&config(), &not_utf8).unwrap_err();
    assert_eq!(reason.rejection(), Rejection::InvalidApiKey);
    assert!(matches!(reason, Reason::Malformed(_)));
}

#[test]
fn without_a_key_the_policy_decides() {
    let with_policy = |policy, pairs: &[(&str, &str)]| {
        let mut config = config();
        config.on_missing_key = policy;
        extract(&config, &headers(pairs)).map_err(|reason| reason.rejection())
    };
    let jwt = [("authorization", "Bearer a.b.c")];
    let basic = [("authorization", "Basic eDp5")];
    let missing = || Err(Rejection::MissingCredentials);
    for (policy, pairs, expected) in [
        (OnMissingKey::Bearer, &jwt[..], Ok(Credentials::Pass)),
        (OnMissingKey::Bearer, &basic, missing()),
        (
            OnMissingKey::Bearer,
            &[("authorization", "Bearer")],
            missing(),
        ),
        (OnMissingKey::Bearer, &[("authorization", "x")], missing()),
        (OnMissingKey::Bearer, &[], missing()),
        (
            OnMissingKey::Bearer,
            &[("authorization", " "), ("x-api-key", "")],
            missing(),
        ),
        (OnMissingKey::Pass, &[], Ok(Credentials::Pass)),
        (OnMissingKey::Pass, &basic, Ok(Credentials::Pass)),
        (OnMissingKey::Reject, &jwt, missing()),
        (OnMissingKey::Reject, &[], missing()),
    ] {
        assert_eq!(with_policy(policy, pairs), expected, "{policy:?} {pairs:?}");
    }
    let digest = [("authorization", "Digest username=\"a\", realm=\"b\"")];
    assert_eq!(
        with_policy(OnMissingKey::Pass, &digest),
        Ok(Credentials::Pass)
    );
}

fn with(policy: OnMissingKey, names: &[&str], pairs: &[(&str, &str)]) -> Option<Rejection> {
    let mut config = config();
    config.on_missing_key = policy;
    config.headers = names.iter().map(|&name| name.to_owned()).collect();
    extract(&config, &headers(pairs))
        .err()
        .map(|reason| reason.rejection())
}

const BOTH: [&str; 2] = ["authorization", "x-api-key"];

#[test]
fn no_key_passes_in_the_guise_of_something_else() {
    let key = key();
    for form in [
        "Bearer Bearer KEY",
        "Bearer ApiKey KEY",
        "Bearer \"KEY\"",
        "Bearer =KEY",
        "Bearer token=KEY",
        "Bearer eyJ KEY",
        "Bearer eyJ.KEY",
        "KEY",
        "Token KEY",
    ] {
        let value = form.replace("KEY", &key);
        for policy in [OnMissingKey::Bearer, OnMissingKey::Pass] {
            let refused = with(policy, &BOTH, &[("authorization", &value)]);
            assert!(refused.is_some(), "{policy:?} {form}");
        }
        let beside = [
            ("authorization", "Bearer a.b.c"),
            ("x-other", value.as_str()),
        ];
        let refused = with(OnMissingKey::Bearer, &BOTH, &beside);
        assert_eq!(refused, Some(Rejection::InvalidApiKey), "{form}");
    }
    for value in [format!("ApiKey {key}"), format!("Bearer {key}")] {
        let refused = with(
            OnMissingKey::Pass,
            &["x-api-key"],
            &[("authorization", &value)],
        );
        assert_eq!(refused, Some(Rejection::InvalidApiKey));
    }
}

#[test]
fn a_bearer_token_counts_even_where_authorization_carries_no_keys() {
    let jwt = ("authorization", "Bearer a.b.c");
    assert_eq!(with(OnMissingKey::Bearer, &["x-api-key"], &[jwt]), None);
    let both = with(
        OnMissingKey::Bearer,
        &["x-api-key"],
        &[jwt, ("x-api-key", &key())],
    );
    assert_eq!(both, Some(Rejection::AmbiguousCredentials));
}

#[test]
fn where_keys_are_imported_a_bearer_token_must_look_like_a_jwt() {
    let mut importing = config();
    importing.key_format = importing.key_format.with_index_key(&[1; 32]);
    let bearer = |token: &str| {
        let headers = headers(&[("authorization", &format!("Bearer {token}"))]);
        extract(&importing, &headers).map_err(|reason| reason.rejection())
    };
    assert_eq!(
        bearer("legacy-key-0123456789"),
        Err(Rejection::MissingCredentials)
    );
    assert_eq!(bearer("eyJhbGciOi.eyJpc3Mi.c2ln"), Ok(Credentials::Pass));
    assert_eq!(bearer("short"), Ok(Credentials::Pass));
}

#[test]
fn more_headers_than_a_host_shows_are_refused() {
    let many = |count: usize| {
        let mut headers = headers(&[("x-api-key", &key())]);
        headers.extend((1..count).map(|at| (format!("x-{at}"), vec![])));
        extract(&config(), &headers).map_err(|reason| reason.rejection())
    };
    assert!(many(100).is_ok());
    assert_eq!(many(101), Err(Rejection::AmbiguousCredentials));
}

#[test]
fn a_key_in_a_header_that_the_gateway_made_anew_is_refused() {
    let key = key();
    for name in [
        "X-Forwarded-For",
        "x-forwarded-prefix",
        "Via",
        "host",
        ":authority",
        "forwarded",
    ] {
        let both = [("x-api-key", key.as_str()), (name, &key)];
        assert_eq!(rejected(&both), Rejection::AmbiguousCredentials, "{name}");
        let harmless = [("x-api-key", key.as_str()), (name, "203.0.113.7")];
        assert!(
            extract(&config(), &headers(&harmless)).is_ok(),
            "{name}: a value that is no key"
        );
    }
}

#[test]
fn a_header_that_holds_the_key_twice_over_is_refused() {
    let key = key();
    let twice = [
        ("x-api-key", key.as_str()),
        ("referer", &key),
        ("Referer", "other"),
    ];
    assert_eq!(rejected(&twice), Rejection::AmbiguousCredentials);
}

#[test]
fn a_key_in_a_headers_name_goes_nowhere_and_into_no_log() {
    let key = key();
    let bearer = ("authorization", "Bearer e30.e30.x");
    for (name, value) in [
        (key.clone(), "1".to_owned()),
        (key.clone(), key.clone()),
        (format!("x-{key}"), "1".to_owned()),
        (key.to_lowercase(), "1".to_owned()),
        (key.to_uppercase(), "1".to_owned()),
        (key.to_lowercase(), key.clone()),
    ] {
        let reason = extracted(&[bearer, (&name, &value)]).expect_err("it would reach the service");
        assert_eq!(reason.rejection(), Rejection::InvalidApiKey);
        let said = reason.to_string().to_lowercase();
        assert!(!said.contains(&key[21..].to_lowercase()), "{reason}");
    }
    for (name, value) in [(key.clone(), "1"), (key.to_lowercase(), key.as_str())] {
        let beside = [("x-api-key", key.as_str()), (&name, value)];
        let reason = extracted(&beside).expect_err("it would reach the service");
        let said = reason.to_string().to_lowercase();
        assert!(!said.contains(&key[21..].to_lowercase()), "{reason}");
    }
}

#[test]
fn a_key_written_in_other_letters_is_not_that_key() {
    let key = key();
    let wide = |c: char| char::from_u32(u32::from(c) + 0xfee0).unwrap();
    let disguises: Vec<Vec<u8>> = vec![
        // Fullwidth, Cyrillic and Kelvin letters, which NFKC or a table of lookalikes undo.
        key.chars().map(wide).collect::<String>().into(),
        key.replacen('s', "\u{455}", 1).into(),
        key.replacen('k', "\u{212a}", 1).into(),
        key.replacen('_', "\u{ff3f}", 1).into(),
        // Invisible characters: a zero-width space, a byte order mark, a soft hyphen.
        key.replacen("sk", "sk\u{200b}", 1).into(),
        format!("\u{feff}{key}").into(),
        key.replacen("sk", "s\u{ad}k", 1).into(),
        // UTF-8 that is too long for its character, or no UTF-8.
        [b"\xc1\xb3", &key.as_bytes()[1..]].concat(),
        [b"\xe0\x81\xb3", &key.as_bytes()[1..]].concat(),
        [key.as_bytes(), b"\xff"].concat(),
        // Encodings that something behind could undo.
        key.replace('_', "%5f").into(),
        key.replacen('s', "%73", 1).into(),
        key.replace('_', "%255F").into(),
        key.replace('_', "&#95;").into(),
        key.replace('_', "\\u005f").into(),
        key.replace('_', "=5F").into(),
        format!("{key}%00").into(),
        format!("{key}\0").into(),
        format!("\"{key}\"").into(),
        format!("<{key}>").into(),
        key.to_uppercase().into(),
    ];
    let importing = Config {
        key_format: config().key_format.with_index_key(&[7; 32]),
        ..config()
    };
    let good = config().key_format.parse(key.as_bytes()).unwrap();
    for disguise in disguises {
        for config in [&config(), &importing] {
            for headers in [
                [("x-api-key".to_owned(), disguise.clone())],
                [(
                    "authorization".to_owned(),
                    [b"ApiKey ", disguise.as_slice()].concat(),
                )],
            ] {
                // With imported keys it may be a key of another id, without an owner.
                if let Ok(Credentials::Key { key: found, .. }) = extract(config, &headers) {
                    assert_eq!(found.expose().as_bytes(), disguise);
                    assert_ne!(found.id(), good.id());
                    assert_eq!(found.id().len(), 24, "a derived id");
                }
            }
        }
    }
}
