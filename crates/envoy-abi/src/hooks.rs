//! The hooks that Envoy calls, and the objects behind them. [`http_module!`](crate::http_module) exports
//! them under their C names.
//!
//! # Safety
//! All hooks: the objects must be those that Envoy and this crate made for each other, alive, on the
//! thread that Envoy uses for them. Slices and arrays must stay readable until the hook ends.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, ThreadId};

use crate::config::{Answer, Calls, Loading, Outside, version};
use crate::raw::{self, array};
pub use crate::raw::{Envoy, Header, Ours, Slice};
use crate::stream::Stream;
use crate::waker::Waker;
use crate::{Filter, Level, Module, Reply, Step, log};

const CONTINUE: u32 = 0;
/// Stops a request's headers or trailers alone, so that its body comes.
const STOP: u32 = 1;
/// Stops all of a request; Envoy reads no more of it than its buffer takes.
const STOP_ALL: u32 = 4;
/// Stops the body, which the filter has taken.
const STOP_NO_BUFFER: u32 = 3;

/// A configuration, as Envoy holds it.
struct Config<M> {
    module: M,
    waker: Waker,
    calls: Arc<Calls>,
    /// The thread that loaded it: the main thread, which owns its calls.
    main: ThreadId,
}

/// A stream's filter, as Envoy holds it.
struct Cell<F> {
    /// None if its making panicked: then the request is refused.
    filter: Option<F>,
    waker: Option<Waker>,
    state: State,
}

/// The state of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It came, and did not stop here or goes on.
    Passes,
    /// It waits for the waker.
    Waits,
    /// It waits, and the filter takes its body.
    ReadsBody,
    /// The client is answered, or a hook panicked: no other hook of the filter runs.
    Over,
}

/// Runs a hook's work. If it panics, gives none; the panic's own message is in Envoy's error output.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    // A panic leaves the object behind the hook half changed; `State::Over` or the module sees to that.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(panic) => {
            // Its destructor could panic again.
            std::mem::forget(panic);
            log(
                Level::Error,
                "a hook of the module panicked: please report this",
            );
            None
        }
    }
}

/// Gives Envoy an object. Envoy gives it back once, for [`taken`].
fn given<T>(object: T) -> Ours {
    Box::into_raw(Box::new(object)).cast_const().cast()
}

/// Takes an object back, and drops it.
///
/// # Safety
/// `given` made it with this type, and Envoy uses it no more.
unsafe fn taken<T>(object: Ours) {
    // SAFETY: the caller's promise.
    let object = unsafe { Box::from_raw(object.cast_mut().cast::<T>()) };
    guarded(|| drop(object));
}

/// Gives Envoy what was loaded, or null, which refuses the configuration.
fn loaded<T>(what: &str, loaded: Option<Result<T, String>>) -> Option<T> {
    let fault = match loaded {
        Some(Ok(loaded)) => return Some(loaded),
        Some(Err(fault)) => fault,
        None => "the module panicked".to_owned(),
    };
    log(Level::Error, &format!("{what} is refused: {fault}"));
    None
}

/// The version of the interface, or null where Envoy is too old.
pub fn program_init<M: Module>() -> *const c_char {
    match version() {
        Ok(version) => CStr::as_ptr(version),
        Err(fault) => {
            log(Level::Error, fault);
            std::ptr::null()
        }
    }
}

pub unsafe fn config_new<M: Module>(config: Envoy, _name: Slice, text: Slice) -> Ours {
    // SAFETY: the hook of this configuration runs.
    let waker = unsafe { Waker::of_config(config) };
    // SAFETY: Envoy keeps the text for the hook.
    let text = unsafe { text.bytes() };
    let mut loading = Loading {
        config,
        waker: &waker,
    };
    let Some(module) = loaded("the configuration", guarded(|| M::load(text, &mut loading))) else {
        waker.end();
        return std::ptr::null();
    };
    given(Config {
        module,
        waker,
        calls: Arc::default(),
        main: thread::current().id(),
    })
}

pub unsafe fn config_destroy<M: Module>(config: Ours) {
    // SAFETY: `config_new` made it.
    let Some(made) = (unsafe { config.cast::<Config<M>>().as_ref() }) else {
        return;
    };
    made.waker.end();
    guarded(|| made.module.on_end());
    // An answer that still comes would find it gone.
    if thread::current().id() != made.main && !made.calls.wait() {
        return log(
            Level::Error,
            "a configuration ended before its calls, and is kept",
        );
    }
    // SAFETY: `config_new` gave it, no call is under way, and Envoy uses it no more.
    unsafe { taken::<Config<M>>(config) }
}

