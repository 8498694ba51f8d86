use serde_json::{Value, json};

use super::*;

fn minimal() -> Value {
    json!({
        "keycloak_url": "https://login.example.com/auth",
        "realm": "demo",
        "keycloak_upstream": "127.0.0.1:8100",
        "yield_upstream": "127.0.0.1:8100",
        "signing_key_property": "ngx.apikey_signing_key",
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut config = minimal();
    config[field] = value;
    config
}

fn read(config: &Value) -> Result<Config, ConfigError> {
    Config::from_json(config.to_string().as_bytes())
}

#[test]
fn the_required_fields_alone_give_the_documented_defaults() {
    let config = read(&minimal()).unwrap();
    assert!(config.enabled);
    assert_eq!(config.bcrypt_cost, 10);
    assert_eq!(config.hash_algorithm, HashAlgorithm::Bcrypt);
    assert_eq!(config.key_format.prefix(), "sk_live_");
    assert_eq!(config.max_keys_per_user, 5);
    assert_eq!(config.cache_ttl_ms, 300_000);
    assert_eq!(config.negative_ttl_ms, 30_000);
    assert_eq!(config.callout_timeout_ms, 2000);
    assert_eq!(config.client_id, "api-key-gateway");
    assert_eq!(config.identity_provider, "api-keys");
    assert_eq!(config.headers, ["authorization", "x-api-key"]);
    assert_eq!(config.on_missing_key, OnMissingKey::Bearer);
    assert_eq!(config.fallback_until, None);
    assert_eq!(config.clock_skew_ms, 30_000);
    assert_eq!((config.l1_entries, config.l2_slots), (10_000, 4096));
    assert_eq!(config.assertion_issuer, "https://api-key-gateway.invalid");
    assert_eq!(config.preflight, Preflight::Refuse);
    assert_eq!(config.revocation_poll_ms, 5000);
    assert_eq!(config.throttle_failures_per_minute, 20);
    assert_eq!(
        (config.stale_if_error_ms, config.audit_hits_per_1000),
        (0, 0)
    );
    assert!(!config.usage);
    assert!(config.scope.is_none() && config.management.is_none());
}

#[test]
fn the_realm_is_addressed_below_keycloaks_path() {
    let realm = read(&minimal()).unwrap().realm;
    assert_eq!(realm.issuer, "https://login.example.com/auth/realms/demo");
    assert_eq!(realm.authority, "login.example.com");
    assert_eq!(
        realm.token_path,
        "/auth/realms/demo/protocol/openid-connect/token"
    );
    assert_eq!(
        realm.certs_path,
        "/auth/realms/demo/protocol/openid-connect/certs"
    );
    assert_eq!(realm.users_path, "/auth/admin/realms/demo/users");
    let root = with("keycloak_url", json!("http://[::1]:8080"));
    let realm = read(&root).unwrap().realm;
    assert_eq!(
        (realm.authority.as_str(), realm.users_path.as_str()),
        ("[::1]:8080", "/admin/realms/demo/users")
    );
}

#[test]
fn numbers_that_envoy_wrote_as_doubles_are_whole_numbers() {
    let text = minimal()
        .to_string()
        .replacen('{', "{\"cache_ttl_seconds\": 60.0,", 1);
    assert_eq!(
        Config::from_json(text.as_bytes()).unwrap().cache_ttl_ms,
        60_000
    );
}

#[test]
fn an_upstream_may_ask_for_tls() {
    let tls = read(&with(
        "keycloak_upstream",
        json!("https://login.example.com:443"),
    ))
    .unwrap();
    let expected = Upstream {
        name: "login.example.com:443".into(),
        tls: true,
    };
    assert_eq!(tls.keycloak_upstream, expected);
}

#[test]
fn each_wrong_value_is_refused_by_a_message_that_names_the_field_and_its_bounds() {
    let cases = [
        ("mode", json!("off"), "\"exchange\" or \"manage\""),
        ("admin_role", json!("x"), "mode \"manage\" alone"),
        ("audience", json!("x"), "mode \"manage\" alone"),
        (
            "cors_origins",
            json!(["https://a"]),
            "mode \"manage\" alone",
        ),
        ("management_client_id", json!("x"), "mode \"manage\" alone"),
        (
            "management_signing_key",
            json!("x"),
            "mode \"manage\" alone",
        ),
        (
            "management_signing_key_property",
            json!("env.X"),
            "mode \"manage\" alone",
        ),
        ("enabled", json!("true"), "true or false"),
        ("storage", json!("kong"), "\"keycloak\""),
        ("hash_algorithm", json!("md5"), "\"bcrypt\" or \"sha256\""),
        ("bcrypt_cost", json!(15), "4 to 14"),
        ("bcrypt_cost", json!(3), "4 to 14"),
        ("key_prefix", json!("has space"), "1 to 16 letters"),
        ("key_prefix", json!("ey"), "JWTs begin with"),
        ("key_prefix", json!("eyJ_"), "JWTs begin with"),
        ("client_id", json!("line\nbreak"), "printable"),
        ("client_id", json!("x".repeat(256)), "at most 255"),
        ("assertion_issuer", json!("urn:x"), "https URL"),
        ("identity_provider", json!(""), "not empty"),
        ("signing_key_property", json!("ngx.a b"), "path with dots"),
        ("realm", json!(".."), "not dots alone"),
        ("realm", json!("übung"), "ASCII letters"),
        (
            "keycloak_upstream",
            json!("http://https://x:1"),
            "host:port on Kong",
        ),
        ("max_keys_per_user", json!(0), "1 to 100"),
        ("cache_ttl_seconds", json!(0), "1 to 86400"),
        ("cache_ttl_seconds", json!("300"), "1 to 86400"),
        ("cache_ttl_seconds", json!(1.5), "1 to 86400"),
        ("cache_ttl_seconds", json!(-1), "1 to 86400"),
        ("negative_ttl_seconds", json!(3601), "0 to 3600"),
        ("keycloak_url", json!("login.example.com"), "base URL"),
        (
            "keycloak_url",
            json!("https://login.example.com/"),
            "base URL",
        ),
        (
            "keycloak_url",
            json!("https://user@login.example.com"),
            "base URL",
        ),
        (
            "keycloak_url",
            json!("https://login.example.com?x"),
            "base URL",
        ),
        ("keycloak_url", Value::Null, "required"),
        ("realm", json!("a/b"), "letters, digits"),
        ("realm", json!(""), "not empty"),
        ("keycloak_upstream", json!(""), "not empty"),
        ("yield_upstream", json!("two words"), "host:port on Kong"),
        ("callout_timeout_ms", json!(99), "100 to 30000"),
        ("signing_key", json!("x"), "contradict"),
        ("signing_key_property", json!("nodots"), "path with dots"),
        ("scope", json!("a  b"), "OAuth scopes"),
        ("headers", json!([]), "1 to 8 header names"),
        ("headers", json!(["X-API-Key"]), "lower case"),
        ("headers", json!(["a", "a"]), "each once"),
        ("headers", json!(["host"]), "cannot carry a key"),
        ("headers", json!(["x-forwarded-for"]), "cannot carry a key"),
        (
            "on_missing_key",
            json!("allow"),
            "\"bearer\" or \"pass\" or \"reject\"",
        ),
        ("preflight", json!(true), "\"refuse\" or \"pass\""),
        ("fallback_until", json!("2026-12-31"), "RFC 3339"),
        ("index_key", json!("c2hvcnQ="), "32 bytes"),
        ("revocation_poll_seconds", json!(301), "0 to 300"),
        ("throttle_failures_per_minute", json!(-1), "0 to 100000"),
        ("audit_hits_per_1000", json!(1001), "0 to 1000"),
        ("clock_skew_seconds", json!(301), "0 to 300"),
        ("l1_entries", json!(0), "1 to 1000000"),
        ("l2_slots", json!(6), "multiple of 4"),
    ];
    for (field, value, said) in cases {
        let fault = read(&with(field, value.clone())).unwrap_err();
        assert_eq!(fault.field, field, "{value}");
        assert!(fault.to_string().contains(said), "{field} {value}: {fault}");
    }
}

#[test]
fn refuses_unknown_fields_and_what_is_no_object() {
    let fault = read(&with("cache_ttl", json!(300)))
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("cache_ttl") && fault.contains("cache_ttl_seconds"),
        "{fault}"
    );
    let twice = minimal()
        .to_string()
        .replacen('{', "{\"realm\":\"other\",", 1);
    let fault = Config::from_json(twice.as_bytes()).unwrap_err().to_string();
    assert!(fault.contains("duplicate field `realm`"), "{fault}");
    for text in ["", "[]", "{", "null", "\"x\"", "\u{feff}{}"] {
        let fault = Config::from_json(text.as_bytes()).unwrap_err();
        assert_eq!(fault.field, "configuration", "{text}");
    }
}

#[test]
fn no_message_repeats_a_value() {
    let secret = "MARKED-SECRET-VALUE";
    let RawFields(fields) = raw_fields();
    assert!(fields.len() >= 31);
    for field in fields {
        for value in [json!(secret), json!([secret]), json!({ "x": secret })] {
            if let Err(fault) = read(&with(&field, value)) {
                assert!(
                    !format!("{fault} {fault:?}").contains(secret),
                    "{field}: {fault}"
                );
            }
        }
    }
    let broken = format!("{{\"signing_key\": \"{secret}\"");
    assert!(
        !Config::from_json(broken.as_bytes())
            .unwrap_err()
            .to_string()
            .contains(secret)
    );
}

struct RawFields(Vec<String>);

/// The names of all fields, as the message for an unknown one lists them.
fn raw_fields() -> RawFields {
    let fault = read(&with("no_such_field", json!(1)))
        .unwrap_err()
        .to_string();
    let listed = fault.split_once("expected one of").unwrap().1.to_owned();
    RawFields(
        listed
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect(),
    )
}

#[test]
fn the_fingerprint_tells_apart_what_gives_different_tokens() {
    let base = read(&minimal()).unwrap().fingerprint;
    for (field, value) in [
        ("realm", json!("other")),
        ("scope", json!("orders")),
        ("client_id", json!("other")),
        ("clock_skew_seconds", json!(0)),
        ("key_prefix", json!("pk_")),
        (
            "index_key",
            json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ),
    ] {
        assert_ne!(
            read(&with(field, value)).unwrap().fingerprint,
            base,
            "{field}"
        );
    }
    assert_eq!(
        read(&with("cache_ttl_seconds", json!(9)))
            .unwrap()
            .fingerprint,
        base
    );
}

#[test]
fn each_number_is_taken_up_to_its_bounds_and_no_further() {
    for (field, least, most) in [
        ("bcrypt_cost", 4_u64, 14),
        ("max_keys_per_user", 1, 100),
        ("cache_ttl_seconds", 1, 86_400),
        ("negative_ttl_seconds", 0, 3600),
        ("callout_timeout_ms", 100, 30_000),
        ("revocation_poll_seconds", 0, 300),
        ("throttle_failures_per_minute", 0, 100_000),
        ("stale_if_error_seconds", 0, 86_400),
        ("audit_hits_per_1000", 0, 1000),
        ("clock_skew_seconds", 0, 300),
        ("l1_entries", 1, 1_000_000),
        ("l2_slots", 0, 65_536),
    ] {
        let accepts = |value: Value| read(&with(field, value)).is_ok();
        assert!(
            accepts(json!(least)) && accepts(json!(most)),
            "{field} at its bounds"
        );
        assert!(!accepts(json!(most + 4)), "{field} above");
        assert!(least == 0 || !accepts(json!(least - 1)), "{field} below");
        assert!(!accepts(json!(-1)) && !accepts(json!(1e15)), "{field}");
    }
    let seconds = read(&with("negative_ttl_seconds", json!(7))).unwrap();
    assert_eq!(seconds.negative_ttl_ms, 7000);
    let seconds = read(&with("clock_skew_seconds", json!(7))).unwrap();
    assert_eq!(seconds.clock_skew_ms, 7000);
}

#[test]
fn each_text_is_taken_up_to_its_length_and_no_longer() {
    for (field, start, most) in [
        ("realm", "r", 255),
        ("client_id", "c", 255),
        ("identity_provider", "i", 255),
        ("assertion_issuer", "https://i", 255),
        ("keycloak_url", "https://k", 2048),
        ("keycloak_upstream", "k", 255),
        ("keycloak_upstream", "https://k", 263),
        ("yield_upstream", "http://y", 262),
        ("scope", "s", 1024),
        ("key_prefix", "p", 16),
        ("signing_key_property", "env.", 255),
    ] {
        let accepts = |length: usize| {
            let text = format!("{start:x<length$}");
            assert_eq!(text.len(), length);
            read(&with(field, json!(text))).is_ok()
        };
        assert!(accepts(most) && !accepts(most + 1), "{field} {start}");
    }
    let named = |count: usize, length: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("{at:a<length$}")).collect();
        read(&with("headers", json!(names))).is_ok()
    };
    assert!(named(8, 64) && !named(9, 64) && !named(8, 65) && named(1, 1));
}

