//! How a secret is looked for: the marks that all of them hold, in every form in
//! which one could stand somewhere.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::keycloak::SIGNATURE;
use super::keys::MARK;
use super::setup::SIGNING_KEY;

/// A part of the signing key's text.
const KEY_BODY: &str = SIGNING_KEY.split_at(48).1;
/// How the salt of the model's hashes is written in a bcrypt hash.
const HASH: &str = "$2b$04$";
const HASH_OF_THE_OTHER: &str = "$2b$05$";
const PLAIN_HASH: &str = "$sha256$";

/// Keys, hashes and the signing key.
pub const NOWHERE: [&str; 5] = [MARK, KEY_BODY, HASH, HASH_OF_THE_OTHER, PLAIN_HASH];

/// Tokens of Keycloak's, and the head of each assertion of ours.
pub const UNSAID: [&str; 2] = [SIGNATURE, "eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiI"];

/// Every form in which a text can stand in another. Of base64 the middle of each
/// alignment, which does not depend on what stands around it.
pub fn forms(secret: &str) -> Vec<Vec<u8>> {
    let bytes = secret.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let url: String = bytes
        .iter()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(*byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect();
    let mut forms = vec![
        bytes.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        url.to_lowercase().into_bytes(),
        url.into_bytes(),
    ];
    for before in 0..3 {
        let shifted = [&b"\0\0"[..before], bytes].concat();
        for text in [
            STANDARD_NO_PAD.encode(&shifted),
            URL_SAFE_NO_PAD.encode(&shifted),
        ] {
            // The first four and the last three characters depend on the neighbours.
            let from = if before == 0 { 0 } else { 4 };
            if let Some(middle) = text.as_bytes().get(from..text.len() - 3) {
                forms.push(middle.to_vec());
            }
        }
    }
    // A text that is found by chance would say nothing.
    forms.retain(|form| form.len() >= 7);
    forms
}

#[test]
fn a_secret_is_found_in_each_form_and_at_each_place() {
    let secret = "sk_live_+a/secret~of.some$length";
    let forms = forms(secret);
    let finds = |text: &str| {
        let text = text.as_bytes();
        forms
            .iter()
            .any(|form| text.windows(form.len()).any(|window| window == form))
    };
    for around in ["", "a", "ab", "abc", "key="] {
        let text = format!("{around}{secret}{around}");
        let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(
            finds(&text) && finds(&hex) && finds(&hex.to_uppercase()),
            "{around}"
        );
        assert!(finds(&STANDARD_NO_PAD.encode(&text)), "{around}");
        assert!(finds(&URL_SAFE_NO_PAD.encode(&text)), "{around}");
        let url = percent_encoding::utf8_percent_encode(&text, super::URL).to_string();
        assert!(finds(&url), "{around}");
    }
    assert!(!finds("sk_live_another.secret~of.some$length"));
}
