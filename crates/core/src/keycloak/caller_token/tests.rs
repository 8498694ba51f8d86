use p256::ecdsa::{Signature, signature::Signer};
use p256::pkcs8::DecodePrivateKey;
use serde_json::{Value, json};

use super::*;
use crate::keycloak::jwks::KeySet;
use crate::mac::MacKey;
use crate::test_support::{SIGNING_KEY_PEM, jwks, signed_by_openssl, signing_key};

/// Within the life of the tokens that OpenSSL signed: 1,700,000,000 to …300.
const NOW: UnixMillis = UnixMillis(1_700_000_001_000);
const ISSUER: &str = "https://login.example.com/realms/demo";
const EXPECTED: Expected<'static> = Expected {
    issuer: ISSUER,
    audience: Some("key-api"),
    refused_clients: &["api-key-gateway"],
    clock_skew_ms: 30_000,
};

/// The key of `token` and its kid.
fn keys() -> KeySet {
    jwks(&[signing_key().public_jwk()])
}

fn fixture_keys() -> KeySet {
    let fixtures = signed_by_openssl();
    let keys = fixtures["keys"].as_object().unwrap().values().cloned();
    jwks(&keys.collect::<Vec<_>>())
}

fn header() -> Value {
    json!({ "alg": "ES256", "typ": "JWT", "kid": signing_key().kid() })
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "4b1c0a7e-5d1f", "aud": "key-api", "typ": "Bearer",
        "azp": "console", "jti": "onrtac:b3", "iat": 1_700_000_000_u64, "exp": 1_700_000_300_u64,
    })
}

/// The JSON texts, valid or not, signed with ES256.
fn sign_texts(header: &str, claims: &str) -> String {
    let body: String = SIGNING_KEY_PEM
        .lines()
        .filter(|line| !line.starts_with("--"))
        .collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body);
    let key = p256::ecdsa::SigningKey::from_pkcs8_der(&der.unwrap()).unwrap();
    let mut jwt = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims)
    );
    let signature: Signature = key.sign(jwt.as_bytes());
    jwt.push('.');
    jwt.push_str(&URL_SAFE_NO_PAD.encode(signature.to_bytes()));
    jwt
}

fn sign(header: &Value, claims: &Value) -> String {
    sign_texts(&header.to_string(), &claims.to_string())
}

fn take(token: &str, expected: &Expected<'_>, now: UnixMillis) -> Result<Caller, CallerError> {
    let keys = keys();
    let key = keys.find(signing_key().kid()).unwrap();
    let read = read_header(token).map(|header| header.kid);
    let verified = verify(expected, key, token, now);
    if let Err(fault) = read {
        assert_eq!(verified, Err(fault), "both read one header");
    }
    verified
}

/// The result for a valid token with this member of its claims changed; `null` for none.
fn with_claim(name: &str, value: Value) -> Result<Caller, CallerError> {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    take(&sign(&header(), &claims), &EXPECTED, NOW)
}

fn with_header(name: &str, value: Value) -> Result<Caller, CallerError> {
    let mut header = header();
    header[name] = value;
    take(&sign(&header, &claims()), &EXPECTED, NOW)
}

#[test]
fn takes_the_tokens_of_each_algorithm_that_another_implementation_signed() {
    let fixtures = signed_by_openssl();
    let keys = fixture_keys();
    let tokens = fixtures["tokens"].as_object().unwrap();
    assert_eq!(tokens.len(), 6);
    for (name, token) in tokens {
        let token = token.as_str().unwrap();
        let header = read_header(token).unwrap();
        let key = keys.find(&header.kid).unwrap();
        let caller = verify(&EXPECTED, key, token, NOW).unwrap();
        assert_eq!(
            caller.subject, "4b1c0a7e-5d1f-4b2a-9c3d-0a1b2c3d4e5f",
            "{name}"
        );
        assert_eq!(caller.client_id, "console");
        assert_eq!(caller.username.as_deref(), Some("alice"));
        assert_eq!(caller.expires_at, UnixMillis(1_700_000_300_000));
        assert!(caller.has_role("offline_access") && caller.has_role("api-key-admin"));
        assert!(!caller.has_role("view-profile"), "of another client");
    }
}

#[test]
fn refuses_a_pss_signature_that_the_standard_forbids() {
    let fixtures = signed_by_openssl();
    let keys = jwks(&[fixtures["keys"]["rsa2048"].clone()]);
    let key = keys.find("rsa2048").unwrap();
    let tokens = fixtures["not_to_be_taken"].as_object().unwrap();
    assert_eq!(tokens.len(), 2);
    for (name, token) in tokens {
        let verified = verify(&EXPECTED, key, token.as_str().unwrap(), NOW);
        assert_eq!(verified, Err(CallerError::Signature), "{name}");
    }
}