#[test]
fn what_a_field_may_be_is_taken_and_what_it_may_not_be_is_not() {
    for (field, value, accepted) in [
        ("mode", json!("exchange"), true),
        ("mode", Value::Null, true),
        ("storage", json!("keycloak"), true),
        ("enabled", json!(false), true),
        ("hash_algorithm", json!("sha256"), true),
        ("key_prefix", json!("e"), false),
        ("key_prefix", json!("eyJ"), false),
        ("key_prefix", json!("eyK"), true),
        ("key_prefix", json!("ey_"), true),
        ("realm", json!("a realm-1.x_y~z"), true),
        ("realm", json!("."), false),
        ("realm", json!(" a"), false),
        ("realm", json!("a "), false),
        ("realm", json!("..."), true),
        ("keycloak_url", json!("https://"), false),
        ("keycloak_url", json!("https:///a"), false),
        ("keycloak_url", json!("https://a/b"), true),
        ("keycloak_url", json!("https://a b"), false),
        ("keycloak_url", json!("ftp://a"), false),
        ("assertion_issuer", json!("http://a"), true),
        ("assertion_issuer", json!("https://a b"), false),
        ("assertion_issuer", json!("gw"), false),
        ("signing_key_property", json!("a.b-c_d.E9"), true),
        ("signing_key_property", json!("a."), false),
        ("signing_key_property", json!(".a"), false),
        ("scope", json!("a b"), true),
        ("headers", json!(["x-1!#$%&'*+.^_|~"]), true),
        ("headers", json!([""]), false),
        ("headers", json!(["a:b"]), false),
        ("headers", json!("x"), false),
        ("headers", json!([1]), false),
        ("headers", json!(["te"]), false),
        ("keycloak_upstream", json!("https://"), false),
        ("keycloak_upstream", json!("a/b"), false),
        ("l2_slots", json!(4), true),
        ("l2_slots", json!(2), false),
        ("cache_ttl_seconds", json!(1.0), true),
        ("cache_ttl_seconds", json!(60.25), false),
        ("index_key", json!("c2hvcnQ="), false),
        ("fallback_until", json!("2026-12-31T00:00:00Z"), true),
    ] {
        let read = read(&with(field, value.clone()));
        assert_eq!(read.is_ok(), accepted, "{field} {value}: {read:?}");
    }
}

