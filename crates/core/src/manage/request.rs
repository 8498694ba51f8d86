//! A request by its head and body alone: its operation, and the caller's right to ask for it.
//!
//! A refusal comes as early as it can: by the head alone (the claims of the caller's token
//! among it) before the body is read, and by the body before the realm's keys are fetched or a
//! signature is verified.

use zeroize::Zeroizing;

use super::body::{self, BODY_BYTES_MAX, CreateBody, RotateBody, ValidateBody};
use super::end::End;
use super::owner_keys::Setting;
use super::problem::{Code, Problem};
use super::router::{self, Operation, Query};
use crate::clock::UnixMillis;
use crate::config::{Config, Management};
use crate::exchange::credentials::{HEADERS_MAX, Headers};
use crate::keycloak::caller_token::{self, CallerError, Expected};

/// The head of a request.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Its headers.
    pub headers: &'a Headers,
    /// Whether a body comes.
    pub body_follows: bool,
}

impl std::fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Path and headers may hold keys.
        write!(f, "RequestHead({})", self.method)
    }
}

/// The contents of a request's head.
pub(super) struct Head {
    pub(super) operation: Operation,
    pub(super) query: Query,
    /// The caller's token; empty where none is needed.
    pub(super) token: Zeroizing<String>,
}

/// The operation and its arguments.
#[derive(Debug)]
pub(super) enum Asked {
    List,
    Show(String),
    Update(String, Vec<Setting>),
    Revoke(String),
    RevokeAll,
    Create(CreateBody),
    Rotate(String, RotateBody),
}

/// The origin of a page that may read the answer.
pub(super) fn read_origin(head: &RequestHead<'_>, config: &Config) -> Result<Option<String>, End> {
    if head.headers.len() > HEADERS_MAX {
        let problem = Problem::too_many_headers();
        return Err(End::new(problem, "more headers than can be looked through"));
    }
    let origin = one(head.headers, "origin")?;
    let allowed = &management(config)?.cors_origins;
    Ok(origin
        .filter(|origin| allowed.iter().any(|known| known == origin))
        .map(str::to_owned))
}

/// The operation that the path names.
pub(super) fn route(head: &RequestHead<'_>) -> Result<(Operation, Query), End> {
    router::route(head.method, head.path).map_err(|problem| End::new(problem, "no such request"))
}

/// Refuses a path with a key in the place of its id.
pub(super) fn refuse_key_in_path(
    operation: &Operation,
    query: &Query,
    config: &Config,
) -> Result<(), End> {
    let mut ids = operation.key_id().into_iter().chain(query.after.as_deref());
    if ids.any(|id| config.key_format.has_prefix(id.as_bytes())) {
        let problem = Problem::new(
            Code::InvalidRequest,
            "A key stands where the id of one belongs. What stands in a path is logged on its \
             way: rotate the key.",
        );
        return Err(End::new(problem, "a key in the place of its id"));
    }
    Ok(())
}

/// Refuses a preflight from another origin than those that are allowed.
pub(super) fn check_preflight(
    methods: &'static str,
    origin: Option<&str>,
    config: &Config,
) -> Result<(), End> {
    if origin.is_some() {
        return Ok(());
    }
    if management(config)?.cors_origins.is_empty() {
        let problem = Code::MethodNotAllowed(methods);
        return Err(End::new(problem, "CORS is off"));
    }
    Err(End::new(
        Code::Forbidden,
        "another origin than cors_origins",
    ))
}

/// Reads the rest of the head; the flag says whether a body comes that must be waited for.
pub(super) fn read_head(
    head: &RequestHead<'_>,
    (operation, query): (Operation, Query),
    config: &Config,
    now: UnixMillis,
) -> Result<(Head, bool), End> {
    let expects_body =
        operation.takes_a_body() && expects_body(head.headers, &operation, head.body_follows)?;
    let token = if operation == Operation::Validate {
        Zeroizing::default()
    } else {
        bearer(head.headers, config, now)?
    };
    let head = Head {
        operation,
        query,
        token,
    };
    Ok((head, expects_body))
}

/// The whole body, within bounds.
pub(super) fn bounded(body: Option<&[u8]>) -> Result<&[u8], End> {
    let body = body.ok_or_else(too_large)?;
    if body.len() > BODY_BYTES_MAX {
        return Err(too_large());
    }
    Ok(body)
}

/// The body of [`Operation::Validate`].
pub(super) fn read_validate(body: &[u8]) -> Result<ValidateBody, End> {
    body::read_validate(body).map_err(refused)
}

/// The operation of a caller, with its arguments.
pub(super) fn read_asked(operation: Operation, body: &[u8]) -> Result<Asked, End> {
    Ok(match operation {
        Operation::Create => Asked::Create(body::read_create(body).map_err(refused)?),
        Operation::Rotate(id) => Asked::Rotate(id, body::read_rotate(body).map_err(refused)?),
        Operation::List => Asked::List,
        Operation::Show(id) => Asked::Show(id),
        Operation::Update(id) => Asked::Update(id, body::read_update(body).map_err(refused)?),
        Operation::Revoke(id) => Asked::Revoke(id),
        Operation::RevokeAll => Asked::RevokeAll,
        Operation::Validate | Operation::OpenApi | Operation::Preflight(_) => {
            return Err(End::unavailable("an answer that was not given"));
        }
    })
}

fn refused(problem: Problem) -> End {
    let reason = problem.detail.clone();
    End::new(problem, reason)
}

