//! The bodies of requests, read member by member within bounds.
//!
//! A message names the member and its bounds. It never repeats a value: a key may stand in the
//! wrong place.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::owner_keys::Setting;
use super::problem::{Code, Problem};
use crate::api_key::record::is_scope;
use crate::api_key::terms::{
    AllowedAddresses, LABELS_CHARS_MAX, NAME_CHARS_MAX, RateLimit, is_printable,
};

/// Bytes of the longest body that is read.
pub const BODY_BYTES_MAX: usize = 16 * 1024;
/// Default days until a new key's end.
const EXPIRES_DAYS: u64 = 365;
/// The most days until a key's end.
const EXPIRES_DAYS_MAX: u64 = 36_500;
/// Default seconds that a rotated key still works.
const GRACE_SECONDS: u64 = 86_400;
/// The most seconds that a rotated key still works.
const GRACE_SECONDS_MAX: u64 = 604_800;

/// The request for a new key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateBody {
    /// Its name for people.
    pub name: String,
    /// Days until its end.
    pub expires_days: u64,
    /// Its scopes, with single spaces between; none means the gateway's own.
    pub scopes: Option<String>,
    /// Its other settings.
    pub settings: Vec<Setting>,
}

/// The request for a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotateBody {
    /// Seconds that the old key still works.
    pub grace_seconds: u64,
    /// Days until the new key's end; none means the old one's end.
    pub expires_days: Option<u64>,
}

/// The request to exchange a key, or to end it.
pub struct KeyBody {
    /// The key, as it was sent.
    pub api_key: Zeroizing<String>,
}

impl std::fmt::Debug for KeyBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyBody(..)")
    }
}

/// The members that are settings: given with a new key, or changed later.
const SETTINGS: [&str; 5] = [
    "rate_limit",
    "allowed_addresses",
    "disabled",
    "environment",
    "labels",
];

/// Reads the body of a request for a new key.
///
/// # Errors
/// The refusal, which names the member at fault.
pub fn read_create(body: &[u8]) -> Result<CreateBody, Problem> {
    let known = [&["name", "expires_days", "scopes"], &SETTINGS[..]].concat();
    let members = object(body, &known)?;
    Ok(CreateBody {
        name: name(&members)?,
        expires_days: expires_days(&members)?.unwrap_or(EXPIRES_DAYS),
        scopes: scopes(&members)?,
        settings: settings(&members)?,
    })
}

/// Reads the body of a change: a merge patch (RFC 7396) of the members that can be changed.
///
/// # Errors
/// The refusal, which names the member at fault.
pub fn read_update(body: &[u8]) -> Result<Vec<Setting>, Problem> {
    let members = object(body, &[&["name"], &SETTINGS[..]].concat())?;
    let mut settings = settings(&members)?;
    if members.contains_key("name") {
        settings.insert(0, Setting::Name(name(&members)?));
    }
    if settings.is_empty() {
        return invalid("The body has no member, so nothing would be changed.");
    }
    Ok(settings)
}

/// Reads the body of a rotation; an empty body counts as an object without members.
///
/// # Errors
/// The refusal, which names the member at fault.
pub fn read_rotate(body: &[u8]) -> Result<RotateBody, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    let members = object(body, &["grace_seconds", "expires_days"])?;
    Ok(RotateBody {
        grace_seconds: whole_number(
            &members,
            "grace_seconds",
            0..=GRACE_SECONDS_MAX,
            "grace_seconds must be a whole number from 0 (ends the old key at once) to 604800.",
        )?
        .unwrap_or(GRACE_SECONDS),
        expires_days: expires_days(&members)?,
    })
}

/// Reads the body with a key.
///
/// # Errors
/// The refusal, which names the member at fault.
pub fn read_key(body: &[u8]) -> Result<KeyBody, Problem> {
    let mut members = object(body, &["api_key"])?;
    match members.remove("api_key") {
        Some(Value::String(api_key)) => Ok(KeyBody {
            api_key: Zeroizing::new(api_key),
        }),
        _ => invalid("api_key is required, and must be a text."),
    }
}

fn invalid<T>(detail: &'static str) -> Result<T, Problem> {
    Err(Problem::new(Code::InvalidRequest, detail))
}