fn managing(field: &str, value: Value) -> Result<Config, ConfigError> {
    let mut config = with("mode", json!("manage"));
    config["audience"] = json!("account");
    config[field] = value;
    read(&config)
}

#[test]
fn the_management_api_has_a_client_a_role_and_an_audience() {
    let config = managing("audience", json!("keys")).unwrap();
    let management = config.management.unwrap();
    assert_eq!(management.audience, "keys");
    assert_eq!(management.client_id, "api-key-manager");
    assert_eq!(management.admin_role, "api-key-admin");
    assert!(management.signing_key.is_none() && management.cors_origins.is_empty());
    assert!(read(&minimal()).unwrap().management.is_none());
    let own = managing("management_signing_key_property", json!("env.MANAGER"));
    assert!(own.unwrap().management.unwrap().signing_key.is_some());
}

#[test]
fn what_the_management_api_cannot_work_with_is_refused() {
    for (field, value, said) in [
        ("audience", Value::Null, "is required"),
        ("audience", json!(""), "not empty"),
        (
            "management_client_id",
            json!("api-key-gateway"),
            "another client",
        ),
        ("management_signing_key", json!("x"), "must be"),
        (
            "management_signing_key_property",
            json!("x"),
            "path with dots",
        ),
        ("admin_role", json!(1), "must be a text"),
        ("cors_origins", json!(["*"]), "no wildcard"),
        ("cors_origins", json!([]), "1 to 16"),
        ("cors_origins", json!("https://a"), "1 to 16"),
        ("cors_origins", json!(["https://a/"]), "origins"),
        ("cors_origins", json!(["https://A"]), "origins"),
        ("cors_origins", json!(["null"]), "origins"),
        (
            "cors_origins",
            json!(["https://a", "https://a"]),
            "each once",
        ),
    ] {
        let fault = managing(field, value.clone()).unwrap_err().to_string();
        assert!(fault.starts_with(&format!("{field}: ")), "{field}: {fault}");
        assert!(fault.contains(said), "{field} {value}: {fault}");
    }
    let origins = json!(["https://console.example.com", "http://localhost:3000"]);
    assert_eq!(
        managing("cors_origins", origins)
            .unwrap()
            .management
            .unwrap()
            .cors_origins,
        ["https://console.example.com", "http://localhost:3000"]
    );
}
