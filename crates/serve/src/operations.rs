//! Health and metrics for the operators of the service.

use std::convert::Infallible;
use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode};
use hyper::body::Incoming;

use crate::listen::Body;
use crate::service::Service;

/// Answers probes and Prometheus.
pub(crate) async fn answer(
    service: Arc<Service>,
    asked: http::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (status, body) = match asked.uri().path() {
        "/livez" => (StatusCode::OK, "alive\n".to_owned()),
        "/readyz" if service.is_ready() => (StatusCode::OK, "ready\n".to_owned()),
        "/readyz" => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: the self-check has not passed yet; the log has the reason\n".to_owned(),
        ),
        "/metrics" => (StatusCode::OK, service.metrics()),
        _ => (
            StatusCode::NOT_FOUND,
            "not found; the paths are /livez, /readyz and /metrics\n".to_owned(),
        ),
    };
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert("content-type", text);
    Ok(answer)
}