#[test]
fn refuses_a_token_with_a_bit_changed_in_any_of_its_bytes() {
    let fixtures = signed_by_openssl();
    let keys = fixture_keys();
    for name in ["RS256", "PS256", "ES256", "EdDSA"] {
        let token = fixtures["tokens"][name].as_str().unwrap();
        let key = keys.find(&read_header(token).unwrap().kid).unwrap();
        for at in 0..token.len() {
            let mut bytes = token.as_bytes().to_vec();
            bytes[at] ^= 1 << (at % 7);
            let changed = String::from_utf8(bytes).unwrap();
            assert!(verify(&EXPECTED, key, &changed, NOW).is_err(), "{changed}");
        }
    }
}

#[test]
fn refuses_parts_that_belong_to_another_token() {
    let mut bobs = claims();
    bobs["sub"] = json!("bob");
    let (one, other) = (sign(&header(), &claims()), sign(&header(), &bobs));
    let parts = |token: &str| -> Vec<String> { token.split('.').map(str::to_owned).collect() };
    let (one, other) = (parts(&one), parts(&other));
    for mixed in [
        format!("{}.{}.{}", one[0], other[1], one[2]),
        format!("{}.{}.{}", one[0], one[1], other[2]),
    ] {
        assert_eq!(take(&mixed, &EXPECTED, NOW), Err(CallerError::Signature));
    }
}

#[test]
fn refuses_an_unsigned_token_and_all_algorithms_that_are_not_listed() {
    let body = URL_SAFE_NO_PAD.encode(claims().to_string());
    for alg in [
        "none", "None", "HS256", "RS512", "ES384", "es256", "ES256K", "",
    ] {
        let mut header = header();
        header["alg"] = json!(alg);
        let head = URL_SAFE_NO_PAD.encode(header.to_string());
        for signature in ["", "AA"] {
            let token = format!("{head}.{body}.{signature}");
            let fault = if signature.is_empty() {
                CallerError::Malformed
            } else {
                CallerError::Algorithm
            };
            assert_eq!(take(&token, &EXPECTED, NOW), Err(fault), "{alg}");
        }
    }
}

#[test]
fn refuses_an_hmac_under_the_public_key() {
    let mut header = header();
    header["alg"] = json!("HS256");
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims().to_string())
    );
    let jwk = signing_key().public_jwk();
    let public: [u8; 32] = URL_SAFE_NO_PAD
        .decode(jwk["x"].as_str().unwrap())
        .unwrap()
        .try_into()
        .unwrap();
    let tag = MacKey::new(&public).tag(&[message.as_bytes()]);
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
    assert_eq!(take(&token, &EXPECTED, NOW), Err(CallerError::Algorithm));
}

#[test]
fn refuses_an_algorithm_that_is_not_the_keys() {
    let fixtures = signed_by_openssl();
    let keys = fixture_keys();
    let as_other = |name: &str, alg: &str, kid: &str| {
        let token = fixtures["tokens"][name].as_str().unwrap();
        let (_, rest) = token.split_once('.').unwrap();
        let head = json!({ "alg": alg, "typ": "JWT", "kid": kid }).to_string();
        let token = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(head));
        verify(&EXPECTED, keys.find(kid).unwrap(), &token, NOW)
    };
    for (name, alg, kid) in [
        ("ES256", "RS256", "ec"),
        ("ES256", "EdDSA", "ec"),
        ("EdDSA", "ES256", "ed"),
        ("RS256", "ES256", "rsa2048"),
        ("RS256", "EdDSA", "rsa2048"),
    ] {
        assert_eq!(
            as_other(name, alg, kid),
            Err(CallerError::OtherKey),
            "{alg}"
        );
    }
    // An RSA key without `alg` may do both, and a signature of one is none of the other.
    for (name, alg) in [("RS256", "PS256"), ("PS256", "RS256")] {
        let verified = as_other(name, alg, "rsa2048");
        assert_eq!(verified, Err(CallerError::Signature), "{alg}");
    }
    let mut only = fixtures["keys"]["rsa2048"].clone();
    only["alg"] = json!("RS256");
    let only = jwks(&[only]);
    let only = only.find("rsa2048").unwrap();
    let verify_only = |name: &str| {
        let token = fixtures["tokens"][name].as_str().unwrap();
        verify(&EXPECTED, only, token, NOW).map(|caller| caller.client_id)
    };
    assert_eq!(verify_only("RS256"), Ok("console".to_owned()));
    assert_eq!(verify_only("PS256"), Err(CallerError::OtherKey));
}

#[test]
fn refuses_a_token_that_names_another_key() {
    assert_eq!(
        with_header("kid", json!("other")),
        Err(CallerError::OtherKey)
    );
    assert_eq!(with_header("kid", Value::Null), Err(CallerError::NoKey));
    assert_eq!(with_header("kid", json!(7)), Err(CallerError::Malformed));
}

