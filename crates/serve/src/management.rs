//! The management API over HTTP.

use std::convert::Infallible;
use std::sync::Arc;

use apikeys_core::manage::body::BODY_BYTES_MAX;
use apikeys_native::management;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use zeroize::Zeroizing;

use crate::listen::Body;
use crate::request;
use crate::service::Route;

/// Answers a client. `trusted_hops`: see [`request::forwarded_for`].
pub(crate) async fn answer(
    route: Arc<Route>,
    trusted_hops: usize,
    asked: http::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = asked.into_parts();
    let request = request::read(&parts.headers, trusted_hops);
    let path = parts.uri.path_and_query();
    let path = path.map_or("/", |path| path.as_str());
    let body = (!body.is_end_stream()).then_some(body).map(|body| async {
        let read = Limited::new(body, BODY_BYTES_MAX).collect().await.ok()?;
        // The body may hold a key.
        Some(Zeroizing::new(read.to_bytes().to_vec()))
    });
    let answered = management::answer(route, &request, parts.method.as_str(), path, body).await;
    let mut answer = Response::new(Body::from(Bytes::copy_from_slice(&answered.body)));
    let status = StatusCode::from_u16(answered.status);
    *answer.status_mut() = status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    for (name, value) in &answered.headers {
        let name = HeaderName::try_from(*name);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            answer.headers_mut().append(name, value);
        }
    }
    Ok(answer)
}
