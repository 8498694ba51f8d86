//! Shared parts of the unit tests of several modules.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::api_key::record::{Field, INDEX_ATTRIBUTE, KEYS_ATTRIBUTE, index_value, key_value};
use crate::config::Config;
use crate::signing_key::SigningKey;

// Made for tests, used nowhere else.
pub(crate) const SIGNING_KEY_PEM: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgWU0g4/ubk4bOwOrf
mIvxaJ8m14dlAobObMbav8A49dmhRANCAAQQKmXTCD16jrhT2xV0jlU5vyEv8uIw
/7gMgF2a3Qoz9Ljo8Z/arqCWWKyHDS72KsBHtYQm5wYi9/D8/WrB5FIH
-----END PRIVATE KEY-----
";

pub(crate) fn signing_key() -> SigningKey {
    SigningKey::parse(SIGNING_KEY_PEM).unwrap()
}

pub(crate) fn config() -> Config {
    config_with(&Value::Null)
}

/// A configuration with these fields and the required ones.
pub(crate) fn config_with(fields: &Value) -> Config {
    let mut config = json!({
        "keycloak_url": "https://login.example.com",
        "realm": "demo",
        "keycloak_upstream": "keycloak",
        "yield_upstream": "yield",
        "signing_key": SIGNING_KEY_PEM,
        // Nobody polls here, and no token may end because of that.
        "revocation_poll_seconds": 0,
    });
    for (field, value) in fields.as_object().into_iter().flatten() {
        config[field] = value.clone();
    }
    Config::from_json(config.to_string().as_bytes()).unwrap()
}

/// A token with these claims and no valid signature.
pub(crate) fn jwt(claims: &Value) -> String {
    format!(
        "eyJhbGciOiJub25lIn0.{}.c2ln",
        URL_SAFE_NO_PAD.encode(claims.to_string())
    )
}

/// A user as Keycloak's search gives it, with one usable key.
pub(crate) fn owner_json(user_id: &str, key_id: &str) -> Value {
    let hash = crate::api_key::hash::hash_sha256(b"key");
    json!({
        "id": user_id,
        "username": "alice",
        "enabled": true,
        "attributes": {
            KEYS_ATTRIBUTE: [key_value(key_id, &hash)],
            INDEX_ATTRIBUTE: [index_value(key_id)],
            Field::ExpiresAt.attribute(key_id): ["2099-01-01T00:00:00Z"],
        },
    })
}

/// Public keys of each kind, and tokens that OpenSSL signed with their private halves, which
/// are gone. OpenSSL made them so that signer and verifier are different programs.
pub(crate) fn signed_by_openssl() -> Value {
    let text = include_str!("../../../tests/kit/src/caller_tokens.json");
    serde_json::from_str(text).unwrap()
}

/// A key set as Keycloak gives it.
pub(crate) fn jwks(keys: &[Value]) -> crate::keycloak::jwks::KeySet {
    let body = json!({ "keys": keys }).to_string();
    crate::keycloak::jwks::read_jwks_answer(200, body.as_bytes()).unwrap()
}
