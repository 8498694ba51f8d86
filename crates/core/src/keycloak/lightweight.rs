//! Lightweight access tokens: Keycloak leaves roles, names and the like out of them.
//!
//! A service token without roles is either that of an account without roles, or a lightweight
//! one. The advice to the operator depends on the difference.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::token_context;

/// Whether a token of Keycloak's is lightweight: of the kind `lt`, by its `jti`.
#[must_use]
pub fn is_lightweight(jwt: &str) -> bool {
    let payload = jwt.split('.').nth(1).unwrap_or_default();
    let claims = URL_SAFE_NO_PAD.decode(payload).ok();
    let claims: Option<Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    let jti = claims
        .as_ref()
        .and_then(|claims| claims.get("jti")?.as_str());
    jti.and_then(token_context)
        .is_some_and(|(_, kind, _)| kind == "lt")
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
