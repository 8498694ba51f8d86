//! The hooks that Envoy calls, and the objects behind them.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::ThreadId;

use crate::config::{Answer, Calls, Loading, Outside, version};
use crate::raw::{self, Envoy, Header, Ours, Slice};
use crate::stream::Stream;
use crate::waker::Waker;
use crate::{Filter, Level, Module, Reply, Step, log};

/// Stops a request's headers alone, so that its body comes.
const STOP: u32 = 1;
/// Stops all of a request; Envoy reads no more of it than its buffer takes.
const STOP_ALL: u32 = 4;
/// Stops the body, which the filter has taken.
const STOP_NO_BUFFER: u32 = 3;
const CONTINUE: u32 = 0;

/// A configuration, as Envoy holds it.
struct Config<M> {
    module: M,
    waker: Waker,
    calls: Calls,
    /// The thread that loaded it: the main thread, which owns its calls.
    main: ThreadId,
}

/// A stream's filter, as Envoy holds it.
struct Cell<F> {
    filter: F,
    waker: Option<Waker>,
    reads_body: bool,
    /// A hook panicked, or the client was answered: no other hook of the filter runs.
    over: bool,
}

/// Runs a hook's work. If it panics, gives none; the panic's own message is in Envoy's error output.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    // A panic leaves the object behind the hook half changed; `Cell::over` or the module sees to that.
    let done = catch_unwind(AssertUnwindSafe(work));
    if done.is_err() {
        log(
            Level::Error,
            "a hook of the module panicked: please report this",
        );
    }
    done.ok()
}

/// The hooks, without their C names. [`http_module!`](crate::http_module) gives them these.
///
/// Each is unsafe to call: the objects must be those that Envoy and this crate made for each other, alive,
/// on the thread that Envoy uses for them.
#[expect(
    clippy::missing_safety_doc,
    reason = "the module's documentation has the contract that all of them share"
)]
pub mod exports {
    pub use super::raw::{Envoy, Header, Ours, Slice};

    pub use super::{
        answered, config_destroy, config_new, config_woken, destroy, filter_new, program_init,
        request_body, request_headers, request_trailers, response_headers, route_destroy,
        route_new, woken,
    };
}

/// The version of the interface, or null where Envoy is too old.
pub fn program_init() -> *const c_char {
    match version() {
        Ok(version) => CStr::as_ptr(version),
        Err(fault) => {
            log(Level::Error, fault);
            std::ptr::null()
        }
    }
}

pub unsafe fn config_new<M: Module>(config: Envoy, text: Slice) -> Ours {
    // SAFETY: the hook of this configuration runs; the waker deletes the scheduler.
    let waker = Waker::of_config(unsafe { raw::config_scheduler_new(config) });
    // SAFETY: Envoy keeps the text for the hook.
    let text = unsafe { text.bytes() };
    let mut loading = Loading {
        config,
        waker: &waker,
    };
    let loaded = guarded(|| M::load(text, &mut loading));
    match loaded.unwrap_or_else(|| Err("the module panicked".to_owned())) {
        Ok(module) => {
            let made = Box::new(Config {
                module,
                waker,
                calls: Calls::default(),
                main: std::thread::current().id(),
            });
            Box::into_raw(made).cast_const().cast()
        }
        Err(fault) => {
            waker.end();
            log(
                Level::Error,
                &format!("the configuration is refused: {fault}"),
            );
            std::ptr::null()
        }
    }
}

pub unsafe fn config_destroy<M: Module>(config: Ours) {
    // SAFETY: `config_new` made it from a box, and Envoy uses it no more.
    let Some(made) = (unsafe { config.cast::<Config<M>>().as_ref() }) else {
        return;
    };
    made.waker.end();
    guarded(|| made.module.on_end());
    if std::thread::current().id() != made.main {
        made.calls.wait();
    }
    // SAFETY: as above; the reference is not used any more, and no hook of the main thread, because no
    // call is under way.
    let made = unsafe { Box::from_raw(config.cast_mut().cast::<Config<M>>()) };
    guarded(|| drop(made));
}

pub unsafe fn config_woken<M: Module>(config: Envoy, ours: Ours) {
    // SAFETY: `config_new` made it.
    let Some(made) = (unsafe { ours.cast::<Config<M>>().as_ref() }) else {
        return;
    };
    // SAFETY: this hook runs on the main thread.
    let outside = unsafe { Outside::new(config, &made.calls) };
    guarded(|| made.module.on_wake(&outside));
}

