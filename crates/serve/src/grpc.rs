//! Envoy's external authorization over gRPC: `envoy.service.auth.v3.Authorization/Check`.
//!
//! The messages below hold only the fields that this module reads or writes. Their tags are those of
//! Envoy's `external_auth.proto`, `attribute_context.proto` and `base.proto` (API v3). A crate with all
//! messages compiles for over a minute.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use apikeys_core::exchange::credentials::AUTHORIZATION;
use apikeys_native::exchange::{Ended, Removal, Verdict, judge};
use apikeys_native::{Facts, Request, is_address};
use hyper::body::Incoming;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::request::{FORWARDED_FOR, forwarded_for};
use crate::service::{Outside, Route, Service};

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The name of an exchange among the route's `context_extensions`.
const EXCHANGE: &str = "exchange";

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<Attributes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attributes {
    #[prost(message, optional, tag = "1")]
    source: Option<Peer>,
    #[prost(message, optional, tag = "4")]
    request: Option<AttributesRequest>,
    #[prost(map = "string, string", tag = "10")]
    context_extensions: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Peer {
    #[prost(message, optional, tag = "1")]
    address: Option<Address>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Address {
    #[prost(message, optional, tag = "1")]
    socket_address: Option<SocketAddress>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SocketAddress {
    #[prost(string, tag = "2")]
    address: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AttributesRequest {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HttpRequest {
    #[prost(string, tag = "2")]
    method: String,
    /// Joins repeated headers by commas.
    #[prost(map = "string, string", tag = "3")]
    headers: HashMap<String, String>,
    /// Each header separately; set if Envoy's `encode_raw_headers` is on.
    #[prost(message, optional, tag = "13")]
    header_map: Option<HeaderMap>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderMap {
    #[prost(message, repeated, tag = "1")]
    headers: Vec<HeaderValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
    #[prost(bytes = "vec", tag = "3")]
    raw_value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RpcStatus>,
    #[prost(message, optional, tag = "2")]
    denied_response: Option<DeniedResponse>,
    #[prost(message, optional, tag = "3")]
    ok_response: Option<OkResponse>,
    #[prost(message, optional, tag = "4")]
    dynamic_metadata: Option<Struct>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeniedResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<HttpStatus>,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderValueOption>,
    #[prost(string, tag = "3")]
    body: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HttpStatus {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OkResponse {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderValueOption>,
    #[prost(string, repeated, tag = "5")]
    headers_to_remove: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    header: Option<HeaderValue>,
    /// 2 is `OVERWRITE_IF_EXISTS_OR_ADD`.
    #[prost(int32, tag = "3")]
    append_action: i32,
}

/// `google.protobuf.Struct` with string values only.
#[derive(Clone, PartialEq, prost::Message)]
struct Struct {
    #[prost(map = "string, message", tag = "1")]
    fields: HashMap<String, Text>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "3")]
    string_value: String,
}

/// Answers `Check` calls.
#[derive(Clone)]
pub(crate) struct Authorization {
    service: Arc<Service>,
}

impl Authorization {
    pub(crate) const fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    async fn check(&self, check: CheckRequest) -> Result<CheckResponse, Status> {
        let attributes = check.attributes.unwrap_or_default();
        let name = attributes.context_extensions.get(EXCHANGE);
        let Some(route) = self.service.exchange(name.map(String::as_str)) else {
            return Err(Status::invalid_argument(
                "context_extensions.exchange names no exchange of this service",
            ));
        };
        let request = read(attributes, self.service.trusted_hops);
        if request.facts.source.is_none() {
            route.has_no_address();
        }
        // Envoy removes each header that the answer names, but it may hold headers that it does not send.
        let ended = judge(route, &request, Removal::ListedUnseen).await;
        Ok(tell(route, &ended))
    }
}

impl UnaryService<CheckRequest> for Authorization {
    type Response = CheckResponse;
    type Future =
        Pin<Box<dyn Future<Output = Result<tonic::Response<CheckResponse>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let answer = service.check(request.into_inner()).await?;
            Ok(tonic::Response::new(answer))
        })
    }
}

impl hyper::service::Service<http::Request<Incoming>> for Authorization {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, asked: http::Request<Incoming>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if asked.uri().path() != PATH {
                return Ok(Status::new(Code::Unimplemented, "there is no such method").into_http());
            }
            let codec = ProstCodec::<CheckResponse, CheckRequest>::default();
            Ok(Grpc::new(codec).unary(service, asked).await)
        })
    }
}