fn object(body: &[u8], known: &[&str]) -> Result<Map<String, Value>, Problem> {
    let Ok(Members { members, is_twice }) = serde_json::from_slice(body) else {
        return invalid("The body must be one JSON object.");
    };
    // RFC 8259, 4: readers differ in the one they use.
    if is_twice {
        return invalid("The body has a member twice.");
    }
    if members.keys().any(|name| !known.contains(&name.as_str())) {
        let detail = format!(
            "The body has a member that is not known here; there are {}.",
            known.join(", ")
        );
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    Ok(members)
}

/// The members of an object, and whether one of them came twice.
struct Members {
    members: Map<String, Value>,
    is_twice: bool,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let (mut members, mut is_twice) = (Map::new(), false);
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            is_twice |= members.insert(name, value).is_some();
        }
        Ok(Members { members, is_twice })
    }
}

fn name(members: &Map<String, Value>) -> Result<String, Problem> {
    let name = members.get("name").and_then(Value::as_str);
    let name = name.and_then(|name| words(name, NAME_CHARS_MAX));
    name.map_or_else(
        || invalid("name is required, and must be a text of 1 to 100 printable characters."),
        Ok,
    )
}

/// A text for people, without the spaces at its ends.
fn words(text: &str, chars_max: usize) -> Option<String> {
    let is_one = is_printable(text, chars_max) && !text.trim().is_empty();
    is_one.then(|| text.trim().to_owned())
}

/// The settings that are members, `name` apart; `null` takes one away.
fn settings(members: &Map<String, Value>) -> Result<Vec<Setting>, Problem> {
    let text = |value: &Value, chars_max| words(value.as_str()?, chars_max);
    let mut settings = Vec::new();
    if let Some(limit) = given(
        members,
        "rate_limit",
        |value| RateLimit::parse(value.as_str()?),
        "rate_limit must be a text of <requests>/<seconds>, as 100/60: 1 to 1000000 requests, \
         1 to 86400 seconds.",
    )? {
        settings.push(Setting::RateLimit(limit));
    }
    if let Some(allowed) = given(
        members,
        "allowed_addresses",
        allowed_addresses,
        "allowed_addresses must be a list of 1 to 16 networks, as 192.0.2.0/24 or 2001:db8::/32.",
    )? {
        settings.push(Setting::AllowedAddresses(allowed));
    }
    if let Some(disabled) = given(
        members,
        "disabled",
        Value::as_bool,
        "disabled must be true or false.",
    )? {
        settings.push(Setting::Disabled(disabled == Some(true)));
    }
    if let Some(environment) = given(
        members,
        "environment",
        |value| text(value, NAME_CHARS_MAX),
        "environment must be a text of 1 to 100 printable characters.",
    )? {
        settings.push(Setting::Environment(environment));
    }
    if let Some(labels) = given(
        members,
        "labels",
        |value| text(value, LABELS_CHARS_MAX),
        "labels must be a text of 1 to 255 printable characters.",
    )? {
        settings.push(Setting::Labels(labels));
    }
    Ok(settings)
}

/// A member's value; an inner none for `null`, and none if it is not there.
fn given<T>(
    members: &Map<String, Value>,
    name: &str,
    read: impl Fn(&Value) -> Option<T>,
    detail: &'static str,
) -> Result<Option<Option<T>>, Problem> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(value) => match read(value) {
            None => invalid(detail),
            read => Ok(Some(read)),
        },
    }
}

fn allowed_addresses(list: &Value) -> Option<AllowedAddresses> {
    let mut networks = Vec::new();
    for network in list.as_array()? {
        // A space would make two of one.
        networks.push(network.as_str().filter(|network| !network.contains(' '))?);
    }
    AllowedAddresses::parse(&networks.join(" "))
}

fn expires_days(members: &Map<String, Value>) -> Result<Option<u64>, Problem> {
    whole_number(
        members,
        "expires_days",
        1..=EXPIRES_DAYS_MAX,
        "expires_days must be a whole number from 1 to 36500.",
    )
}

fn whole_number(
    members: &Map<String, Value>,
    name: &str,
    bounds: std::ops::RangeInclusive<u64>,
    detail: &'static str,
) -> Result<Option<u64>, Problem> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match whole(value) {
            Some(number) if bounds.contains(&number) => Ok(Some(number)),
            _ => invalid(detail),
        },
    }
}

/// A whole number, as JSON Schema has it: 7.0 is one, and some languages write it so.
fn whole(number: &Value) -> Option<u64> {
    number.as_u64().or_else(|| {
        let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
        // Exact below 2^53, and all members' bounds are.
        (0.0..1e15).contains(&number).then_some(number as u64)
    })
}

