//! Safe bindings for the part of Envoy's dynamic module interface that the module uses, for Envoy 1.38
//! to 1.40.
//!
//! A module implements [`Module`] and [`Filter`], and [`http_module!`](crate::http_module) exports the
//! hooks that Envoy calls. Who owns which memory, and for how long:
//!
//! - Bytes of Envoy live until the hook ends, or until the hook changes headers. A [`Stream`] lends them for
//!   as long as it is not changed.
//! - The module's objects belong to Envoy between `…_new` and `…_destroy`. Hooks borrow them.
//! - An answer to a client, or letting a request go on, can end the stream at once. So a hook returns a
//!   [`Step`], and this crate performs it last, when nothing is borrowed any more.
//! - A [`Waker`] may be used by any thread at any time. It does nothing once its stream or
//!   configuration is gone.
//! - A panic ends at the border: the request is refused. The module has to be built with unwinding.

mod config;
#[doc(hidden)]
pub mod hooks;
mod raw;
mod stream;
mod waker;

pub use config::{Answer, Loading, MetricId, Outside, SecretId};
pub use stream::Stream;
pub use waker::Waker;

/// A filter's configuration. Envoy loads it on its main thread, and all worker threads use it.
pub trait Module: Send + Sync + Sized + 'static {
    /// The filter of one stream.
    type Filter: Filter<Module = Self>;
    /// A configuration that a route has instead.
    type RouteConfig: Send + Sync + 'static;

    /// Loads a configuration.
    ///
    /// # Errors
    /// The fault, for the log. Envoy refuses the configuration.
    fn load(text: &[u8], loading: &mut Loading<'_>) -> Result<Self, String>;

    /// Loads the configuration of a route.
    ///
    /// # Errors
    /// The fault, for the log. Envoy refuses the configuration.
    fn load_route(text: &[u8]) -> Result<Self::RouteConfig, String>;

    /// A filter for a new stream, on its worker thread.
    fn filter(&self) -> Self::Filter;

    /// The configuration's [`Waker`] was used. Runs on the main thread.
    fn on_wake(&self, outside: &Outside<'_>);

    /// The answer to a call came, or none. Runs on the main thread.
    fn on_answer(&self, call: u64, answer: Option<Answer<'_>>);

    /// The configuration ends: no filter is made any more. On a worker thread, where the last stream of a
    /// listener may end it, the calls under way are still answered, on the main thread.
    fn on_end(&self);

    /// The answer to a request whose hook panicked.
    fn panicked() -> Reply;
}

/// The filter of one stream. All its hooks run on the stream's worker thread, one at a time.
pub trait Filter: 'static {
    /// The module that makes it.
    type Module: Module;

    /// The request's headers came. `ends`: it has no body.
    fn on_request_headers(&mut self, stream: &mut Stream<'_, Self::Module>, ends: bool) -> Step;

    /// A part of the body came, after [`Step::ReadBody`]. `ends`: it is the last.
    fn on_request_body(&mut self, part: &[&[u8]], ends: bool) -> Step;

    /// The stream's [`Waker`] was used while the request waited. One that went on, or that Envoy answered,
    /// is not woken.
    fn on_wake(&mut self, stream: &mut Stream<'_, Self::Module>) -> Step;

    /// The response's headers came.
    fn on_response_headers(&mut self, stream: &Stream<'_, Self::Module>);
}

/// The next step of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The request goes on.
    Continue,
    /// The request waits, with its body, for the waker. What came of the body after [`Step::ReadBody`] is
    /// gone, and so is what still comes.
    Hold,
    /// The request waits, and the filter takes its body, which goes no further. Not the step of a request
    /// that holds its body.
    ReadBody,
    /// The client gets this answer.
    Reply(Reply),
}

/// An answer to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Its headers. Envoy adds `content-length`.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// The response code details, for the access log; without spaces.
    pub details: String,
}

impl Default for Reply {
    /// An error of the server, without a body.
    fn default() -> Self {
        Self {
            status: 500,
            headers: Vec::new(),
            body: Vec::new(),
            details: String::new(),
        }
    }
}

/// A route's configuration is another module's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign;

/// The importance of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Work as usual.
    Info = 2,
    /// Something that an operator should know.
    Warn = 3,
    /// Something that does not work.
    Error = 4,
}

/// Writes a line to Envoy's log, under `dynamic_modules`. Any thread may.
pub fn log(level: Level, line: &str) {
    // SAFETY: Envoy copies the line before the call returns.
    unsafe { raw::log(level as u32, raw::Slice::of(line.as_bytes())) }
}
