//! Keycloak's admin REST interface, as far as the tool needs it.
//!
//! Every call has a time limit. An error names the method, the path, the status
//! and Keycloak's own words, and holds no token and no password.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::Call;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};
use zeroize::Zeroizing;

use crate::admin_error::{AdminError, keycloak_words};
use crate::proxy::{self, Chosen};
use crate::{system, trust};

/// An answer longer than this is no answer of Keycloak's to us.
const BODY_BYTES_MAX: u64 = 32 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Well below what lies between the last write under a lock and its being taken for
/// left behind: `HOLD_MS` and `STALE_MS` of `manage::change`.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// What would end a path segment, or be read as something else in one.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// Who signs in to the admin interface, and where.
pub(crate) struct Credentials {
    /// The realm that the administrator belongs to.
    pub(crate) realm: String,
    /// The client that the administrator signs in by.
    pub(crate) client_id: String,
    pub(crate) username: String,
    pub(crate) password: Zeroizing<String>,
}

/// A signed-in administrator's view of one realm.
pub(crate) struct KeycloakAdmin {
    agent: Agent,
    /// How the proxy is called that calls go by.
    proxy: Option<String>,
    base_url: String,
    realm: String,
    credentials: Credentials,
    token: RefCell<Token>,
}

/// The administrator's access token.
#[derive(Default)]
struct Token {
    text: Zeroizing<String>,
    /// From when on a new one is fetched before it is needed.
    renew_at: UnixMillis,
    /// Seconds that this machine's clock was ahead of Keycloak's when it came, if that
    /// can be told.
    clock_ahead_seconds: Option<i64>,
}

impl fmt::Debug for KeycloakAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeycloakAdmin")
            .field("base_url", &self.base_url)
            .field("realm", &self.realm)
            .finish_non_exhaustive()
    }
}

impl KeycloakAdmin {
    /// Signs in. `base_url` has no slash at its end; `ca_pem` holds the
    /// certificates to trust in place of the usual ones.
    pub(crate) fn sign_in(
        base_url: &str,
        realm: &str,
        credentials: Credentials,
        ca_pem: Option<&[u8]>,
    ) -> Result<Self, AdminError> {
        let variable = |name: &str| std::env::var(name).ok();
        Self::sign_in_from(base_url, realm, credentials, ca_pem, variable)
    }

