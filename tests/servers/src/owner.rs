//! Owners and their keys, written into Keycloak as another vendor's tool would write
//! them.
//!
//! No code of the crate under test makes these records, keys or checksums: the filter
//! must read all that follows the storage format.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::keycloak::Admin;
use crate::secrets;
use crate::wait::now_seconds;

const BASE36: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const BASE62: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PREFIX: &str = "sk_live_";

fn random_text(alphabet: &[u8], length: usize) -> String {
    let mut bytes = vec![0_u8; length];
    getrandom::fill(&mut bytes).unwrap();
    // Slightly uneven, which is good enough for a test key.
    bytes
        .iter()
        .map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()]))
        .collect()
}

/// A unique name.
pub fn unique_name(what: &str) -> String {
    format!("e2e-{what}-{}", random_text(BASE36, 10))
}

/// An API key.
#[derive(Clone)]
pub struct Key {
    pub text: String,
    pub id: String,
}

impl Key {
    /// A new key.
    pub fn random() -> Self {
        Self::with_id(&random_text(BASE36, 12))
    }

    /// A key with this id, a new secret and the right checksum.
    pub fn with_id(id: &str) -> Self {
        let body = format!("{PREFIX}{id}_{}", random_text(BASE62, 32));
        let text = format!("{body}{}", checksum(&body));
        secrets::register(&text);
        // Without its prefix it would still be the whole secret.
        secrets::register(&text[PREFIX.len() + id.len() + 1..]);
        Self {
            text,
            id: id.to_owned(),
        }
    }

    /// The same with one character of the secret mistyped.
    pub fn mistyped(&self) -> String {
        let mut text = self.text.clone();
        let at = PREFIX.len() + self.id.len() + 5;
        let other = if &text[at..=at] == "a" { "b" } else { "a" };
        text.replace_range(at..=at, other);
        secrets::register(&text);
        text
    }
}

/// CRC-32 in six base62 digits.
fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes());
    let mut digits = Vec::new();
    for _ in 0..6 {
        digits.push(char::from(BASE62[rest as usize % 62]));
        rest /= 62;
    }
    digits.into_iter().rev().collect()
}

/// Keycloak's record of a key.
#[derive(Clone)]
pub struct Record {
    pub id: String,
    pub hash: String,
    /// RFC 3339; none leaves the attribute out.
    pub expires_at: Option<String>,
    pub scopes: Option<String>,
    /// More fields of the key, as `rateLimit`, with their values.
    pub terms: Vec<(&'static str, String)>,
}

impl Record {
    fn new(key: &Key, hash: String) -> Self {
        Self {
            id: key.id.clone(),
            hash,
            expires_at: Some(rfc3339(now_seconds() + 86_400)),
            scopes: None,
            terms: Vec::new(),
        }
    }

    /// A record with a fast hash.
    pub fn sha256(key: &Key) -> Self {
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&key.text));
        Self::new(key, format!("$sha256${digest}"))
    }

    /// A record as the seed has it: `$<mark>$<cost>$…`.
    pub fn bcrypt(key: &Key, mark: &str, cost: u32) -> Self {
        let mut salt = [0_u8; 16];
        getrandom::fill(&mut salt).unwrap();
        let parts = bcrypt::hash_with_salt(&key.text, cost, salt).unwrap();
        let hash = parts.format_for_version(bcrypt::Version::TwoB);
        Self::new(key, hash.replacen("$2b$", &format!("${mark}$"), 1))
    }

    /// The same, ending at this second of Unix time.
    pub fn expiring_at(mut self, seconds: u64) -> Self {
        self.expires_at = Some(rfc3339(seconds));
        self
    }

    /// The same with one more field.
    pub fn with(mut self, field: &'static str, value: &str) -> Self {
        self.terms.push((field, value.to_owned()));
        self
    }

    /// The same, asking for these scopes.
    pub fn scopes(mut self, scopes: &str) -> Self {
        self.scopes = Some(scopes.to_owned());
        self
    }
}

pub fn rfc3339(seconds: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap()).unwrap();
    at.format(&Rfc3339).unwrap()
}

/// The attributes of an owner of these keys.
pub fn attributes(records: &[Record]) -> Value {
    let mut attributes = json!({
        "apiKeys": records.iter().map(|r| format!("key:{}:{}", r.id, r.hash)).collect::<Vec<_>>(),
        "apiKeyIndex": records.iter().map(|r| format!("{:.<288}", r.id)).collect::<Vec<_>>(),
    });
    for record in records {
        let mut set = |field: &str, value: &str| {
            attributes[format!("apiKey_{}_{field}", record.id)] = json!([value]);
        };
        set("name", "End-to-end test");
        set("created", &rfc3339(now_seconds()));
        if let Some(expires_at) = &record.expires_at {
            set("expiresAt", expires_at);
        }
        if let Some(scopes) = &record.scopes {
            set("scopes", scopes);
        }
        for (field, value) in &record.terms {
            set(field, value);
        }
    }
    attributes
}

/// A user with keys.
pub struct Owner<'a> {
    admin: &'a Admin,
    pub id: String,
    pub username: String,
}

impl<'a> Owner<'a> {
    /// Makes a user with these keys, linked to the gateway's identity provider.
    #[track_caller]
    pub fn with(admin: &'a Admin, records: &[Record]) -> Self {
        let username = unique_name("owner");
        let id = admin.create_user(&username, &attributes(records));
        let link = json!({"identityProvider": "api-keys", "userId": id, "userName": username});
        let path = format!("users/{id}/federated-identity/api-keys");
        admin.must("POST", &path, Some(&link));
        Self {
            admin,
            id,
            username,
        }
    }

    /// Makes a user with one new key under a fast hash.
    #[track_caller]
    pub fn with_new_key(admin: &'a Admin) -> (Self, Key) {
        let key = Key::random();
        (Self::with(admin, &[Record::sha256(&key)]), key)
    }

    #[track_caller]
    pub fn disable(&self) {
        self.admin
            .edit_user(&self.id, |user| user["enabled"] = json!(false));
    }

    #[track_caller]
    pub fn unlink(&self) {
        let path = format!("users/{}/federated-identity/api-keys", self.id);
        self.admin.must("DELETE", &path, None);
    }

    #[track_caller]
    pub fn delete(&self) {
        self.admin
            .must("DELETE", &format!("users/{}", self.id), None);
    }

    /// Replaces all keys.
    #[track_caller]
    pub fn set_records(&self, records: &[Record]) {
        self.set_attributes(&attributes(records));
    }

    #[track_caller]
    pub fn set_attributes(&self, attributes: &Value) {
        self.admin
            .edit_user(&self.id, |user| user["attributes"] = attributes.clone());
    }
}
