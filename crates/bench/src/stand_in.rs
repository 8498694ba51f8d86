//! A stand-in for Keycloak where a hundred thousand keys are used for the first time: the
//! real one would take half an hour to answer.
//!
//! It gives the answers that the real one gave for the demo's owner, with other ids, hashes
//! and times in them, so its tokens and records have the real length. It checks nothing, and
//! takes almost no time. No figure of a call to Keycloak comes from here.

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::client::Target;
use crate::database::owner_id;
use crate::faults::{Endpoint, endpoint_of, read_request};
use crate::owner::{Key, Record, attributes};
use crate::wait::now_seconds;

const ROLES: [&str; 4] = ["view-users", "query-users", "query-groups", "view-events"];
/// The life of a token that no assertion shortens.
const LIFE_SECONDS: u64 = 86_400;

/// A running stand-in; it takes no more connections once it is dropped.
pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    /// The length of an owner's token.
    pub(crate) token_bytes: usize,
    stopped: Arc<AtomicBool>,
}

impl StandIn {
    /// Starts a stand-in that knows these keys, each with an owner of its own.
    pub(crate) fn start(bench: &Bench, keys: &[Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let realm = Arc::new(Realm::like_that_of(bench, keys));
        let token_bytes = realm.token(&owner_id(0), now_seconds(), &Value::Null).len();
        let stopped = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stopped);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let realm = Arc::clone(&realm);
                thread::spawn(move || serve(&realm, stream));
            }
        });
        Self {
            address,
            token_bytes,
            stopped,
        }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
    }
}

/// Request after request, until the gateway goes away.
fn serve(realm: &Realm, mut gateway: TcpStream) -> Option<()> {
    gateway.set_nodelay(true).ok()?;
    loop {
        let (head, body) = read_request(&mut gateway)?;
        let body = realm.answer(&head, &body).to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        gateway.write_all(answer.as_bytes()).ok()?;
    }
}

struct Realm {
    /// By a key's id: its owner's number, and the stored form of its hash.
    keys: HashMap<String, (u64, String)>,
    /// A user as the real one shows it.
    user: Value,
    /// A token's claims, and the text before and after them.
    claims: Value,
    header: String,
    signature: String,
}

impl Realm {
    fn like_that_of(bench: &Bench, keys: &[Key]) -> Self {
        let seen = Target::parse(&bench.stack.demo_env()["GATEWAY_URL"]).orders(&bench.key);
        let seen = seen.orders();
        let parts: Vec<&str> = seen.token.split('.').collect();
        let numbered = keys.iter().zip(0..);
        let stored =
            |(key, number): (&Key, u64)| (key.id.clone(), (number, Record::sha256(key).hash));
        Self {
            keys: numbered.map(stored).collect(),
            user: bench.admin.get(&format!("users/{}", seen.subject)),
            header: parts[0].to_owned(),
            signature: parts[2].to_owned(),
            claims: seen.claims,
        }
    }

    fn answer(&self, head: &str, body: &str) -> Value {
        let path = head.split(' ').nth(1).unwrap_or_default();
        match endpoint_of(head, body) {
            Endpoint::ServiceToken => {
                let roles = json!({"realm-management": {"roles": ROLES}});
                let exp = now_seconds() + LIFE_SECONDS;
                token_answer(&self.token("the-gateways-account", exp, &roles), exp)
            }
            Endpoint::LookUp => self.owner_of(path),
            Endpoint::Grant => self.grant(body),
            Endpoint::Other if path.ends_with("/events/config") => {
                json!({"adminEventsEnabled": true, "eventsEnabled": true})
            }
            Endpoint::Other if path.contains("/admin-events") => json!([]),
            Endpoint::Other if path.ends_with("/users/profile") => {
                json!({"unmanagedAttributePolicy": "ADMIN_EDIT"})
            }
            Endpoint::Other => json!({"issuer": self.claims["iss"]}),
        }
    }

    fn owner_of(&self, path: &str) -> Value {
        let (_, id) = path.split_once("apiKeyIndex%3A").expect("a look-up");
        let id = id.trim_end_matches('.');
        let Some((number, hash)) = self.keys.get(id) else {
            return json!([]);
        };
        let record = Record {
            id: id.to_owned(),
            hash: hash.clone(),
            expires_at: None,
            scopes: None,
            terms: Vec::new(),
        };
        let record = record.expiring_at(now_seconds() + 2 * LIFE_SECONDS);
        let mut user = self.user.clone();
        user["id"] = json!(owner_id(*number));
        user["attributes"] = attributes(&[record]);
        json!([user])
    }

    fn grant(&self, form: &str) -> Value {
        let assertion = form
            .split('&')
            .find_map(|pair| pair.strip_prefix("assertion="));
        let claims = assertion.expect("an assertion").split('.').nth(1);
        let claims = URL_SAFE_NO_PAD.decode(claims.expect("claims"));
        let claims: Value = serde_json::from_slice(&claims.expect("base64")).expect("JSON");
        let exp = claims["exp"].as_u64().expect("an end");
        let subject = claims["sub"].as_str().expect("a subject");
        let access = &self.claims["resource_access"];
        token_answer(&self.token(subject, exp, access), exp)
    }

    fn token(&self, subject: &str, exp: u64, access: &Value) -> String {
        let mut claims = self.claims.clone();
        claims["sub"] = json!(subject);
        claims["exp"] = json!(exp);
        claims["iat"] = json!(now_seconds());
        if !access.is_null() {
            claims["resource_access"] = access.clone();
        }
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        format!("{}.{claims}.{}", self.header, self.signature)
    }
}

fn token_answer(token: &str, exp: u64) -> Value {
    json!({
        "access_token": token, "expires_in": exp.saturating_sub(now_seconds()),
        "refresh_expires_in": 0, "token_type": "Bearer", "not-before-policy": 0,
        "scope": "profile email",
    })
}
