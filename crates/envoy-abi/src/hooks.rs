//! The hooks that Envoy calls, and the objects behind them. [`http_module!`](crate::http_module) exports
//! them under their C names.
//!
//! # Safety
//! All hooks: the objects must be those that Envoy and this crate made for each other, alive, on the
//! thread that Envoy uses for them. Slices and arrays must stay readable until the hook ends.

use std::collections::BTreeSet;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, ThreadId};

use crate::config::{Answer, Calls, Loading, Outside};
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

fn fault(text: &str) {
    log(Level::Error, text);
}

/// Runs a hook's work. If it panics, gives none; the panic's own message is in Envoy's error output.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    // A panic leaves the object behind the hook half changed; `State::Over` or the module sees to that.
    let done = catch_unwind(AssertUnwindSafe(work)).map_err(|mut panic| {
        fault("a hook of the module panicked: please report this");
        // The end of what it carries can panic as well.
        while let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            panic = again;
        }
    });
    done.ok()
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

/// What was loaded; none refuses it.
fn loaded<T>(what: &str, load: impl FnOnce() -> Result<T, String>) -> Option<T> {
    let loaded = guarded(load).unwrap_or_else(|| Err("the module panicked".to_owned()));
    let log = |text| fault(&format!("{what} is refused: {text}"));
    loaded.map_err(log).ok()
}

/// The version of the interface, or null where Envoy is too old.
pub fn program_init<M: Module>() -> *const c_char {
    match (raw::callout(), raw::subscribe()) {
        (None, _) => {
            fault("the module needs Envoy 1.38, 1.39 or 1.40; this Envoy is older");
            null()
        }
        (_, None) => c"v0.1.0".as_ptr(),
        (_, Some(_)) => c"v0.2.0".as_ptr(),
    }
}

pub unsafe fn config_new<M: Module>(config: Envoy, _name: Slice, text: Slice) -> Ours {
    // SAFETY: the hook of this configuration runs.
    let scheduler = unsafe { raw::config_scheduler_new(config) };
    let (commit, delete) = (raw::config_scheduler_commit, raw::config_scheduler_delete);
    // SAFETY: it is new.
    let waker = unsafe { Waker::new(scheduler, commit, delete) };
    // SAFETY: Envoy keeps the text for the hook.
    let text = unsafe { text.bytes() };
    let mut loading = Loading {
        config,
        waker: &waker,
    };
    let Some(module) = loaded("the configuration", || M::load(text, &mut loading)) else {
        waker.end();
        return null();
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
        return fault("a configuration ended before its calls, and is kept");
    }
    // SAFETY: `config_new` gave it, no call is under way, and Envoy uses it no more.
    unsafe { taken::<Config<M>>(config) }
}

pub unsafe fn config_woken<M: Module>(config: Envoy, ours: Ours, _event: u64) {
    // SAFETY: `config_new` made it.
    let made = unsafe { &*ours.cast::<Config<M>>() };
    let outside = Outside {
        config,
        calls: &made.calls,
    };
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
    let made = unsafe { &*ours.cast::<Config<M>>() };
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
    let config = loaded("a route's configuration", || M::load_route(text));
    let Some(config) = config else {
        return null();
    };
    let config = given(config);
    let mut routes = ROUTES.write().unwrap_or_else(PoisonError::into_inner);
    routes.insert(config.addr());
    config
}

/// The routes' configurations that Envoy holds.
static ROUTES: RwLock<BTreeSet<usize>> = RwLock::new(BTreeSet::new());

/// Whether `route_new` gave this.
pub(crate) fn is_route(config: Ours) -> bool {
    let routes = ROUTES.read().unwrap_or_else(PoisonError::into_inner);
    routes.contains(&config.addr())
}

pub unsafe fn route_destroy<M: Module>(config: Ours) {
    let mut routes = ROUTES.write().unwrap_or_else(PoisonError::into_inner);
    routes.remove(&config.addr());
    drop(routes);
    // SAFETY: `route_new` gave it, and Envoy uses it no more.
    unsafe { taken::<M::RouteConfig>(config) }
}

pub unsafe fn filter_new<M: Module>(config: Ours, _stream: Envoy) -> Ours {
    // SAFETY: `config_new` made it.
    let made = unsafe { &*config.cast::<Config<M>>() };
    given(Cell {
        filter: guarded(|| made.module.filter()),
        waker: None,
        state: State::Passes,
    })
}

pub unsafe fn destroy<M: Module>(filter: Ours) {
    // SAFETY: `filter_new` made it, and no other hook of the stream uses it.
    let cell = unsafe { cell::<M>(filter) };
    if let Some(waker) = &cell.waker {
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
unsafe fn cell<'a, M: Module>(filter: Ours) -> &'a mut Cell<M::Filter> {
    // SAFETY: the caller's promise.
    unsafe { &mut *filter.cast_mut().cast::<Cell<M::Filter>>() }
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
    let cell = unsafe { cell::<M>(filter) };
    if !states.contains(&cell.state) {
        return Err(cell.state);
    }
    // SAFETY: this hook of the stream runs.
    let mut lent = unsafe { Stream::new(stream, &mut cell.waker) };
    let step = guarded(|| Some(hook(cell.filter.as_mut()?, &mut lent))).flatten();
    let error = Reply {
        status: 500,
        headers: Vec::new(),
        body: Vec::new(),
        details: String::new(),
    };
    let step = step.unwrap_or_else(|| Step::Reply(guarded(M::panicked).unwrap_or(error)));
    let state = match step {
        Step::Continue => State::Passes,
        Step::Hold => State::Waits,
        Step::ReadBody => State::ReadsBody,
        Step::Reply(_) => State::Over,
    };
    cell.state = state;
    if let Step::Reply(answer) = &step {
        let of = |(name, value): &(String, String)| Header::of(name, value);
        let headers: Vec<Header> = answer.headers.iter().map(of).collect();
        let (status, body) = (answer.status.into(), Slice::of(&answer.body));
        let details = Slice::of(answer.details.as_bytes());
        let (start, count) = (headers.as_ptr(), headers.len());
        // SAFETY: the hook of this stream runs, and nothing of it or of the filter is borrowed. Envoy copies
        // headers, body and details.
        unsafe { raw::send_response(stream, status, start, count, body, details) }
    }
    Ok(state)
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
    let hook = |filter: &mut M::Filter, lent: &mut Stream<'_, M>| {
        filter.on_request_body(&lent.body(), ends)
    };
    // SAFETY: the caller's promise.
    match unsafe { run(stream, filter, &[State::ReadsBody], hook) } {
        Ok(State::Passes) | Err(State::Passes) => CONTINUE,
        _ => STOP_NO_BUFFER,
    }
}

/// The end of a body with trailers.
pub unsafe fn request_trailers<M: Module>(stream: Envoy, filter: Ours) -> u32 {
    let hook = |filter: &mut M::Filter, _: &mut Stream<'_, M>| filter.on_request_body(&[], true);
    // SAFETY: the caller's promise.
    match unsafe { run(stream, filter, &[State::ReadsBody], hook) } {
        Ok(State::Passes) | Err(State::Passes) => CONTINUE,
        _ => STOP,
    }
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
    let cell = unsafe { cell::<M>(filter) };
    // SAFETY: this hook of the stream runs.
    let lent = unsafe { Stream::new(stream, &mut cell.waker) };
    let passes = cell.state == State::Passes;
    let filter = cell.filter.as_mut();
    if let Some(filter) = filter.filter(|_| cell.state != State::Over) {
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
