//! A filter that is called for each request and does nothing: the fixed cost of a Wasm
//! filter. `make bench` measures ours against it.
//!
//! Its configuration may be a number of bytes. The filter then makes the host calls of an
//! exchange from the cache, and does nothing between them: it reads the headers and the
//! time, sets `authorization` to a value of that length, and reads the response's status.
//! With `shared` behind the number it also reads that many bytes of shared data, as an
//! exchange from shared data does. No filter of ours can cost less.

use std::hint::black_box;
use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, MapType};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root { calls: None }));
}}

/// The shared entry, under a name as long as ours are.
const SHARED: &str = "no:0000";

struct Root {
    calls: Option<Calls>,
}

/// The calls to make.
#[derive(Clone)]
struct Calls {
    value: Rc<str>,
    reads_shared: bool,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, bytes: usize) -> bool {
        let given = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, bytes);
        let given = given.ok().flatten().unwrap_or_default();
        let given = std::str::from_utf8(&given).unwrap_or_default();
        let mut words = given.split_whitespace();
        let length = words.next().and_then(|word| word.parse::<usize>().ok());
        let reads_shared = words.next() == Some("shared");
        self.calls = length.map(|length| Calls {
            value: "x".repeat(length).into(),
            reads_shared,
        });
        if let Some(calls) = &self.calls
            && calls.reads_shared
        {
            let shared = Some(calls.value.as_bytes());
            let _ = hostcalls::set_shared_data(SHARED, shared, None);
        }
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        let calls = self.calls.clone();
        Some(Box::new(Request { calls }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Request {
    calls: Option<Calls>,
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        if let Some(calls) = &self.calls {
            let headers = MapType::HttpRequestHeaders;
            let _ = black_box(hostcalls::get_map_bytes(headers));
            let _ = black_box(hostcalls::get_current_time());
            if calls.reads_shared {
                let _ = black_box(hostcalls::get_shared_data(SHARED));
            }
            let _ = black_box(hostcalls::set_map_value(
                headers,
                "authorization",
                Some(&calls.value),
            ));
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if self.calls.is_some() {
            let headers = MapType::HttpResponseHeaders;
            let _ = black_box(hostcalls::get_map_value_bytes(headers, ":status"));
        }
        Action::Continue
    }
}