    /// Signs in from this environment.
    fn sign_in_from(
        base_url: &str,
        realm: &str,
        credentials: Credentials,
        ca_pem: Option<&[u8]>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, AdminError> {
        let proxy = proxy::choose(base_url, &variable)?;
        let roots = trust::roots(base_url, ca_pem, variable)?;
        let admin = Self {
            agent: agent(proxy.as_ref(), roots),
            proxy: proxy.map(|proxy| proxy.shown),
            base_url: base_url.to_owned(),
            realm: realm.to_owned(),
            credentials,
            token: RefCell::default(),
        };
        admin.renew_token()?;
        Ok(admin)
    }

    /// The realm that is worked on.
    pub(crate) fn realm(&self) -> &str {
        &self.realm
    }

    /// The realm's public address, as `<base URL>/realms/<realm>`.
    pub(crate) fn realm_url(&self) -> String {
        format!("{}/realms/{}", self.base_url, segment(&self.realm))
    }

    /// Reads what lies at a path below the realm's; `None` when it is not there.
    pub(crate) fn find(&self, path: &str) -> Result<Option<Value>, AdminError> {
        match self.get(path) {
            Err(AdminError::Refused { status: 404, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Reads what lies at a path below the realm's.
    pub(crate) fn get(&self, path: &str) -> Result<Value, AdminError> {
        let path = self.in_realm(path);
        parse("GET", &path, &self.signed_in("GET", &path, None)?)
    }

    /// Reads a list of objects.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Value>, AdminError> {
        match self.get(path)? {
            Value::Array(items) => Ok(items),
            _ => Err(AdminError::NotUnderstood {
                method: "GET",
                path: self.in_realm(path),
                what: "no list",
            }),
        }
    }

    /// Reads the server's description, which is no realm's.
    pub(crate) fn server_info(&self) -> Result<Value, AdminError> {
        let path = "/admin/serverinfo";
        parse("GET", path, &self.signed_in("GET", path, None)?)
    }

    pub(crate) fn put(&self, path: &str, body: &Value) -> Result<(), AdminError> {
        self.signed_in("PUT", &self.in_realm(path), Some(body))
            .map(drop)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<(), AdminError> {
        self.signed_in("POST", &self.in_realm(path), Some(body))
            .map(drop)
    }

    pub(crate) fn delete(&self, path: &str, body: &Value) -> Result<(), AdminError> {
        self.signed_in("DELETE", &self.in_realm(path), Some(body))
            .map(drop)
    }

    /// The path of the realm's users below the base URL.
    pub(crate) fn users_path(&self) -> String {
        self.in_realm("users")
    }

    /// The path of the realm's user events below the base URL.
    pub(crate) fn events_path(&self) -> String {
        self.in_realm("events")
    }

    /// Sends a call of the core's: the status and the body of the answer, whichever
    /// it is.
    pub(crate) fn send(&self, call: &Call) -> Result<(u16, Zeroizing<String>), AdminError> {
        let payload = call.json.as_deref().map(Payload::Text);
        let answer = self.call(call.method, &call.path, call.bearer.as_deref(), payload)?;
        Ok((answer.status, answer.body))
    }

    /// A token that lives for a while yet. Where no new one is to be had the one at
    /// hand is given: that it is refused is told by the call that it is for.
    pub(crate) fn bearer(&self) -> Zeroizing<String> {
        let is_old = system::now().is_ok_and(|now| now >= self.token.borrow().renew_at);
        if is_old {
            let _ = self.renew_token();
        }
        self.token.borrow().text.clone()
    }

    /// Seconds that this machine's clock was ahead of Keycloak's at the last sign-in, if
    /// its tokens are JWTs: Keycloak sends no Date (26.7.5).
    pub(crate) fn clock_ahead_seconds(&self) -> Option<i64> {
        self.token.borrow().clock_ahead_seconds
    }

    /// Reads a public document of the realm's, such as its OpenID configuration.
    pub(crate) fn public(&self, path: &str) -> Result<Value, AdminError> {
        let path = format!("/realms/{}/{path}", segment(&self.realm));
        let answer = self.call("GET", &path, None, None)?;
        parse("GET", &path, &answer.accepted("GET", &path)?)
    }

    /// Asks the realm's token endpoint, as a client and not as the administrator:
    /// the status and the JSON of its answer, whichever it is.
    pub(crate) fn token_request(&self, form: &[(&str, &str)]) -> Result<(u16, Value), AdminError> {
        let path = token_path(&self.realm);
        let answer = self.call("POST", &path, None, Some(Payload::Form(form)))?;
        Ok((answer.status, parse("POST", &path, &answer.body)?))
    }

    fn in_realm(&self, path: &str) -> String {
        let base = format!("/admin/realms/{}", segment(&self.realm));
        match path {
            "" => base,
            path => format!("{base}/{path}"),
        }
    }

    /// Calls as the administrator. A token lives for a minute by default, less
    /// than a long run: a refused one is renewed, once.
    fn signed_in(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Zeroizing<String>, AdminError> {
        let body = body.map(Payload::Json);
        let first = self.call(method, path, Some(&self.bearer()), body)?;
        if first.status != 401 {
            return first.accepted(method, path);
        }
        self.renew_token()?;
        self.call(method, path, Some(&self.bearer()), body)?
            .accepted(method, path)
    }

    fn renew_token(&self) -> Result<(), AdminError> {
        let path = token_path(&self.credentials.realm);
        let form = [
            ("grant_type", "password"),
            ("client_id", self.credentials.client_id.as_str()),
            ("username", self.credentials.username.as_str()),
            ("password", self.credentials.password.as_str()),
        ];
        let answer = self.call("POST", &path, None, Some(Payload::Form(&form)))?;
        if answer.status != 200 {
            return Err(AdminError::SignIn {
                username: self.credentials.username.clone(),
                realm: self.credentials.realm.clone(),
                status: answer.status,
                message: answer.message(),
            });
        }
        let document = parse("POST", &path, &answer.body)?;
        let token = document.get("access_token").and_then(Value::as_str);
        let token = token.ok_or(AdminError::NotUnderstood {
            method: "POST",
            path,
            what: "no access_token in it",
        })?;
        let lives_seconds = document.get("expires_in").and_then(Value::as_u64);
        let now = system::now().unwrap_or_default();
        *self.token.borrow_mut() = Token {
            text: Zeroizing::new(token.to_owned()),
            // At half of its life, so that it outlasts whatever is begun with it.
            renew_at: now.plus_ms(lives_seconds.unwrap_or_default().saturating_mul(500)),
            clock_ahead_seconds: issued_at(token)
                .and_then(|iat| i64::try_from(now.as_seconds()).ok()?.checked_sub(iat)),
        };
        Ok(())
    }

    fn call(
        &self,
        method: &'static str,
        path: &str,
        token: Option<&str>,
        payload: Option<Payload<'_>>,
    ) -> Result<Answer, AdminError> {
        let url = format!("{}{path}", self.base_url);
        let unreachable = |source| AdminError::Unreachable {
            method,
            url: url.clone(),
            proxy: self.proxy.clone(),
            source: Box::new(source),
        };
        let bearer = token.map(|token| Zeroizing::new(format!("Bearer {token}")));
        let response = match payload {
            None => {
                let mut request = match method {
                    "DELETE" => self.agent.delete(&url),
                    _ => self.agent.get(&url),
                };
                if let Some(bearer) = &bearer {
                    request = request.header("authorization", bearer.as_str());
                }
                request.call()
            }
            Some(payload) => {
                let mut request = match method {
                    "PUT" => self.agent.put(&url),
                    // Keycloak takes a list of roles away by DELETE with a body.
                    "DELETE" => self.agent.delete(&url).force_send_body(),
                    _ => self.agent.post(&url),
                };
                if let Some(bearer) = &bearer {
                    request = request.header("authorization", bearer.as_str());
                }
                let (content_type, body) = payload.encoded();
                request
                    .header("content-type", content_type)
                    .send(body.as_str())
            }
        };
        let mut response = response.map_err(unreachable)?;
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(BODY_BYTES_MAX)
            .read_to_string()
            .map_err(unreachable)?;
        Ok(Answer {
            status,
            body: Zeroizing::new(body),
        })
    }
}

/// A string as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// A string as a value in a query.
pub(crate) fn query(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// When a token was issued, in seconds of Keycloak's clock.
fn issued_at(token: &str) -> Option<i64> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&Zeroizing::new(claims)).ok()?;
    claims.get("iat")?.as_i64()
}

fn token_path(realm: &str) -> String {
    format!("/realms/{}/protocol/openid-connect/token", segment(realm))
}

fn agent(proxy: Option<&Chosen>, roots: RootCerts) -> Agent {
    Agent::config_builder()
        .user_agent(concat!("apikeys/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_global(Some(CALL_TIMEOUT))
        .http_status_as_error(false)
        // A redirect would carry the token somewhere else: it is an answer, and
        // not a good one.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(proxy.map(|chosen| chosen.proxy.clone()))
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .build()
        .into()
}

#[derive(Clone, Copy)]
enum Payload<'a> {
    Json(&'a Value),
    /// JSON, written already.
    Text(&'a str),
    Form(&'a [(&'a str, &'a str)]),
}

impl Payload<'_> {
    fn encoded(self) -> (&'static str, Zeroizing<String>) {
        match self {
            Self::Json(value) => ("application/json", Zeroizing::new(value.to_string())),
            Self::Text(text) => ("application/json", Zeroizing::new(text.to_owned())),
            Self::Form(pairs) => {
                let mut form = Zeroizing::new(String::new());
                for (name, value) in pairs {
                    if !form.is_empty() {
                        form.push('&');
                    }
                    form.push_str(name);
                    form.push('=');
                    form.push_str(&Zeroizing::new(query(value)));
                }
                ("application/x-www-form-urlencoded", form)
            }
        }
    }
}

struct Answer {
    status: u16,
    body: Zeroizing<String>,
}

impl Answer {
    fn accepted(self, method: &'static str, path: &str) -> Result<Zeroizing<String>, AdminError> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        Err(AdminError::Refused {
            method,
            path: path.to_owned(),
            status: self.status,
            message: self.message(),
        })
    }

    fn message(&self) -> String {
        match self.status {
            300..400 => "a redirect: is the address the one Keycloak is reached at?".to_owned(),
            status => keycloak_words(status, &self.body),
        }
    }
}

fn parse(method: &'static str, path: &str, body: &str) -> Result<Value, AdminError> {
    serde_json::from_str(body).map_err(|_| AdminError::NotUnderstood {
        method,
        path: path.to_owned(),
        what: "no JSON; is this Keycloak?",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_server::TestServer;

    #[test]
    fn names_and_values_cannot_leave_their_place_in_an_address() {
        assert_eq!(segment("a/../b?c#d%"), "a%2F..%2Fb%3Fc%23d%25");
        assert_eq!(query("a&max=1 b+c"), "a%26max%3D1%20b%2Bc");
    }

    #[test]
    fn debug_output_and_errors_hold_no_password() {
        let credentials = Credentials {
            realm: "master".into(),
            client_id: "admin-cli".into(),
            username: "admin".into(),
            password: Zeroizing::new("hunter2-secret".into()),
        };
        // Port 9 of the loopback address: discard, which nothing listens on here.
        let error =
            KeycloakAdmin::sign_in("http://127.0.0.1:9", "demo", credentials, None).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hunter2-secret"));
        assert!(
            format!("{error}").contains("check --keycloak-url"),
            "{error}"
        );
    }

    #[test]
    fn an_error_names_the_proxy_that_the_call_went_by() {
        let proxy = TestServer::start(|_| (502, String::new()));
        let at = proxy.url().replace("http://", "http://user:hunter2@");
        let variable = |name: &str| (name == "all_proxy").then(|| at.clone());
        let credentials = Credentials {
            realm: "master".into(),
            client_id: "admin-cli".into(),
            username: "admin".into(),
            password: Zeroizing::default(),
        };
        let url = "http://id.example.com";
        let error =
            KeycloakAdmin::sign_in_from(url, "demo", credentials, None, variable).unwrap_err();
        let told = format!("{error} {error:?}");
        let named = format!("the proxy {} of all_proxy", proxy.url());
        assert!(told.contains(&named) && !told.contains("hunter2"), "{told}");
    }
}