pub unsafe fn answered<M: Module>(
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
    // SAFETY: Envoy keeps headers and chunks for the hook.
    let headers = unsafe { array(headers, count) };
    // SAFETY: as above.
    let chunks = unsafe { array(chunks, chunk_count) };
    let bytes = |slice: Slice| {
        // SAFETY: as above.
        unsafe { slice.bytes() }
    };
    let status = || {
        let found = headers
            .iter()
            .find(|header| bytes(header.name) == b":status")?;
        std::str::from_utf8(bytes(found.value)).ok()?.parse().ok()
    };
    let answer = (result == raw::SUCCESS).then(status).flatten();
    let answer = answer.map(|status| Answer {
        status,
        body: chunks.iter().map(|chunk| bytes(*chunk)).collect(),
    });
    guarded(|| made.module.on_answer(call, answer));
    made.calls.ended();
}

/// # Safety
/// `start` must be null, or lead to `count` values that live for the hook.
unsafe fn array<'a, T>(start: *const T, count: usize) -> &'a [T] {
    if start.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, count) }
}

pub unsafe fn route_new<M: Module>(text: Slice) -> Ours {
    // SAFETY: Envoy keeps the text for the hook.
    let text = unsafe { text.bytes() };
    let loaded = guarded(|| M::load_route(text));
    match loaded.unwrap_or_else(|| Err("the module panicked".to_owned())) {
        Ok(config) => Box::into_raw(Box::new(config)).cast_const().cast(),
        Err(fault) => {
            log(
                Level::Error,
                &format!("a route's configuration is refused: {fault}"),
            );
            std::ptr::null()
        }
    }
}

pub unsafe fn route_destroy<M: Module>(config: Ours) {
    // SAFETY: `route_new` made it from a box, and Envoy uses it no more.
    let made = unsafe { Box::from_raw(config.cast_mut().cast::<M::RouteConfig>()) };
    guarded(|| drop(made));
}

pub unsafe fn filter_new<M: Module>(config: Ours) -> Ours {
    // SAFETY: `config_new` made it.
    let Some(made) = (unsafe { config.cast::<Config<M>>().as_ref() }) else {
        return std::ptr::null();
    };
    let Some(filter) = guarded(|| made.module.filter()) else {
        return std::ptr::null();
    };
    let cell = Cell {
        filter,
        waker: None,
        reads_body: false,
        over: false,
    };
    Box::into_raw(Box::new(cell)).cast_const().cast()
}

pub unsafe fn destroy<M: Module>(filter: Ours) {
    // SAFETY: `filter_new` made it from a box, and Envoy uses it no more. No hook is in it: hooks answer
    // and continue after their last use of it.
    let cell = unsafe { Box::from_raw(filter.cast_mut().cast::<Cell<M::Filter>>()) };
    if let Some(waker) = &cell.waker {
        waker.end();
    }
    guarded(|| drop(cell));
}

/// Runs one hook of a filter, and gives its next step; none if the filter is over.
///
/// # Safety
/// As for all hooks. The borrow of the filter ends with this function.
unsafe fn step<M: Module>(
    stream: Envoy,
    filter: Ours,
    work: impl FnOnce(&mut Cell<M::Filter>, Envoy) -> Step,
) -> Option<Step> {
    // SAFETY: `filter_new` made it, and Envoy runs one hook of a stream at a time. The hooks that could
    // run within another one (an answer, a continuation) run after this borrow.
    let cell = unsafe { filter.cast_mut().cast::<Cell<M::Filter>>().as_mut() }?;
    if cell.over {
        return None;
    }
    let step = guarded(|| work(cell, stream)).unwrap_or_else(|| Step::Reply(M::panicked()));
    cell.over = matches!(step, Step::Reply(_));
    cell.reads_body = step == Step::ReadBody;
    Some(step)
}

/// Answers the client. The stream may be gone afterwards.
///
/// # Safety
/// `stream` must be alive, on its thread, and nothing of it borrowed.
unsafe fn reply(stream: Envoy, reply: &Reply) {
    let of = |(name, value): &(String, String)| Header::of(name, value);
    let headers: Vec<Header> = reply.headers.iter().map(of).collect();
    let (body, details) = (Slice::of(&reply.body), Slice::of(reply.details.as_bytes()));
    let (status, start, count) = (u32::from(reply.status), headers.as_ptr(), headers.len());
    // SAFETY: the caller's promise; Envoy copies headers, body and details.
    unsafe { raw::send_response(stream, status, start, count, body, details) }
}

