//! A filter that is called for each request and does nothing: what a Wasm filter costs
//! before it does anything. `make bench` measures ours against it.
//!
//! Its configuration may be a number: then it makes the calls to the host that an exchange
//! out of the cache makes, and nothing between them: it reads the headers and the time,
//! sets `authorization` to a value of so many bytes, and reads the response's status. What
//! that costs, no filter of ours can save.

use std::hint::black_box;
use std::rc::Rc;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, MapType};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root { value: None }));
}}

struct Root {
    value: Option<Rc<str>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, bytes: usize) -> bool {
        let given = hostcalls::get_buffer(BufferType::PluginConfiguration, 0, bytes);
        let given = given.ok().flatten().unwrap_or_default();
        let length = std::str::from_utf8(&given).ok();
        let length = length.and_then(|text| text.trim().parse::<usize>().ok());
        self.value = length.map(|length| "x".repeat(length).into());
        true
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        let value = self.value.clone();
        Some(Box::new(Request { value }))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Request {
    value: Option<Rc<str>>,
}

impl Context for Request {}

impl HttpContext for Request {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        if let Some(value) = &self.value {
            let headers = MapType::HttpRequestHeaders;
            let _ = black_box(hostcalls::get_map_bytes(headers));
            let _ = black_box(hostcalls::get_current_time());
            let _ = black_box(hostcalls::set_map_value(
                headers,
                "authorization",
                Some(value),
            ));
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _: usize, _: bool) -> Action {
        if self.value.is_some() {
            let headers = MapType::HttpResponseHeaders;
            let _ = black_box(hostcalls::get_map_value_bytes(headers, ":status"));
        }
        Action::Continue
    }
}
