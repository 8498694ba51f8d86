//! Command lines that the parser accepts, and those that it refuses.

use super::values::{base_url, grace, is_private, issuer, realm};
use super::*;
use apikeys_core::config::defaults;
use clap::CommandFactory;
use clap::error::ErrorKind;

const CREATE: &[&str] = &[
    "apikeys",
    "create",
    "--keycloak-url",
    "http://127.0.0.1:1/",
    "--realm",
    "demo",
    "--name",
    "n",
];

fn create(extra: &[&str]) -> Result<CreateArgs, clap::Error> {
    match Cli::try_parse_from(CREATE.iter().chain(extra))?.command {
        Command::Create(args) => Ok(args),
        _ => unreachable!(),
    }
}

#[test]
fn the_definitions_hold_together() {
    Cli::command().debug_assert();
}

#[test]
fn the_documented_defaults_apply() {
    let args = create(&["--owner", "alice"]).unwrap();
    assert_eq!(args.connection.keycloak_url, "http://127.0.0.1:1");
    assert_eq!(args.connection.admin_realm, "master");
    assert_eq!(args.expires_days, 365);
    assert_eq!(args.names.client_id, "api-key-gateway");
    assert_eq!(args.names.identity_provider, "api-keys");
    assert_eq!(args.names.management_client_id, "api-key-manager");
    let making = &args.making;
    assert_eq!((making.hash.bcrypt_cost, making.limit.keys_max()), (10, 5));
}

#[test]
fn an_owner_is_named_exactly_once() {
    assert!(create(&[]).is_err());
    assert!(create(&["--owner", "a", "--service-account", "b"]).is_err());
    assert!(create(&["--service-account", "b"]).is_ok());
}

#[test]
fn what_is_out_of_bounds_is_wrong_usage() {
    for extra in [
        ["--bcrypt-cost", "3"],
        ["--bcrypt-cost", "15"],
        ["--expires-days", "0"],
        ["--max-keys-per-user", "0"],
        ["--hash-algorithm", "md5"],
        ["--rate-limit", "100"],
        ["--rate-limit", "0/60"],
        ["--allow-from", "office"],
        ["--allow-from", "::1 ::2"],
        ["--client-id", "a/b"],
        ["--identity-provider", ".."],
    ] {
        let error = create(&["--owner", "a", extra[0], extra[1]]).unwrap_err();
        assert!(
            matches!(
                error.kind(),
                ErrorKind::ValueValidation | ErrorKind::InvalidValue
            ),
            "{extra:?}: {error}"
        );
    }
    let both = ["--owner", "a", "--expires-days", "3", "--expires-at", "x"];
    assert_eq!(
        create(&both).unwrap_err().kind(),
        ErrorKind::ArgumentConflict
    );
}