pub unsafe fn request_headers<M: Module>(stream: Envoy, filter: Ours, ends: bool) -> u32 {
    let work = |cell: &mut Cell<M::Filter>, at| {
        // SAFETY: this hook of the stream runs.
        let mut lent = unsafe { Stream::new(at, &mut cell.waker) };
        cell.filter.on_request_headers(&mut lent, ends)
    };
    // SAFETY: the caller's promise.
    match unsafe { step::<M>(stream, filter, work) } {
        Some(Step::Continue) => CONTINUE,
        Some(Step::ReadBody) => STOP,
        Some(Step::Hold) | None => STOP_ALL,
        Some(Step::Reply(answer)) => {
            // SAFETY: the hook of this stream runs, and its last use of the filter was above.
            unsafe { reply(stream, &answer) }
            STOP
        }
    }
}

pub unsafe fn request_body<M: Module>(stream: Envoy, filter: Ours, ends: bool) -> u32 {
    let kind = raw::RECEIVED_REQUEST_BODY;
    // SAFETY: the hook of this stream runs.
    let count = unsafe { raw::get_body_chunks_size(stream, kind) };
    let mut chunks = vec![Slice::EMPTY; count];
    // SAFETY: there is room for `count` chunks.
    if count > 0 && !unsafe { raw::get_body_chunks(stream, kind, chunks.as_mut_ptr()) } {
        chunks.clear();
    }
    // SAFETY: Envoy keeps the chunks for the hook; they are not used after it.
    let part = chunks.into_iter().map(|chunk| unsafe { chunk.bytes() });
    let part: Vec<&[u8]> = part.collect();
    // SAFETY: the caller's promise.
    unsafe { body_came::<M>(stream, filter, &part, ends) }
}

/// The end of a body with trailers.
pub unsafe fn request_trailers<M: Module>(stream: Envoy, filter: Ours) -> u32 {
    // SAFETY: the caller's promise.
    match unsafe { body_came::<M>(stream, filter, &[], true) } {
        CONTINUE => CONTINUE,
        _ => STOP,
    }
}

unsafe fn body_came<M: Module>(stream: Envoy, filter: Ours, part: &[&[u8]], ends: bool) -> u32 {
    let work = |cell: &mut Cell<M::Filter>, _| match cell.reads_body {
        true => cell.filter.on_request_body(part, ends),
        false => Step::Continue,
    };
    // SAFETY: the caller's promise.
    match unsafe { step::<M>(stream, filter, work) } {
        Some(Step::Continue) => CONTINUE,
        Some(Step::ReadBody | Step::Hold) | None => STOP_NO_BUFFER,
        Some(Step::Reply(answer)) => {
            // SAFETY: the hook of this stream runs, and its last use of the filter was above.
            unsafe { reply(stream, &answer) }
            STOP_NO_BUFFER
        }
    }
}

pub unsafe fn woken<M: Module>(stream: Envoy, filter: Ours) {
    let work = |cell: &mut Cell<M::Filter>, at| {
        // SAFETY: this hook of the stream runs.
        let mut lent = unsafe { Stream::new(at, &mut cell.waker) };
        cell.filter.on_wake(&mut lent)
    };
    // SAFETY: the caller's promise.
    match unsafe { step::<M>(stream, filter, work) } {
        Some(Step::Continue) => {
            // SAFETY: the hook of this stream runs, and its last use of the filter was above.
            unsafe { raw::continue_decoding(stream) }
        }
        Some(Step::Reply(answer)) => {
            // SAFETY: as above.
            unsafe { reply(stream, &answer) }
        }
        Some(Step::Hold | Step::ReadBody) | None => {}
    }
}

pub unsafe fn response_headers<M: Module>(stream: Envoy, filter: Ours) {
    // SAFETY: `filter_new` made it, and no other hook of the stream runs.
    let Some(cell) = (unsafe { filter.cast_mut().cast::<Cell<M::Filter>>().as_mut() }) else {
        return;
    };
    // SAFETY: this hook of the stream runs.
    let lent = unsafe { Stream::new(stream, &mut cell.waker) };
    if !cell.over {
        guarded(|| cell.filter.on_response_headers(&lent));
    }
}

