//! A client's request, as it is sent and as it leaves the gateway.

use apikeys_core::exchange::{Pass, Source};
use apikeys_core::rejection::Rejection;

use super::keys;

pub type Headers = Vec<(String, Vec<u8>)>;

/// The credentials that a client presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// The key of this number, with any holder or none.
    Key(usize),
    /// Its id with another secret.
    WrongSecret(usize, u64),
    /// A well-formed key that nobody has.
    Unknown(u64),
    /// A text that looks like a key and is none.
    Malformed,
    /// A token of another origin.
    Bearer,
    /// Two keys at once.
    Two(usize, usize),
    /// A key where one belongs, and another in a cookie.
    AndAnother(usize, usize),
    /// Nothing.
    Nothing,
    /// No key where one belongs, and a key in a cookie.
    InCookieAlone(usize),
}

/// In which header a key is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    ApiKey,
    Bearer,
    XApiKey,
    /// In `X-API-Key`, and once more where no key belongs.
    AndCookie,
}

impl Form {
    pub const ALL: [Self; 4] = [Self::ApiKey, Self::Bearer, Self::XApiKey, Self::AndCookie];
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// An address of its own, by the number of the request.
    Own(u64),
    /// An address of many requests.
    Shared(u8),
    /// The host does not say.
    Untold,
}

impl Address {
    /// As a host gives it.
    pub fn text(self) -> Option<Vec<u8>> {
        let text = match self {
            Self::Own(number) => {
                format!("[2001:db8:{:x}:{:x}::1]:443", number >> 16, number & 0xffff)
            }
            Self::Shared(number) => format!("192.0.2.{number}:40000"),
            Self::Untold => return None,
        };
        Some(text.into_bytes())
    }
}

/// A request, and where it goes.
#[derive(Debug, Clone)]
pub struct Request {
    pub id: u64,
    pub node: usize,
    pub worker: usize,
    pub route: usize,
    pub credential: Credential,
    pub form: Form,
    pub from: Address,
    /// The client hangs up so many milliseconds after it sent it.
    pub hangs_up_after: Option<u64>,
}

impl Request {
    /// The key that it presents, if it is one well-formed key.
    pub fn key(&self) -> Option<String> {
        match self.credential {
            Credential::Key(number) => Some(keys::ALL[number].text.clone()),
            Credential::WrongSecret(number, other) => Some(keys::with_secret(number, other)),
            Credential::Unknown(number) => Some(keys::unknown(number)),
            _ => None,
        }
    }

    pub fn headers(&self) -> Headers {
        let mut headers: Headers = Vec::new();
        let mut add = |name: &str, value: String| headers.push((name.into(), value.into_bytes()));
        add(":method", "GET".into());
        add(":path", "/orders".into());
        add("accept", "*/*".into());
        if let Some(key) = self.key() {
            match self.form {
                Form::ApiKey => add("authorization", format!("ApiKey {key}")),
                Form::Bearer => add("authorization", format!("Bearer {key}")),
                Form::XApiKey => add("x-api-key", key),
                Form::AndCookie => {
                    add("x-api-key", key.clone());
                    add("cookie", format!("a=1; key={key}; b=2"));
                }
            }
        }
        match self.credential {
            Credential::Malformed => add("authorization", "ApiKey sk_live_short".into()),
            Credential::Bearer => add("authorization", "Bearer an.other.token".into()),
            Credential::Two(one, other) => {
                add("authorization", format!("ApiKey {}", keys::ALL[one].text));
                add("x-api-key", keys::ALL[other].text.clone());
            }
            Credential::AndAnother(one, other) => {
                add("x-api-key", keys::ALL[one].text.clone());
                add("cookie", format!("key={}", keys::ALL[other].text));
            }
            Credential::InCookieAlone(number) => {
                add("cookie", format!("key={}", keys::ALL[number].text));
            }
            _ => {}
        }
        headers
    }
}

/// How a request ended.
#[derive(Debug, Clone)]
pub enum End {
    /// It goes on to the service with these headers.
    Forwarded {
        headers: Headers,
        source: Source,
    },
    Passed {
        headers: Headers,
        why: Pass,
    },
    Rejected {
        rejection: Rejection,
        reason: String,
    },
}

impl End {
    /// The headers that the service sees, if it sees the request.
    pub fn upstream(&self) -> Option<&Headers> {
        match self {
            Self::Forwarded { headers, .. } | Self::Passed { headers, .. } => Some(headers),
            Self::Rejected { .. } => None,
        }
    }

    /// The token that it goes on with.
    pub fn token(&self) -> Option<&str> {
        let Self::Forwarded { headers, .. } = self else {
            return None;
        };
        let mut values = headers.iter().filter(|(name, _)| name == "authorization");
        let value = std::str::from_utf8(&values.next()?.1).ok()?;
        value.strip_prefix("Bearer ")
    }
}