#[test]
fn a_password_is_no_argument() {
    for name in ["--admin-password", "--password"] {
        let error = create(&["--owner", "a", name, "x"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownArgument);
    }
}

#[test]
fn addresses_that_cannot_be_keycloaks_are_refused() {
    for wrong in [
        "",
        "id.example.com",
        "ftp://x",
        "https://",
        "https:///realms",
        "https://a:b@host",
        "https://host?x",
        "https://ho st",
    ] {
        assert!(base_url(wrong).is_err(), "{wrong}");
    }
    assert_eq!(base_url("https://h:1/auth//").unwrap(), "https://h:1/auth");
}

#[test]
fn the_password_is_kept_from_the_open_network() {
    for private in [
        "https://id.example.com",
        "http://127.0.0.1:8080",
        "http://localhost",
        "http://[::1]:8080/a",
    ] {
        assert!(is_private(private), "{private}");
    }
    for open in [
        "http://id.example.com",
        "http://10.0.0.1:8080",
        "http://127.0.0.1.example.com",
    ] {
        assert!(!is_private(open), "{open}");
    }
}

#[test]
fn issuers_that_keycloak_refuses_and_the_master_realm_are_refused_first() {
    assert!(issuer("urn:api-key-gateway").is_err());
    assert!(issuer("http://gateway.example.com").is_err());
    assert!(issuer(defaults::ASSERTION_ISSUER).is_ok());
    assert!(realm("master").is_err());
    assert!(realm("..").is_err());
    assert!(realm("demo 2").is_ok());
    // The filter accepts no such realm name, so there is no use in preparing such a realm.
    for name in ["übung", "a+b", "a/b", " a", &"a".repeat(256)] {
        assert!(realm(name).is_err(), "{name}");
    }
}

#[test]
fn a_grace_is_seconds_or_a_number_of_units_and_at_most_a_week() {
    for (text, seconds) in [
        ("0", 0),
        ("90", 90),
        ("90s", 90),
        ("15m", 900),
        ("24h", 86_400),
        ("7d", 604_800),
        ("604800", 604_800),
    ] {
        assert_eq!(grace(text).unwrap(), seconds, "{text}");
    }
    for text in [
        "",
        "h",
        "-1",
        "1.5h",
        "24 h",
        "8d",
        "604801",
        "99999999999999999999d",
        "1w",
    ] {
        assert!(grace(text).is_err(), "{text}");
    }
}

#[test]
fn an_update_names_at_least_one_setting_and_each_once() {
    let update = |words: &[&str]| -> Result<UpdateArgs, clap::Error> {
        let fixed = ["apikeys", "update", "--keycloak-url", "http://127.0.0.1:1"];
        let fixed = fixed.iter().chain(&["--realm", "demo", "abc123def456"]);
        match Cli::try_parse_from(fixed.chain(words))?.command {
            Command::Update(args) => Ok(args),
            _ => unreachable!(),
        }
    };
    for (words, kind) in [
        (&[][..], ErrorKind::MissingRequiredArgument),
        (
            &["--rate-limit", "1/1", "--no-rate-limit"],
            ErrorKind::ArgumentConflict,
        ),
        (
            &["--allow-from", "::1", "--allow-from-anywhere"],
            ErrorKind::ArgumentConflict,
        ),
        (
            &["--environment", "live", "--no-environment"],
            ErrorKind::ArgumentConflict,
        ),
        (
            &["--label", "a=b", "--no-labels"],
            ErrorKind::ArgumentConflict,
        ),
    ] {
        assert_eq!(update(words).unwrap_err().kind(), kind, "{words:?}");
    }
    let members = |words: &[&str]| -> Vec<&str> {
        let settings = update(words).unwrap().settings().unwrap();
        settings.iter().map(|setting| setting.member()).collect()
    };
    assert_eq!(
        members(&["--name", "n", "--rate-limit", "1/1", "--no-labels"]),
        ["name", "rate_limit", "labels"]
    );
    assert_eq!(
        members(&["--allow-from-anywhere", "--no-environment"]),
        ["allowed_addresses", "environment"]
    );
    let error = update(&["--name", " "]).unwrap().settings().unwrap_err();
    assert!(error.to_string().contains("--name"), "{error}");
}

#[test]
fn keys_are_named_by_their_id_and_their_owner_need_not_be() {
    let parse = |words: &[&str]| {
        let fixed = ["--keycloak-url", "http://127.0.0.1:1", "--realm", "demo"];
        Cli::try_parse_from(["apikeys"].iter().chain(words).chain(&fixed))
    };
    for command in ["show", "rotate", "disable", "enable", "revoke"] {
        assert!(parse(&[command, "abc123def456"]).is_ok(), "{command}");
        assert!(parse(&[command]).is_err(), "{command}");
        let both = [
            command,
            "abc123def456",
            "--owner",
            "a",
            "--service-account",
            "b",
        ];
        assert!(parse(&both).is_err(), "{command}");
    }
    assert!(parse(&["list"]).is_err());
    assert!(parse(&["list", "--owner", "a"]).is_ok());
}