pub unsafe fn config_woken<M: Module>(config: Envoy, ours: Ours, _event: u64) {
    // SAFETY: `config_new` made it.
    let Some(made) = (unsafe { ours.cast::<Config<M>>().as_ref() }) else {
        return;
    };
    // SAFETY: this hook runs on the main thread.
    let outside = unsafe { Outside::new(config, &made.calls) };
    guarded(|| made.module.on_wake(&outside));
}

#[expect(clippy::too_many_arguments, reason = "Envoy's hook has them")]
pub unsafe fn answered<M: Module>(
    _config: Envoy,
    ours: Ours,
    call: u64,
    result: u32,
    headers: *const Header,
    count: usize,
    chunks: *const Slice,
    chunk_count: usize,
) {
    // SAFETY: `config_new` made it.
    let Some(made) = (unsafe { ours.cast::<Config<M>>().as_ref() }) else {
        return;
    };
    // The configuration may end on another thread as soon as the call has.
    let calls = Arc::clone(&made.calls);
    // SAFETY: Envoy keeps headers and chunks for the hook; a call that failed has none.
    let headers = unsafe { array(headers, count) };
    // SAFETY: as above.
    let chunks = unsafe { array(chunks, chunk_count) };
    // SAFETY: as above.
    let bytes = |slice: &Slice| unsafe { slice.bytes() };
    let status = || {
        let found = headers
            .iter()
            .find(|header| bytes(&header.name) == b":status")?;
        std::str::from_utf8(bytes(&found.value)).ok()?.parse().ok()
    };
    let status = (result == raw::SUCCESS).then(status).flatten();
    let answer = status.map(|status| Answer {
        status,
        body: chunks.iter().map(bytes).collect(),
    });
    guarded(|| made.module.on_answer(call, answer));
    calls.ended();
}

pub unsafe fn route_new<M: Module>(_name: Slice, text: Slice) -> Ours {
    // SAFETY: Envoy keeps the text for the hook.
    let text = unsafe { text.bytes() };
    let config = loaded("a route's configuration", guarded(|| M::load_route(text)));
    config.map_or(std::ptr::null(), given)
}

pub unsafe fn route_destroy<M: Module>(config: Ours) {
    // SAFETY: `route_new` gave it, and Envoy uses it no more.
    unsafe { taken::<M::RouteConfig>(config) }
}

pub unsafe fn filter_new<M: Module>(config: Ours, _stream: Envoy) -> Ours {
    // SAFETY: `config_new` made it.
    let made = unsafe { config.cast::<Config<M>>().as_ref() };
    given(Cell {
        filter: made.and_then(|made| guarded(|| made.module.filter())),
        waker: None,
        state: State::Passes,
    })
}

pub unsafe fn destroy<M: Module>(filter: Ours) {
    // SAFETY: `filter_new` made it, and no other hook of the stream uses it.
    if let Some(waker) = unsafe { cell::<M>(filter) }.and_then(|cell| cell.waker.take()) {
        waker.end();
    }
    // SAFETY: `filter_new` gave it, and Envoy uses it no more.
    unsafe { taken::<Cell<M::Filter>>(filter) }
}

/// The module's object for a stream.
///
/// # Safety
/// `filter_new` made it, and nothing else borrows it. Envoy runs one hook of a stream at a time, but for
/// those within an answer or a continuation, which happen when the hook's own borrow has ended.
unsafe fn cell<'a, M: Module>(filter: Ours) -> Option<&'a mut Cell<M::Filter>> {
    // SAFETY: the caller's promise.
    unsafe { filter.cast_mut().cast::<Cell<M::Filter>>().as_mut() }
}