/// The client's request, as Envoy describes it. `source` is the connection's address: Envoy's
/// `xff_num_trusted_hops` does not change it. So behind load balancers, Envoy's `X-Forwarded-For` counts.
fn read(attributes: Attributes, trusted_hops: usize) -> Request {
    let source = attributes.source.and_then(|peer| peer.address);
    let source = source.and_then(|address| address.socket_address);
    let http = attributes.request.and_then(|request| request.http);
    let http = http.unwrap_or_default();
    let mut headers: Vec<(String, Vec<u8>)> = match http.header_map {
        Some(map) => {
            let each = map.headers.into_iter().map(|header| {
                let value = match header.raw_value.is_empty() {
                    true => header.value.into_bytes(),
                    false => header.raw_value,
                };
                (header.key, value)
            });
            each.collect()
        }
        None => {
            let each = http.headers.into_iter();
            each.map(|(name, value)| (name, value.into_bytes()))
                .collect()
        }
    };
    headers.retain(|(name, _)| name != ":method");
    headers.push((":method".to_owned(), http.method.into_bytes()));
    let source = match trusted_hops {
        0 => source
            .map(|socket| socket.address)
            .filter(|text| is_address(text)),
        hops => {
            let forwarded = headers.iter().filter(|(name, _)| name == FORWARDED_FOR);
            forwarded_for(forwarded.map(|(_, value)| value.as_slice()), hops)
        }
    };
    Request {
        headers,
        facts: Facts {
            source,
            route: None,
        },
    }
}

/// The answer to Envoy.
fn tell(route: &Route, ended: &Ended<Outside>) -> CheckResponse {
    match &ended.verdict {
        Verdict::Exchanged {
            authorization,
            remove,
        } => {
            let mut headers = vec![header(AUTHORIZATION, authorization)];
            let identity = ended.identity();
            headers.extend(identity.iter().map(|(name, value)| header(name, value)));
            let text = |value: Option<&str>| Text {
                string_value: value.unwrap_or_default().to_owned(),
            };
            CheckResponse {
                status: Some(RpcStatus { code: 0 }),
                ok_response: Some(OkResponse {
                    headers,
                    headers_to_remove: remove.iter().map(ToString::to_string).collect(),
                }),
                dynamic_metadata: Some(Struct {
                    fields: HashMap::from([
                        ("key_id".to_owned(), text(ended.key_id())),
                        ("owner_id".to_owned(), text(ended.owner_id())),
                    ]),
                }),
                ..CheckResponse::default()
            }
        }
        Verdict::Passed { remove } => CheckResponse {
            status: Some(RpcStatus { code: 0 }),
            ok_response: Some(OkResponse {
                headers: Vec::new(),
                headers_to_remove: remove.iter().map(ToString::to_string).collect(),
            }),
            ..CheckResponse::default()
        },
        Verdict::Refused { rejection, body } => {
            let headers = rejection.headers(&route.config.realm.name);
            let headers = headers.iter().map(|(name, value)| header(name, value));
            CheckResponse {
                status: Some(RpcStatus {
                    code: Code::PermissionDenied as i32,
                }),
                denied_response: Some(DeniedResponse {
                    status: Some(HttpStatus {
                        code: i32::from(rejection.status()),
                    }),
                    headers: headers.collect(),
                    body: body.clone(),
                }),
                ..CheckResponse::default()
            }
        }
    }
}

/// A header that replaces all headers of its name.
fn header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        append_action: 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_address_is_the_connections_or_the_one_before_the_load_balancers() {
        let header = |name: &str, value: &str| HeaderValue {
            key: name.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        let forwarded = "203.0.113.9, 198.51.100.1, 127.0.0.1";
        let headers = vec![header(":path", "/"), header("x-forwarded-for", forwarded)];
        let socket = SocketAddress {
            address: "192.0.2.1".to_owned(),
        };
        let attributes = Attributes {
            source: Some(Peer {
                address: Some(Address {
                    socket_address: Some(socket),
                }),
            }),
            request: Some(AttributesRequest {
                http: Some(HttpRequest {
                    header_map: Some(HeaderMap { headers }),
                    ..HttpRequest::default()
                }),
            }),
            ..Attributes::default()
        };
        let source = |hops| read(attributes.clone(), hops).facts.source;
        assert_eq!(source(0).as_deref(), Some("192.0.2.1"));
        assert_eq!(source(1).as_deref(), Some("198.51.100.1"));
        assert_eq!(source(2).as_deref(), Some("203.0.113.9"));
        assert_eq!(source(3), None, "and not the connection's");
    }
}
