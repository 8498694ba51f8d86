//! Forward auth over HTTP: a gateway asks about each request before it forwards it.
//!
//! A 200 carries the headers to forward. The gateway sends any other answer to the client. For nginx
//! `auth_request`, Traefik `forwardAuth`, Caddy `forward_auth`, HAProxy, Kong's plugin and Envoy's
//! HTTP `ext_authz`.

use std::convert::Infallible;
use std::sync::Arc;

use apikeys_core::exchange::credentials::AUTHORIZATION;
use apikeys_core::rejection::Rejection;
use apikeys_native::exchange::{Ended, Verdict, begin};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use hyper::body::Incoming;

use crate::listen::Body;
use crate::request;
use crate::service::{Outside, Route, Service};

/// The prefix of all paths.
const PATH: &str = "/exchange";
/// Lists the headers to remove from the request. Envoy defines this name.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");
/// Repeats the answer's body, for gateways that can read only an answer's headers.
const PROBLEM: HeaderName = HeaderName::from_static("apikeys-problem");
/// The key's id and its owner's id, for the gateway only.
const KEY_ID: HeaderName = HeaderName::from_static("apikeys-key-id");
const OWNER_ID: HeaderName = HeaderName::from_static("apikeys-owner-id");

/// Answers a gateway.
pub(crate) async fn answer(
    service: Arc<Service>,
    asked: http::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    // Dropped last: a body that is dropped unread closes the connection.
    let (parts, _body) = asked.into_parts();
    let rest = parts.uri.path().strip_prefix(PATH);
    let Some(route) = rest.and_then(|rest| service.exchange_of_path(rest)) else {
        let mut answer = Response::new(Body::from("there is no such exchange\n"));
        *answer.status_mut() = StatusCode::NOT_FOUND;
        return Ok(answer);
    };
    let told = parts.headers.get("x-forwarded-method");
    let method = told.map_or(parts.method.as_str().as_bytes(), HeaderValue::as_bytes);
    let pairs = parts.headers.iter();
    let headers: Vec<(&str, &[u8])> = pairs
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .chain([(":method", method)])
        .collect();
    let facts = || {
        let facts = request::facts(&parts.headers, service.trusted_hops);
        if facts.source.is_none() {
            route.has_no_address();
        }
        facts
    };
    let begun = begin(route, &headers, service.removal, &facts);
    let ended = begun.ended().await;
    Ok(tell(route, &headers, &ended))
}

/// The answer to the gateway.
fn tell(route: &Route, headers: &[(&str, &[u8])], ended: &Ended<Outside>) -> Response<Body> {
    match &ended.verdict {
        Verdict::Exchanged {
            authorization,
            remove,
        } => {
            let mut answer = Response::new(Body::default());
            let mut set = |name: HeaderName, text: &str| {
                if let Ok(value) = HeaderValue::from_str(text) {
                    answer.headers_mut().insert(name, value);
                }
            };
            set(KEY_ID, ended.key_id().unwrap_or_default());
            set(OWNER_ID, ended.owner_id().unwrap_or_default());
            for (name, value) in ended.identity() {
                set(HeaderName::from_static(name), &value);
            }
            set(TO_REMOVE, &remove.join(","));
            match HeaderValue::from_str(authorization) {
                Ok(mut value) => {
                    value.set_sensitive(true);
                    answer.headers_mut().insert(AUTHORIZATION, value);
                    answer
                }
                // Unreachable: no token has a byte that a header cannot hold.
                Err(_) => refuse(route, Rejection::IdentityProviderUnavailable, String::new()),
            }
        }
        Verdict::Passed { remove } => {
            let mut answer = Response::new(Body::default());
            let read = route.config.headers.iter().map(String::as_str);
            let names = read.filter(|name| *name != AUTHORIZATION);
            for wanted in [AUTHORIZATION].into_iter().chain(names) {
                for (name, value) in headers {
                    let pair = (HeaderName::try_from(wanted), HeaderValue::from_bytes(value));
                    if let (true, (Ok(name), Ok(value))) = (*name == wanted, pair) {
                        answer.headers_mut().append(name, value);
                    }
                }
            }
            if let Ok(names) = HeaderValue::from_str(&remove.join(",")) {
                answer.headers_mut().insert(TO_REMOVE, names);
            }
            answer
        }
        Verdict::Refused { rejection, body } => refuse(route, *rejection, body.clone()),
    }
}

fn refuse(route: &Route, rejection: Rejection, body: String) -> Response<Body> {
    let problem = HeaderValue::from_str(&body);
    let mut answer = Response::new(Body::from(Bytes::from(body)));
    *answer.status_mut() =
        StatusCode::from_u16(rejection.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    for (name, value) in rejection.headers(&route.config.realm.name) {
        if let Ok(value) = HeaderValue::from_str(&value) {
            answer.headers_mut().insert(name, value);
        }
    }
    if let Ok(problem) = problem {
        answer.headers_mut().insert(PROBLEM, problem);
    }
    answer
}