fn scopes(members: &Map<String, Value>) -> Result<Option<String>, Problem> {
    const SCOPES: &str = "scopes must be a list of OAuth scopes, each once, of 1024 characters in \
                          all; leave it out for the gateway's own.";
    let listed = match members.get("scopes") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(listed)) => listed,
        Some(_) => return invalid(SCOPES),
    };
    let mut scopes: Vec<&str> = Vec::new();
    for scope in listed {
        match scope.as_str() {
            Some(scope) if !scope.contains(' ') && !scopes.contains(&scope) => scopes.push(scope),
            _ => return invalid(SCOPES),
        }
    }
    let scopes = scopes.join(" ");
    if is_scope(&scopes) {
        Ok(Some(scopes))
    } else {
        invalid(SCOPES)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn create(body: &Value) -> Result<CreateBody, Problem> {
        read_create(body.to_string().as_bytes())
    }

    #[test]
    fn a_new_key_has_the_documented_defaults() {
        let body = create(&json!({"name": " Laptop "})).unwrap();
        assert_eq!((body.name.as_str(), body.expires_days), ("Laptop", 365));
        assert_eq!((body.scopes, body.settings), (None, Vec::new()));
        let rotate = read_rotate(b"").unwrap();
        assert_eq!((rotate.grace_seconds, rotate.expires_days), (86_400, None));
        assert_eq!(read_rotate(b"{}").unwrap(), rotate);
    }

    #[test]
    fn all_members_are_read() {
        let body = create(&json!({
            "name": "n", "expires_days": 7, "scopes": ["orders:read", "profile"],
        }));
        let body = body.unwrap();
        assert_eq!(body.expires_days, 7);
        assert_eq!(body.scopes.as_deref(), Some("orders:read profile"));
        let rotate = read_rotate(br#"{"grace_seconds":0,"expires_days":36500}"#).unwrap();
        assert_eq!(
            (rotate.grace_seconds, rotate.expires_days),
            (0, Some(36_500))
        );
        let validate = read_key(br#"{"api_key":"sk"}"#).unwrap();
        assert_eq!(*validate.api_key, "sk");
    }

    #[test]
    fn a_patch_has_each_member_in_its_stored_form_and_null_takes_one_away() {
        let read = |body: &Value| read_update(body.to_string().as_bytes());
        let given = json!({
            "name": " n ", "rate_limit": "100/60", "allowed_addresses": ["10.1.2.3/8", "::1"],
            "disabled": true, "environment": " live ", "labels": "team=pay",
        });
        let expected = [
            Setting::Name("n".to_owned()),
            Setting::RateLimit(RateLimit::parse("100/60")),
            Setting::AllowedAddresses(AllowedAddresses::parse("10.0.0.0/8 ::1/128")),
            Setting::Disabled(true),
            Setting::Environment(Some("live".to_owned())),
            Setting::Labels(Some("team=pay".to_owned())),
        ];
        assert_eq!(read(&given).unwrap(), expected);
        // A new key has the same but its name, which stands by itself.
        assert_eq!(create(&given).unwrap().settings, expected[1..]);
        let taken = json!({
            "rate_limit": null, "allowed_addresses": null, "disabled": null,
            "environment": null, "labels": null,
        });
        let expected = [
            Setting::RateLimit(None),
            Setting::AllowedAddresses(None),
            Setting::Disabled(false),
            Setting::Environment(None),
            Setting::Labels(None),
        ];
        assert_eq!(read(&taken).unwrap(), expected);
        assert_eq!(
            read(&json!({"disabled": false})).unwrap(),
            [Setting::Disabled(false)]
        );
        for (body, named) in [
            (json!({}), "no member"),
            (json!([]), "one JSON object"),
            (json!({"name": null}), "name"),
            (json!({"expires_days": 7}), "not known here"),
            (json!({"scopes": null}), "not known here"),
        ] {
            let problem = read(&body).unwrap_err();
            assert!(problem.detail.contains(named), "{body}: {}", problem.detail);
        }
        assert!(read_update(b"").is_err());
    }

    #[test]
    fn a_number_without_a_fraction_is_whole() {
        for (text, whole) in [
            ("0.0", Some(0)),
            ("-0", Some(0)),
            ("6048e2", Some(604_800)),
            ("604800.5", None),
            ("-1.0", None),
            ("1e300", None),
        ] {
            let body = format!("{{\"grace_seconds\":{text}}}");
            let read = read_rotate(body.as_bytes()).ok();
            assert_eq!(read.map(|body| body.grace_seconds), whole, "{text}");
        }
    }

    #[test]
    fn a_member_that_is_not_what_it_should_be_is_named() {
        for (body, named) in [
            (json!({}), "name"),
            (json!({"name": 1}), "name"),
            (json!({"name": ""}), "name"),
            (json!({"name": "   "}), "name"),
            (json!({"name": "a\nb"}), "name"),
            (json!({"name": "a\n"}), "name"),
            (json!({"name": format!(" {}", "a".repeat(100))}), "name"),
            (json!({"name": "a\u{202e}b"}), "name"),
            (json!({"name": "é".repeat(101)}), "name"),
            (json!({"name": "n", "expires_days": 0}), "expires_days"),
            (json!({"name": "n", "expires_days": 36_501}), "expires_days"),
            (json!({"name": "n", "expires_days": 1.5}), "expires_days"),
            (json!({"name": "n", "expires_days": "7"}), "expires_days"),
            (json!({"name": "n", "scopes": "a"}), "scopes"),
            (json!({"name": "n", "scopes": []}), "scopes"),
            (json!({"name": "n", "scopes": ["a b"]}), "scopes"),
            (json!({"name": "n", "scopes": ["a", "a"]}), "scopes"),
            (json!({"name": "n", "scopes": ["é"]}), "scopes"),
            (json!({"name": "n", "expire_days": 7}), "expires_days"),
            (json!({"name": "n", "rate_limit": 100}), "rate_limit"),
            (json!({"name": "n", "rate_limit": "0/60"}), "1000000"),
            (
                json!({"name": "n", "allowed_addresses": "::1"}),
                "allowed_addresses",
            ),
            (
                json!({"name": "n", "allowed_addresses": []}),
                "allowed_addresses",
            ),
            (
                json!({"name": "n", "allowed_addresses": ["::1 ::2"]}),
                "allowed_addresses",
            ),
            (
                json!({"name": "n", "allowed_addresses": ["::1", 1]}),
                "allowed_addresses",
            ),
            (
                json!({"name": "n", "allowed_addresses": vec!["::1"; 17]}),
                "1 to 16",
            ),
            (json!({"name": "n", "disabled": "true"}), "disabled"),
            (json!({"name": "n", "environment": " "}), "environment"),
            (
                json!({"name": "n", "environment": "e".repeat(101)}),
                "environment",
            ),
            (json!({"name": "n", "labels": "l".repeat(256)}), "labels"),
            (json!({"name": "n", "labels": "a\nb"}), "labels"),
            (json!([]), "one JSON object"),
        ] {
            let problem = create(&body).unwrap_err();
            assert_eq!(problem.code, Code::InvalidRequest);
            assert!(problem.detail.contains(named), "{body}: {}", problem.detail);
        }
        assert!(create(&json!({"name": "é".repeat(100)})).is_ok());
        for (body, named) in [
            (r#"{"grace_seconds":604801}"#, "grace_seconds"),
            (r#"{"grace_seconds":-1}"#, "grace_seconds"),
            (r#"{"name":"x"}"#, "grace_seconds"),
            ("{", "JSON"),
        ] {
            let problem = read_rotate(body.as_bytes()).unwrap_err();
            assert!(problem.detail.contains(named), "{body}");
        }
    }

    #[test]
    fn a_member_that_comes_twice_is_refused() {
        for body in [
            r#"{"name":"a","name":"b"}"#,
            r#"{"name":"a","name":"a"}"#,
            r#"{"name":"a","expires_days":1,"n\u0061me":"b"}"#,
        ] {
            let problem = read_create(body.as_bytes()).unwrap_err();
            assert!(problem.detail.contains("twice"), "{}", problem.detail);
        }
        assert!(read_key(br#"{"api_key":"a","api_key":"b"}"#).is_err());
        assert!(read_rotate(br#"{"grace_seconds":0,"grace_seconds":1}"#).is_err());
    }

    #[test]
    fn a_refusal_repeats_nothing_that_was_sent() {
        let secret = "sk_live_SECRET";
        for body in [
            format!(r#"{{"{secret}":1}}"#),
            format!(r#"{{"api_key":["{secret}"]}}"#),
            format!(r#"{{"api_key":"x","{secret}":1}}"#),
            secret.to_owned(),
        ] {
            let problem = read_key(body.as_bytes()).unwrap_err();
            assert!(!format!("{problem:?}").contains(secret), "{problem:?}");
        }
        let validate = read_key(format!(r#"{{"api_key":"{secret}"}}"#).as_bytes());
        assert!(!format!("{validate:?}").contains(secret));
    }
}
