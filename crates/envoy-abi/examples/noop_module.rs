//! A module that is called for each request and does nothing: the fixed cost of a module. `make bench`
//! measures the filter's module against it (`scripts/build-module.sh --noop`).
//!
//! Its configuration may be a number of bytes. The filter then makes the calls to Envoy of an exchange
//! from the cache, and does nothing between them: it reads the headers, sets `authorization` to a value of
//! that length, and reads the response's status. With `metadata` behind the number it also sets the two
//! texts of dynamic metadata.

use std::hint::black_box;
use std::sync::Arc;

use envoy_abi::{Answer, Filter, Loading, Module, Outside, Reply, Step, Stream};

envoy_abi::http_module!(Noop);

/// A configuration; none for no calls.
struct Noop(Option<Calls>);

/// The calls to make.
#[derive(Clone)]
struct Calls {
    value: Arc<str>,
    sets_metadata: bool,
}

struct Request(Option<Calls>);

impl Module for Noop {
    type Filter = Request;
    type RouteConfig = ();

    fn load(text: &[u8], _: &mut Loading<'_>) -> Result<Self, String> {
        let text = String::from_utf8_lossy(text);
        let mut words = text.split_whitespace();
        let length = words.next().and_then(|word| word.parse().ok());
        let sets_metadata = words.next() == Some("metadata");
        Ok(Self(length.map(|length| Calls {
            value: "x".repeat(length).into(),
            sets_metadata,
        })))
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
        Reply {
            status: 500,
            headers: Vec::new(),
            body: Vec::new(),
            details: "panicked".to_owned(),
        }
    }
}

impl Filter for Request {
    type Module = Noop;

    fn on_request_headers(&mut self, stream: &mut Stream<'_, Noop>, _: bool) -> Step {
        if let Some(calls) = &self.0 {
            let _ = black_box(stream.route_config());
            let _ = black_box(stream.request_headers());
            let _ = black_box(stream.set_header("authorization", &calls.value));
            if calls.sets_metadata {
                stream.set_metadata("noop", "key_id", "123456789abc");
                stream.set_metadata("noop", "owner_id", "01234567-0123-0123-0123-0123456789ab");
            }
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
