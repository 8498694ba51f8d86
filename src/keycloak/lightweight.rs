//! Lightweight access tokens: Keycloak leaves roles, names and the like out of them.
//!
//! A service token without roles is either one of an account that holds none or a
//! lightweight one. The difference decides what an operator is told to do.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Whether a token of Keycloak's is lightweight, by its `jti`: two letters each for the
/// session, the kind and the grant stand before a colon, as in `trltcc:` (measured,
/// 26.7.5), and the kind `lt` is a lightweight token.
#[must_use]
pub fn is_lightweight(jwt: &str) -> bool {
    let payload = jwt.split('.').nth(1).unwrap_or_default();
    let claims = URL_SAFE_NO_PAD.decode(payload).ok();
    let claims: Option<Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    let jti = claims
        .as_ref()
        .and_then(|claims| claims.get("jti")?.as_str());
    let kinds = jti.and_then(|jti| Some(jti.split_once(':')?.0));
    kinds.is_some_and(|kinds| kinds.len() == 6 && kinds.get(2..4) == Some("lt"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_support::jwt;

    #[test]
    fn a_lightweight_token_is_told_by_its_id() {
        for (jti, expected) in [
            (json!("trltcc:8b0c2cdd"), true),
            (json!("onltag:8b0c2cdd"), true),
            (json!("trrtcc:8b0c2cdd"), false),
            (json!("8b0c2cdd-0db1-2a5e"), false),
            (json!("lt:8b0c"), false),
            (json!("é€l:8b0c"), false),
            (json!(7), false),
            (Value::Null, false),
        ] {
            let token = jwt(&json!({ "jti": jti }));
            assert_eq!(is_lightweight(&token), expected, "{jti}");
        }
        for no_token in ["", "a", "a.b.c", "a.!.c"] {
            assert!(!is_lightweight(no_token));
        }
    }
}
