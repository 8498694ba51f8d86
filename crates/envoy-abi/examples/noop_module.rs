//! A module that is called for each request and does nothing: the fixed cost of a module. `make bench`
//! measures the filter's module against it (`scripts/build-module.sh --noop`).
//!
//! Its configuration may be a number of bytes. The filter then makes the calls to Envoy of an exchange
//! from the cache, and does nothing between them: it asks for the route's configuration, reads the
//! headers, sets `authorization` to a value of that length, and reads the response's status.

use std::hint::black_box;
use std::sync::Arc;

use envoy_abi::{Answer, Filter, Loading, Module, Outside, Reply, Step, Stream};

envoy_abi::http_module!(Noop);

/// The value to set; none for no calls.
struct Noop(Option<Arc<str>>);

struct Request(Option<Arc<str>>);

impl Module for Noop {
    type Filter = Request;
    type RouteConfig = ();

    fn load(text: &[u8], _: &mut Loading<'_>) -> Result<Self, String> {
        let length = std::str::from_utf8(text).unwrap_or_default().parse().ok();
        Ok(Self(length.map(|length| "x".repeat(length).into())))
    }

    fn load_route(_: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn filter(&self) -> Request {
        Request(self.0.clone())
    }

    fn on_wake(&self, _: &Outside<'_>) {}

    fn on_answer(&self, _: u64, _: Option<Answer<'_>>) {}

    fn on_end(&self) {}

    fn panicked() -> Reply {
        Reply::default()
    }
}

impl Filter for Request {
    type Module = Noop;

    fn on_request_headers(&mut self, stream: &mut Stream<'_, Noop>, _: bool) -> Step {
        if let Some(value) = &self.0 {
            let _ = black_box(stream.route_config());
            let _ = black_box(stream.request_headers());
            let _ = black_box(stream.set_header("authorization", value));
        }
        Step::Continue
    }

    fn on_request_body(&mut self, _: &[&[u8]], _: bool) -> Step {
        Step::Continue
    }

    fn on_wake(&mut self, _: &mut Stream<'_, Noop>) -> Step {
        Step::Continue
    }

    fn on_response_headers(&mut self, stream: &Stream<'_, Noop>) {
        if self.0.is_some() {
            let _ = black_box(stream.response_status());
        }
    }
}