#[test]
fn a_header_may_be_a_jwts_or_an_access_tokens_and_asks_for_nothing_more() {
    for typ in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"] {
        assert!(with_header("typ", json!(typ)).is_ok(), "{typ}");
    }
    assert!(with_header("typ", Value::Null).is_ok());
    for typ in ["dpop+jwt", "logout+jwt", "JOSE", ""] {
        assert_eq!(with_header("typ", json!(typ)), Err(CallerError::HeaderType));
    }
    for crit in [json!(["b64"]), json!([]), Value::Null] {
        assert_eq!(with_header("crit", crit), Err(CallerError::Critical));
    }
    // Keys that a token brings itself are not looked at.
    assert!(with_header("jwk", json!({ "kty": "oct", "k": "AA" })).is_ok());
}

#[test]
fn refuses_what_is_no_signed_jwt_before_any_computation() {
    let good = sign(&header(), &claims());
    let head = URL_SAFE_NO_PAD.encode(header().to_string());
    for token in [
        String::new(),
        ".".into(),
        "..".into(),
        "a.b".into(),
        "a.b.c".into(),
        format!("{good}."),
        format!("{good}.x"),
        format!(".{good}"),
        format!("{good}="),
        format!("{good}\n"),
        format!(" {good}"),
        format!("{head}..AA"),
        format!("{head}.é.AA"),
        sign_texts(r#"{"alg":"ES256","alg":"ES256","kid":"a"}"#, "{}"),
        sign_texts(r#"["ES256"]"#, "{}"),
        sign_texts(&format!("{{\"alg\":{}}}", "[".repeat(3000)), "{}"),
    ] {
        assert_eq!(read_header(&token), Err(CallerError::Malformed), "{token}");
        assert_eq!(take(&token, &EXPECTED, NOW), Err(CallerError::Malformed));
    }
    let mut long = claims();
    long["pad"] = json!("x".repeat(TOKEN_BYTES_MAX));
    let long = sign(&header(), &long);
    assert_eq!(read_header(&long), Err(CallerError::Oversized));
    assert_eq!(take(&long, &EXPECTED, NOW), Err(CallerError::Oversized));
}

#[test]
fn a_token_may_be_as_long_as_the_bound_and_no_longer() {
    let of_length = |length: usize| {
        let mut token = sign(&header(), &claims());
        token.extend(std::iter::repeat_n('A', length - token.len()));
        read_header(&token)
    };
    assert!(of_length(TOKEN_BYTES_MAX).is_ok());
    assert_eq!(of_length(TOKEN_BYTES_MAX + 1), Err(CallerError::Oversized));
}

#[test]
fn refuses_claims_that_cannot_be_read() {
    let text = claims().to_string();
    let twice = format!("{},\"sub\":\"mallory\"}}", &text[..text.len() - 1]);
    let huge = format!("{},\"exp\":1e400}}", &text[..text.len() - 1]);
    for claims in ["", "{}", "null", "[]", "{", twice.as_str(), huge.as_str()] {
        let token = sign_texts(&header().to_string(), claims);
        let fault = if claims.is_empty() {
            CallerError::Malformed
        } else {
            CallerError::Claims
        };
        assert_eq!(take(&token, &EXPECTED, NOW), Err(fault), "{claims}");
    }
    let deep: Value = (0..100).fold(json!(1), |inner, _| json!([inner]));
    for (name, value) in [
        ("exp", json!("1700000300")),
        ("exp", json!(1_700_000_300.5)),
        ("exp", json!(-1)),
        ("exp", Value::Null),
        ("iat", Value::Null),
        ("iss", Value::Null),
        ("sub", Value::Null),
        ("sub", json!(["alice"])),
        ("aud", deep),
        ("realm_access", json!({ "roles": "admin" })),
    ] {
        let taken = with_claim(name, value.clone());
        assert_eq!(taken, Err(CallerError::Claims), "{name}: {value}");
    }
}

#[test]
fn refuses_another_realm_and_another_audience() {
    for issuer in [
        "https://login.example.com/realms/other",
        "",
        &format!("{ISSUER}/"),
    ] {
        assert_eq!(with_claim("iss", json!(issuer)), Err(CallerError::Issuer));
    }
    for audience in [Value::Null, json!("account"), json!(["a", "b"]), json!([])] {
        let taken = with_claim("aud", audience.clone());
        assert_eq!(taken, Err(CallerError::Audience), "{audience}");
    }
    assert!(with_claim("aud", json!(["account", "key-api"])).is_ok());
    let any = Expected {
        audience: None,
        ..EXPECTED
    };
    let mut claims = claims();
    claims["resource_access"] = json!({ "key-api": { "roles": ["api-key-admin"] } });
    claims["aud"] = json!("account");
    let caller = take(&sign(&header(), &claims), &any, NOW).unwrap();
    assert!(
        !caller.has_role("api-key-admin"),
        "of whose client, nobody said"
    );
}

#[test]
fn refuses_a_token_outside_of_its_life_and_allows_for_the_skew() {
    let at = |ms| take(&sign(&header(), &claims()), &EXPECTED, UnixMillis(ms));
    assert!(at(1_700_000_329_999).is_ok());
    assert_eq!(at(1_700_000_330_000), Err(CallerError::Expired));
    assert!(at(1_699_999_970_000).is_ok());
    assert_eq!(at(1_699_999_969_999), Err(CallerError::NotYetValid));
    assert!(with_claim("nbf", json!(1_700_000_031_u64)).is_ok());
    let early = with_claim("nbf", json!(1_700_000_032_u64));
    assert_eq!(early, Err(CallerError::NotYetValid));
    let early = with_claim("iat", json!(u64::MAX));
    assert_eq!(early, Err(CallerError::NotYetValid));
    assert!(with_claim("exp", json!(u64::MAX)).is_ok());
    assert_eq!(with_claim("exp", json!(0)), Err(CallerError::Expired));
}

#[test]
fn takes_access_tokens_alone() {
    for typ in ["ID", "Refresh", "Offline", "Logout", "DPoP", "bearer", ""] {
        assert_eq!(
            with_claim("typ", json!(typ)),
            Err(CallerError::NotAccessToken)
        );
    }
    assert_eq!(
        with_claim("typ", Value::Null),
        Err(CallerError::NotAccessToken)
    );
    let bound = with_claim("cnf", json!({ "x5t#S256": "AA" }));
    assert_eq!(bound, Err(CallerError::Bound));
}

#[test]
fn a_key_makes_no_keys() {
    let minted = with_claim("azp", json!("api-key-gateway"));
    assert_eq!(minted, Err(CallerError::FromApiKey));
    assert_eq!(with_claim("azp", Value::Null), Err(CallerError::NoClient));
}

#[test]
fn a_token_that_was_made_from_another_makes_no_keys() {
    for grant in ["ac", "ro", "rt", "cc", "dg", "ci"] {
        for session in ["on", "of", "tr", "nt", "ft"] {
            let jti = json!(format!("{session}rt{grant}:4b1c0a7e"));
            assert!(with_claim("jti", jti).is_ok(), "{session} {grant}");
        }
    }
    for grant in ["te", "ag", "pg", "pc", "na", "zz", "AC"] {
        let taken = with_claim("jti", json!(format!("trrt{grant}:4b1c0a7e")));
        assert_eq!(taken, Err(CallerError::FromToken), "{grant}");
    }
    for jti in [
        "",
        "ac",
        "onrtac",
        ":onrtac",
        "onrtac4b1c:0a7e",
        "onrt:",
        "onrtacx:",
    ] {
        let taken = with_claim("jti", json!(jti));
        assert_eq!(taken, Err(CallerError::NoGrant), "{jti}");
    }
    assert_eq!(with_claim("jti", Value::Null), Err(CallerError::NoGrant));
}

/// These claims under another text's signature.
fn forged(claims: &Value) -> String {
    let (good, other) = (sign(&header(), claims), sign(&header(), &json!({})));
    let (message, _) = good.rsplit_once('.').unwrap();
    let (_, signature) = other.rsplit_once('.').unwrap();
    format!("{message}.{signature}")
}

#[test]
fn claims_are_judged_before_the_signature_is() {
    let mut over = claims();
    over["exp"] = json!(1_600_000_000_u64);
    let token = forged(&over);
    assert_eq!(
        check_claims(&EXPECTED, &token, NOW),
        Err(CallerError::Expired)
    );
    assert_eq!(take(&token, &EXPECTED, NOW), Err(CallerError::Expired));
    let forged = forged(&claims());
    assert_eq!(check_claims(&EXPECTED, &forged, NOW), Ok(()));
    assert_eq!(take(&forged, &EXPECTED, NOW), Err(CallerError::Signature));
}

#[test]
fn refuses_a_subject_that_no_user_has() {
    for subject in ["", "a/b", "../users", "a b", "a\nb", &"a".repeat(256)] {
        assert_eq!(with_claim("sub", json!(subject)), Err(CallerError::Subject));
    }
    assert!(with_claim("sub", json!("f:8f2a-1b:alice")).is_ok());
}

#[test]
fn debug_output_and_errors_hold_nothing_of_the_token() {
    let mut claims = claims();
    claims["preferred_username"] = json!("SECRET");
    claims["realm_access"] = json!({ "roles": ["SECRET"] });
    let caller = take(&sign(&header(), &claims), &EXPECTED, NOW).unwrap();
    assert!(!format!("{caller:?}").contains("SECRET"));
}