/// The one value of a header, as text; none if it is not there.
fn one<'a>(headers: &'a Headers, name: &str) -> Result<Option<&'a str>, End> {
    let mut values = headers
        .iter()
        .filter(|(found, _)| found.eq_ignore_ascii_case(name));
    let value = values.next();
    if values.next().is_some() {
        let problem = Problem::new(
            Code::InvalidRequest,
            format!("The header {name} is there twice."),
        );
        return Err(End::new(problem, format!("header {name} twice")));
    }
    let Some((_, value)) = value else {
        return Ok(None);
    };
    match std::str::from_utf8(value) {
        Ok(value) => Ok(Some(value)),
        Err(_) => {
            let problem = Problem::new(
                Code::InvalidRequest,
                format!("The header {name} is no text."),
            );
            Err(End::new(problem, format!("header {name} is no text")))
        }
    }
}

/// Whether a body comes that must be waited for, as the head has it.
///
/// On Kong an empty request of unknown length does not reach the filter, and over HTTP/2
/// nothing tells a request of unknown length from one without a body. So the length is
/// required, and a content type alone means that a body may come.
fn expects_body(headers: &Headers, operation: &Operation, body_follows: bool) -> Result<bool, End> {
    let kind = one(headers, "content-type")?;
    let length = match one(headers, "content-length")? {
        None if body_follows || kind.is_some() => {
            let problem = Problem::new(
                Code::LengthRequired,
                "Send the body with a Content-Length, not in chunks.",
            );
            return Err(End::new(problem, "no content-length"));
        }
        None => 0,
        Some(length) => whole_number(length)?,
    };
    if length > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let is_empty = !body_follows || length == 0;
    // A rotation needs no body.
    if is_empty && matches!(operation, Operation::Rotate(_)) {
        return Ok(false);
    }
    let kind = kind.unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_patch = matches!(operation, Operation::Update(_));
    if kind.eq_ignore_ascii_case("application/json")
        || is_patch && kind.eq_ignore_ascii_case("application/merge-patch+json")
    {
        Ok(!is_empty)
    } else {
        let problem = Problem::new(
            Code::UnsupportedMediaType,
            "Send the body with Content-Type: application/json.",
        );
        Err(End::new(problem, "content-type is not application/json"))
    }
}

/// A length: digits alone (RFC 9110, 8.6).
fn whole_number(length: &str) -> Result<u64, End> {
    let digits = length.bytes().all(|b| b.is_ascii_digit());
    length.parse().ok().filter(|_| digits).ok_or_else(|| {
        let problem = Problem::new(Code::InvalidRequest, "content-length is no number.");
        End::new(problem, "content-length is no number")
    })
}

fn too_large() -> End {
    let problem = Problem::new(Code::PayloadTooLarge, "A body has at most 16384 bytes.");
    End::new(
        problem,
        "the body is too large, or the host's buffer too small",
    )
}

/// The caller's token, judged by all but its signature.
fn bearer(headers: &Headers, config: &Config, now: UnixMillis) -> Result<Zeroizing<String>, End> {
    let Some(value) = one(headers, "authorization")? else {
        let problem = Problem::new(
            Code::MissingCredentials,
            "Send Authorization: Bearer with an access token of the realm.",
        );
        return Err(End::new(problem, "no credentials"));
    };
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    let token = token.trim();
    if scheme.eq_ignore_ascii_case("apikey") || config.key_format.has_prefix(token.as_bytes()) {
        let problem = Problem::new(
            Code::InvalidToken,
            "An API key manages no keys: sign in, and send the access token.",
        );
        return Err(End::new(problem, "an API key in a token's place"));
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        let problem = Problem::new(Code::InvalidToken, "The scheme is not Bearer.");
        return Err(End::new(problem, "another scheme than Bearer"));
    }
    let management = management(config)?;
    let clients = [config.client_id.as_str(), &management.client_id];
    let expected = expected(config, management, &clients);
    caller_token::check_claims(&expected, token, now).map_err(not_taken)?;
    Ok(Zeroizing::new(token.to_owned()))
}

/// The claims that a caller's token must have. `clients` are the gateway's own.
pub(super) fn expected<'a>(
    config: &'a Config,
    management: &'a Management,
    clients: &'a [&'a str],
) -> Expected<'a> {
    Expected {
        issuer: &config.realm.issuer,
        audience: Some(&management.audience),
        refused_clients: clients,
        clock_skew_ms: config.clock_skew_ms,
    }
}

/// The end for a token that is not accepted. The log alone tells the reason, except for reasons
/// that the token's holder can act on.
pub(super) fn not_taken(error: CallerError) -> End {
    let detail = match error {
        CallerError::Expired => "The token has expired.",
        CallerError::FromApiKey => {
            "The token was made from an API key, and a key manages no keys: sign in, and send \
             the access token."
        }
        CallerError::FromToken => {
            "The token was made from another token, which may be an API key's, and a key manages \
             no keys: sign in, and send the access token."
        }
        CallerError::NotAccessToken => "This is no access token.",
        CallerError::Audience => "The token is not meant for the management of keys (aud).",
        _ => "",
    };
    let problem = Problem::new(Code::InvalidToken, detail);
    End::new(problem, format!("the caller's token: {error}"))
}

/// The configuration of mode `manage`; a filter of the other mode never comes here.
pub(super) fn management(config: &Config) -> Result<&Management, End> {
    let management = config.management.as_ref();
    management.ok_or_else(|| End::unavailable("mode is not manage"))
}