/// Runs one hook of a filter if its request is in one of these states, and answers the client if the
/// filter does. Gives the request's state: its new one, or as an error the one in which the hook does not run.
///
/// # Safety
/// As for all hooks. The stream and the filter may be gone afterwards.
unsafe fn run<M: Module>(
    stream: Envoy,
    filter: Ours,
    states: &[State],
    hook: impl FnOnce(&mut M::Filter, &mut Stream<'_, M>) -> Step,
) -> Result<State, State> {
    // SAFETY: the last use is before the answer.
    let cell = unsafe { cell::<M>(filter) }.ok_or(State::Over)?;
    if !states.contains(&cell.state) {
        return Err(cell.state);
    }
    // SAFETY: this hook of the stream runs.
    let mut lent = unsafe { Stream::new(stream, &mut cell.waker) };
    let step = guarded(|| Some(hook(cell.filter.as_mut()?, &mut lent))).flatten();
    let (state, answer) = match step {
        Some(Step::Continue) => (State::Passes, None),
        Some(Step::Hold) => (State::Waits, None),
        Some(Step::ReadBody) => (State::ReadsBody, None),
        Some(Step::Reply(answer)) => (State::Over, Some(answer)),
        None => (State::Over, Some(guarded(M::panicked).unwrap_or_default())),
    };
    cell.state = state;
    if let Some(answer) = answer {
        // SAFETY: the hook of this stream runs, and nothing of it or of the filter is borrowed.
        unsafe { reply(stream, &answer) }
    }
    Ok(state)
}

/// Answers the client. The stream may be gone afterwards.
///
/// # Safety
/// A hook of `stream` runs, and nothing of it is borrowed.
unsafe fn reply(stream: Envoy, reply: &Reply) {
    let of = |(name, value): &(String, String)| Header::of(name, value);
    let headers: Vec<Header> = reply.headers.iter().map(of).collect();
    let (body, details) = (Slice::of(&reply.body), Slice::of(reply.details.as_bytes()));
    let (status, start, count) = (u32::from(reply.status), headers.as_ptr(), headers.len());
    // SAFETY: the caller's promise; Envoy copies headers, body and details.
    unsafe { raw::send_response(stream, status, start, count, body, details) }
}

pub unsafe fn request_headers<M: Module>(stream: Envoy, filter: Ours, ends: bool) -> u32 {
    let hook =
        |filter: &mut M::Filter, lent: &mut Stream<'_, M>| filter.on_request_headers(lent, ends);
    // SAFETY: the caller's promise.
    match unsafe { run(stream, filter, &[State::Passes], hook) } {
        Ok(State::Passes) => CONTINUE,
        Ok(State::ReadsBody | State::Over) => STOP,
        Ok(State::Waits) | Err(_) => STOP_ALL,
    }
}

pub unsafe fn request_body<M: Module>(stream: Envoy, filter: Ours, ends: bool) -> u32 {
    let kind = raw::RECEIVED_REQUEST_BODY;
    // SAFETY: the hook of this stream runs.
    let count = unsafe { raw::get_body_chunks_size(stream, kind) };
    let mut chunks = vec![Slice::EMPTY; count];
    // SAFETY: there is room for `count` chunks.
    if !unsafe { raw::get_body_chunks(stream, kind, chunks.as_mut_ptr()) } {
        chunks.clear();
    }
    // SAFETY: Envoy keeps the chunks for the hook; they are not used after it.
    let part = chunks.iter().map(|chunk| unsafe { chunk.bytes() });
    let part: Vec<&[u8]> = part.collect();
    // SAFETY: the caller's promise.
    match unsafe { body_came::<M>(stream, filter, &part, ends) } {
        State::Passes => CONTINUE,
        _ => STOP_NO_BUFFER,
    }
}

/// The end of a body with trailers.
pub unsafe fn request_trailers<M: Module>(stream: Envoy, filter: Ours) -> u32 {
    // SAFETY: the caller's promise.
    match unsafe { body_came::<M>(stream, filter, &[], true) } {
        State::Passes => CONTINUE,
        _ => STOP,
    }
}

unsafe fn body_came<M: Module>(stream: Envoy, filter: Ours, part: &[&[u8]], ends: bool) -> State {
    let hook = |filter: &mut M::Filter, _: &mut Stream<'_, M>| filter.on_request_body(part, ends);
    // SAFETY: the caller's promise.
    let (Ok(state) | Err(state)) = unsafe { run(stream, filter, &[State::ReadsBody], hook) };
    state
}

pub unsafe fn woken<M: Module>(stream: Envoy, filter: Ours, _event: u64) {
    let hook = |filter: &mut M::Filter, lent: &mut Stream<'_, M>| filter.on_wake(lent);
    // SAFETY: the caller's promise.
    let done = unsafe { run(stream, filter, &[State::Waits, State::ReadsBody], hook) };
    if done == Ok(State::Passes) {
        // SAFETY: the hook of this stream runs, and nothing of it or of the filter is borrowed.
        unsafe { raw::continue_decoding(stream) }
    }
}

pub unsafe fn response_headers<M: Module>(stream: Envoy, filter: Ours, _ends: bool) -> u32 {
    // SAFETY: no other hook of the stream uses it.
    let Some(cell) = (unsafe { cell::<M>(filter) }) else {
        return CONTINUE;
    };
    // SAFETY: this hook of the stream runs.
    let lent = unsafe { Stream::new(stream, &mut cell.waker) };
    let passes = cell.state == State::Passes;
    if cell.state != State::Over
        && let Some(filter) = &mut cell.filter
    {
        let done = guarded(|| filter.on_response_headers(&lent));
        // Where Envoy itself answered a request that waits, the filter cannot any more.
        if done.is_none() || !passes {
            cell.state = State::Over;
        }
    }
    CONTINUE
}

/// Exports the hooks of a [`Module`] under the names that Envoy looks for. Envoy refuses a module that
/// lacks one, so those that have nothing to do are here as well.
#[macro_export]
macro_rules! http_module {
    ($module:ty) => {
        const _: () = {
            use $crate::hooks::{Envoy, Header, Ours, Slice};
            $crate::export_hooks! { $module:
                "program_init" = program_init() -> *const std::ffi::c_char;
                "http_filter_config_new" = config_new(config: Envoy, name: Slice, text: Slice) -> Ours;
                "http_filter_config_destroy" = config_destroy(config: Ours);
                "http_filter_config_scheduled" = config_woken(config: Envoy, ours: Ours, event: u64);
                "http_filter_config_http_callout_done" = answered(config: Envoy, ours: Ours, call: u64, result: u32, headers: *const Header, count: usize, chunks: *const Slice, chunk_count: usize);
                "http_filter_per_route_config_new" = route_new(name: Slice, text: Slice) -> Ours;
                "http_filter_per_route_config_destroy" = route_destroy(config: Ours);
                "http_filter_new" = filter_new(config: Ours, stream: Envoy) -> Ours;
                "http_filter_destroy" = destroy(filter: Ours);
                "http_filter_request_headers" = request_headers(stream: Envoy, filter: Ours, ends: bool) -> u32;
                "http_filter_request_body" = request_body(stream: Envoy, filter: Ours, ends: bool) -> u32;
                "http_filter_request_trailers" = request_trailers(stream: Envoy, filter: Ours) -> u32;
                "http_filter_scheduled" = woken(stream: Envoy, filter: Ours, event: u64);
                "http_filter_response_headers" = response_headers(stream: Envoy, filter: Ours, ends: bool) -> u32;
            }
            // These give 0, which continues, or nothing.
            $crate::export_hooks! {
                "http_filter_response_body" (_stream: Envoy, _filter: Ours, _ends: bool) -> u32;
                "http_filter_response_trailers" (_stream: Envoy, _filter: Ours) -> u32;
                "http_filter_stream_complete" (_stream: Envoy, _filter: Ours);
                "http_filter_local_reply" (_stream: Envoy, _filter: Ours, _status: u32, _details: Slice, _resets: bool) -> u32;
                "http_filter_downstream_above_write_buffer_high_watermark" (_stream: Envoy, _filter: Ours);
                "http_filter_downstream_below_write_buffer_low_watermark" (_stream: Envoy, _filter: Ours);
                "http_filter_http_callout_done" (_stream: Envoy, _filter: Ours, _call: u64, _result: u32, _headers: *const Header, _count: usize, _chunks: *const Slice, _chunk_count: usize);
                "http_filter_http_stream_headers" (_stream: Envoy, _filter: Ours, _call: u64, _headers: *const Header, _count: usize, _ends: bool);
                "http_filter_http_stream_data" (_stream: Envoy, _filter: Ours, _call: u64, _chunks: *const Slice, _count: usize, _ends: bool);
                "http_filter_http_stream_trailers" (_stream: Envoy, _filter: Ours, _call: u64, _headers: *const Header, _count: usize);
                "http_filter_http_stream_complete" (_stream: Envoy, _filter: Ours, _call: u64);
                "http_filter_http_stream_reset" (_stream: Envoy, _filter: Ours, _call: u64, _reason: u32);
            }
        };
    };
}

/// The C functions of [`http_module!`], and no way to others.
#[doc(hidden)]
#[macro_export]
macro_rules! export_hooks {
    ($module:ty: $($symbol:literal = $hook:ident($($arg:ident: $type:ty),*) $(-> $out:ty)?;)*) => {$(
        const _: () = {
            #[unsafe(export_name = concat!("envoy_dynamic_module_on_", $symbol))]
            unsafe extern "C" fn hook($($arg: $type),*) $(-> $out)? {
                // SAFETY: Envoy keeps to the contract of its interface.
                unsafe { $crate::hooks::$hook::<$module>($($arg),*) }
            }
        };
    )*};
    ($($symbol:literal $arguments:tt $(-> $out:ty)?;)*) => {$(
        const _: () = {
            #[unsafe(export_name = concat!("envoy_dynamic_module_on_", $symbol))]
            extern "C" fn hook $arguments $(-> $out)? {
                Default::default()
            }
        };
    )*};
}
