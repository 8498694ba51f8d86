//! The first steps of a request: its operation, and the caller's right to ask for it.
//!
//! A refusal comes as early as it can: by the head alone (the claims of the caller's token
//! among it) before the body is read, and by the body before the realm's keys are fetched or a
//! signature is verified.

use zeroize::Zeroizing;

use super::body::{self, BODY_BYTES_MAX};
use super::problem::{Code, Problem};
use super::router::{self, Operation};
use super::steps::WAIT_MS_MIN;
use super::{
    Answer, Asked, BODY_MS_MAX, End, Head, Manage, ManageEnv, Output, REQUEST_MS_MAX, RequestHead,
    State, Step, Task, management,
};
use crate::config::{Config, Management};
use crate::exchange::credentials::{HEADERS_MAX, Headers};
use crate::keycloak::caller_token::{self, CallerError, Expected};
use crate::machine::Deadline;
use crate::rejection::Rejection;

impl Manage {
    pub(super) fn start(&mut self, head: RequestHead<'_>, env: &mut ManageEnv<'_, '_>) -> Step {
        let RequestHead {
            method,
            path,
            headers,
            body_follows,
        } = head;
        if headers.len() > HEADERS_MAX {
            let problem = Problem::too_many_headers();
            return Err(End::new(problem, "more headers than can be looked through"));
        }
        let config = std::sync::Arc::clone(&env.exchange.worker.config);
        let origin = one(headers, "origin")?;
        let allowed = &management(&config)?.cors_origins;
        self.cors = origin
            .filter(|origin| allowed.iter().any(|known| known == origin))
            .map(str::to_owned);
        let (operation, query) =
            router::route(method, path).map_err(|problem| End::new(problem, "no such request"))?;
        self.report.operation = operation.name();
        let mut ids = operation.key_id().into_iter().chain(query.after.as_deref());
        if ids.any(|id| config.key_format.has_prefix(id.as_bytes())) {
            let problem = Problem::new(
                Code::InvalidRequest,
                "A key stands where the id of one belongs. What stands in a path is logged on its \
                 way: rotate the key.",
            );
            return Err(End::new(problem, "a key in the place of its id"));
        }
        let respond = |answer| Ok((State::Over, Output::Respond(answer)));
        match operation {
            Operation::OpenApi => return respond(Answer::openapi()),
            Operation::Preflight(methods) if self.cors.is_some() => {
                return respond(Answer::preflight(methods));
            }
            Operation::Preflight(methods) if allowed.is_empty() => {
                let problem = Code::MethodNotAllowed(methods);
                return Err(End::new(problem, "CORS is off"));
            }
            Operation::Preflight(_) => {
                return Err(End::new(
                    Code::Forbidden,
                    "another origin than cors_origins",
                ));
            }
            _ => {}
        }
        let expects_body =
            operation.takes_a_body() && expects_body(headers, &operation, body_follows)?;
        let token = if operation == Operation::Validate {
            Zeroizing::default()
        } else {
            bearer(headers, &config, env)?
        };
        let head = Head {
            operation,
            query,
            token,
        };
        if expects_body {
            let output = Output::ReadBody {
                timeout_ms: BODY_MS_MAX,
            };
            return Ok((State::ReadingBody(Box::new(head)), output));
        }
        self.with_body(head, Some(&[]), env)
    }

    /// The body has come, or there is none: reads it, and goes on to the caller.
    pub(super) fn with_body(
        &mut self,
        head: Head,
        body: Option<&[u8]>,
        env: &mut ManageEnv<'_, '_>,
    ) -> Step {
        let refused = |problem: Problem| {
            let reason = problem.detail.clone();
            End::new(problem, reason)
        };
        let body = body.ok_or_else(too_large)?;
        if body.len() > BODY_BYTES_MAX {
            return Err(too_large());
        }
        let asked = match head.operation {
            Operation::Validate => {
                let body = body::read_validate(body).map_err(refused)?;
                return self.start_exchange(&body, env);
            }
            Operation::Create => Asked::Create(body::read_create(body).map_err(refused)?),
            Operation::Rotate(id) => Asked::Rotate(id, body::read_rotate(body).map_err(refused)?),
            Operation::List => Asked::List,
            Operation::Show(id) => Asked::Show(id),
            Operation::Revoke(id) => Asked::Revoke(id),
            Operation::RevokeAll => Asked::RevokeAll,
            Operation::OpenApi | Operation::Preflight(_) => {
                return Err(End::unavailable("an answer that was not given"));
            }
        };
        let Some(id) = env.exchange.worker.admit() else {
            let problem = Code::Exchange(Rejection::Overloaded);
            return Err(End::new(problem, "too many requests wait"));
        };
        self.task = Some(Task {
            query: head.query,
            token: head.token,
            asked,
            caller: None,
            bearer: "".into(),
            id,
            ticket: env.exchange.gate.ticket(),
            deadline: Deadline::after_ms(REQUEST_MS_MAX, env.exchange.now),
            ready_at: None,
            retried: false,
            undoing: false,
            wait_ms: WAIT_MS_MIN,
        });
        self.verify_caller(None, env)
    }
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
    if kind.eq_ignore_ascii_case("application/json") {
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
fn bearer(
    headers: &Headers,
    config: &Config,
    env: &ManageEnv<'_, '_>,
) -> Result<Zeroizing<String>, End> {
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
    caller_token::check_claims(&expected, token, env.exchange.now).map_err(not_taken)?;
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