/// Exports the hooks of a [`Module`] under the names that Envoy looks for. Envoy refuses a module that
/// lacks one, so those that have nothing to do are here as well.
#[macro_export]
macro_rules! http_module {
    ($module:ty) => {
        const _: () = {
            use $crate::exports::{self, Envoy, Header, Ours, Slice};
            $crate::hook!(envoy_dynamic_module_on_program_init() -> *const std::ffi::c_char { exports::program_init() });
            $crate::hook!(envoy_dynamic_module_on_http_filter_config_new(config: Envoy, _name: Slice, text: Slice) -> Ours { exports::config_new::<$module>(config, text) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_config_destroy(config: Ours) { exports::config_destroy::<$module>(config) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_config_scheduled(config: Envoy, ours: Ours, _event: u64) { exports::config_woken::<$module>(config, ours) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_config_http_callout_done(_config: Envoy, ours: Ours, call: u64, result: u32, headers: *const Header, count: usize, chunks: *const Slice, chunk_count: usize) { exports::answered::<$module>(ours, call, result, headers, count, chunks, chunk_count) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_per_route_config_new(_name: Slice, text: Slice) -> Ours { exports::route_new::<$module>(text) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_per_route_config_destroy(config: Ours) { exports::route_destroy::<$module>(config) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_new(config: Ours, _stream: Envoy) -> Ours { exports::filter_new::<$module>(config) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_destroy(filter: Ours) { exports::destroy::<$module>(filter) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_request_headers(stream: Envoy, filter: Ours, ends: bool) -> u32 { exports::request_headers::<$module>(stream, filter, ends) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_request_body(stream: Envoy, filter: Ours, ends: bool) -> u32 { exports::request_body::<$module>(stream, filter, ends) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_request_trailers(stream: Envoy, filter: Ours) -> u32 { exports::request_trailers::<$module>(stream, filter) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_scheduled(stream: Envoy, filter: Ours, _event: u64) { exports::woken::<$module>(stream, filter) });
            $crate::hook!(envoy_dynamic_module_on_http_filter_response_headers(stream: Envoy, filter: Ours, _ends: bool) -> u32 { exports::response_headers::<$module>(stream, filter); 0 });
            // Nothing to do, but Envoy asks for them.
            $crate::hook!(envoy_dynamic_module_on_http_filter_response_body(_stream: Envoy, _filter: Ours, _ends: bool) -> u32 { 0 });
            $crate::hook!(envoy_dynamic_module_on_http_filter_response_trailers(_stream: Envoy, _filter: Ours) -> u32 { 0 });
            $crate::hook!(envoy_dynamic_module_on_http_filter_stream_complete(_stream: Envoy, _filter: Ours) {});
            $crate::hook!(envoy_dynamic_module_on_http_filter_local_reply(_stream: Envoy, _filter: Ours, _status: u32, _details: Slice, _resets: bool) -> u32 { 0 });
            $crate::hook!(envoy_dynamic_module_on_http_filter_downstream_above_write_buffer_high_watermark(_stream: Envoy, _filter: Ours) {});
            $crate::hook!(envoy_dynamic_module_on_http_filter_downstream_below_write_buffer_low_watermark(_stream: Envoy, _filter: Ours) {});
            $crate::hook!(envoy_dynamic_module_on_http_filter_http_callout_done(_stream: Envoy, _filter: Ours, _call: u64, _result: u32, _headers: *const Header, _count: usize, _chunks: *const Slice, _chunk_count: usize) {});
            $crate::hook!(envoy_dynamic_module_on_http_filter_http_stream_headers(_stream: Envoy, _filter: Ours, _call: u64, _headers: *const Header, _count: usize, _ends: bool) {});
            $crate::hook!(envoy_dynamic_module_on_http_filter_http_stream_data(_stream: Envoy, _filter: Ours, _call: u64, _chunks: *const Slice, _count: usize, _ends: bool) {});
            $crate::hook!(envoy_dynamic_module_on_http_filter_http_stream_trailers(_stream: Envoy, _filter: Ours, _call: u64, _headers: *const Header, _count: usize) {});
            $crate::hook!(envoy_dynamic_module_on_http_filter_http_stream_complete(_stream: Envoy, _filter: Ours, _call: u64) {});
            $crate::hook!(envoy_dynamic_module_on_http_filter_http_stream_reset(_stream: Envoy, _filter: Ours, _call: u64, _reason: u32) {});
        };
    };
}

/// One exported function.
#[doc(hidden)]
#[macro_export]
macro_rules! hook {
    ($name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)? { $($body:tt)* }) => {
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) $(-> $out)? {
            // SAFETY: Envoy keeps to the contract of its interface.
            #[allow(unused_unsafe)]
            unsafe { $($body)* }
        }
    };
}
