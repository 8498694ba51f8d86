//! The record of a new key, and the requests that are refused before any call to Keycloak.

use super::*;
use crate::args::{Cli, Command};
use apikeys_core::api_key::terms::{AllowedAddresses, RateLimit};
use clap::Parser;

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
        _ => unreachable!(),
    }
}

fn now() -> UnixMillis {
    UnixMillis::parse_rfc3339("2026-11-24T10:00:00.700Z").unwrap()
}

fn asked(extra: &[&str]) -> Result<Asked> {
    Asked::from_args(&args(extra), now())
}

fn refusal(extra: &[&str]) -> String {
    asked(extra).unwrap_err().to_string()
}

#[test]
fn a_name_is_trimmed_and_an_end_is_counted_in_days() {
    let asked = asked(&["--name", " CI ", "--scopes", "a b", "--expires-days", "2"]).unwrap();
    assert_eq!(asked.name, "CI");
    assert_eq!(asked.expires_at.to_rfc3339(), "2026-11-26T10:00:00Z");
    assert_eq!(asked.scopes.as_deref(), Some("a b"));
}

#[test]
fn names_are_one_to_a_hundred_printable_characters() {
    let hundred_one = "n".repeat(101);
    for name in ["", "  ", "a\nb", "\u{1b}[1m", hundred_one.as_str()] {
        assert!(refusal(&["--name", name]).contains("--name"), "{name:?}");
    }
    let hundred = "ж".repeat(100);
    assert!(asked(&["--name", &hundred]).is_ok());
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
    let key = asked(&soon).unwrap();
    assert_eq!(key.expires_at.to_rfc3339(), "2026-11-24T10:00:01Z");
}

#[test]
fn settings_are_given_in_the_form_that_is_stored() {
    let given = [
        "--name",
        "n",
        "--rate-limit",
        "100/60",
        "--allow-from",
        "10.1.2.3/8",
        "--allow-from",
        "::1",
        "--environment",
        " live ",
        "--label",
        "team=pay",
        "--label",
        "tier=1",
    ];
    let allowed = AllowedAddresses::parse("10.0.0.0/8 ::1/128");
    assert_eq!(
        asked(&given).unwrap().settings,
        [
            Setting::RateLimit(RateLimit::parse("100/60")),
            Setting::AllowedAddresses(allowed),
            Setting::Environment(Some("live".to_owned())),
            Setting::Labels(Some("team=pay tier=1".to_owned())),
        ]
    );
    let many = ["--allow-from", "::1"].repeat(17);
    let long = "l".repeat(256);
    for (extra, argument) in [
        (many.as_slice(), "--allow-from"),
        (&["--environment", "a\nb"], "--environment"),
        (&["--label", &long], "--label"),
        (&["--label", " "], "--label"),
    ] {
        let message = refusal(&[&["--name", "n"], extra].concat());
        assert!(message.contains(argument), "{message}");
    }
}

#[test]
fn scopes_that_are_no_scopes_are_refused() {
    for scopes in ["", " ", "a  b", "a\"b", "a,b\n"] {
        let message = refusal(&["--name", "n", "--scopes", scopes]);
        assert!(message.contains("--scopes"), "{scopes:?}");
    }
}
