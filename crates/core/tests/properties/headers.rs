//! The credential of a request: a key is the client's very own bytes, none of it goes on to the
//! service, and a request that passes without exchange holds none.
//!
//! The first byte chooses the configuration; each further line is a header. `{key}` and
//! `{other}` stand for two keys of ours, `{imported}` for a foreign one.

use std::sync::LazyLock;

use apikeys_core::config::{Config, OnMissingKey};
use apikeys_core::exchange::credentials::{Credentials, Headers, extract};
use apikeys_core::rejection::Rejection;
use serde_json::json;

use super::oracle::{PREFIX, key, may_be_imported, own_key};
use super::{contains, filled};

pub const IMPORTED: &str = "legacy-0123456789";

struct Case {
    config: Config,
    importing: bool,
}

static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let mut cases = Vec::new();
    for names in [&["authorization", "x-api-key"][..], &["x-api-key"]] {
        for importing in [false, true] {
            for policy in ["bearer", "pass", "reject"] {
                let mut config = json!({
                    "keycloak_url": "https://login.example.com", "realm": "demo",
                    "keycloak_upstream": "keycloak", "yield_upstream": "yield",
                    "signing_key_property": "env.UNUSED",
                    "headers": names, "on_missing_key": policy,
                });
                if importing {
                    config["index_key"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
                }
                let config = Config::from_json(config.to_string().as_bytes()).unwrap();
                cases.push(Case { config, importing });
            }
        }
    }
    cases
});

static MARKS: LazyLock<[(&str, String); 3]> = LazyLock::new(|| {
    [
        ("{key}", key(1)),
        ("{other}", key(2)),
        ("{imported}", IMPORTED.to_owned()),
    ]
});

pub fn holds(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    let case = &CASES[usize::from(choice) % CASES.len()];
    let marks = MARKS
        .each_ref()
        .map(|(mark, value)| (*mark, value.as_bytes()));
    let headers = read(&filled(rest, &marks));
    let credentials = extract(&case.config, &headers);
    match &credentials {
        Ok(Credentials::Key { key, remove }) => {
            let text = key.expose().as_bytes();
            assert!(
                own_key(text, PREFIX) == Some(key.id())
                    || case.importing && may_be_imported(text, PREFIX),
                "no key: {key:?}"
            );
            assert_is_the_clients(case, &headers, text);
            assert_all_is_removed(case, &headers, text, remove);
        }
        Ok(Credentials::Pass) => assert_may_pass(case, &headers),
        Err(reason) => {
            let rejection = reason.rejection();
            let told = [
                Rejection::MissingCredentials,
                Rejection::InvalidApiKey,
                Rejection::AmbiguousCredentials,
            ];
            assert!(told.contains(&rejection), "{rejection:?} {reason}");
        }
    }
    let louder: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.to_ascii_uppercase(), value.clone()))
        .collect();
    let same = match (&credentials, extract(&case.config, &louder)) {
        (Ok(Credentials::Key { key, .. }), Ok(Credentials::Key { key: other, .. })) => {
            *key == other
        }
        (Ok(one), Ok(other)) => *one == other,
        (Err(one), Err(other)) => one.rejection() == other.rejection(),
        _ => false,
    };
    assert!(same, "the case of names changes the outcome");
}

/// Each line is `name:value`; a name may begin with a colon.
fn read(text: &[u8]) -> Vec<(String, Vec<u8>)> {
    let lines = text
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let end = line.iter().skip(1).position(|&byte| byte == b':');
            let (name, value) = match end {
                Some(at) => (&line[..=at], &line[at + 2..]),
                None => (line, &[][..]),
            };
            (String::from_utf8_lossy(name).into_owned(), value.to_vec())
        })
        .collect()
}

fn named<'a>(headers: &'a Headers, name: &str) -> Vec<&'a [u8]> {
    let named = headers
        .iter()
        .filter(|(header, _)| header.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_slice()).collect()
}

/// Every header that is read for a key came once, and holds this key alone.
fn assert_is_the_clients(case: &Case, headers: &Headers, key: &[u8]) {
    let mut carriers = 0;
    for name in &case.config.headers {
        let values = named(headers, name);
        assert!(values.len() < 2, "{name} came twice");
        let Some(value) = values.first().map(|value| value.trim_ascii()) else {
            continue;
        };
        if value.is_empty() {
            continue;
        }
        let before = value
            .strip_suffix(key)
            .expect("the value ends with the key");
        let scheme = before.trim_ascii().to_ascii_lowercase();
        match name.as_str() {
            "authorization" => assert!(
                scheme == b"apikey" || scheme == b"bearer" && key.starts_with(PREFIX.as_bytes())
            ),
            _ => assert_eq!(before, b"", "{name} holds more than the key"),
        }
        carriers += 1;
    }
    assert!(carriers > 0, "a key from nowhere");
}

/// Acts as the shell does: sets `authorization` and removes the named headers.
fn assert_all_is_removed(case: &Case, headers: &Headers, key: &[u8], remove: &[String]) {
    for name in remove {
        assert_eq!(
            named(headers, name).len(),
            1,
            "{name} is removed once alone"
        );
    }
    for (name, value) in headers {
        let gone = remove.contains(name);
        if gone || name.eq_ignore_ascii_case("authorization") || name.starts_with(':') {
            continue;
        }
        assert!(!contains(value, key), "{name} still holds the key");
        let other = value
            .windows(59)
            .find(|window| own_key(window, PREFIX).is_some());
        assert!(other.is_none(), "{name} holds another key");
        let ours = case
            .config
            .headers
            .iter()
            .any(|header| header.eq_ignore_ascii_case(name));
        assert!(!ours, "{name} stays");
    }
}

fn assert_may_pass(case: &Case, headers: &Headers) {
    for (name, value) in headers.iter().filter(|(name, _)| !name.starts_with(':')) {
        let key = value
            .windows(59)
            .find(|window| own_key(window, PREFIX).is_some());
        assert!(key.is_none(), "{name} holds a key and passes");
    }
    for name in case
        .config
        .headers
        .iter()
        .filter(|name| *name != "authorization")
    {
        let blank = named(headers, name)
            .iter()
            .all(|value| value.trim_ascii().is_empty());
        assert!(
            blank,
            "{name} is read for a key, holds something and passes"
        );
    }
    let values = named(headers, "authorization");
    match case.config.on_missing_key {
        OnMissingKey::Reject => panic!("nothing passes"),
        OnMissingKey::Pass => {}
        OnMissingKey::Bearer => {
            let [value] = values.as_slice() else {
                panic!("one Bearer token: {}", values.len());
            };
            let value = value.trim_ascii();
            let scheme = value.get(..6).unwrap_or_default();
            assert!(scheme.eq_ignore_ascii_case(b"bearer"));
            let token = value[6..].trim_ascii();
            assert!(!token.is_empty() && !token.iter().any(u8::is_ascii_whitespace));
            let foreign = case.importing && may_be_imported(token, PREFIX);
            let dots = token.iter().filter(|&&b| b == b'.').count();
            assert!(!foreign || dots == 2, "an imported key passes as a token");
        }
    }
}
