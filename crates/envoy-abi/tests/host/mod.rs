//! A fake Envoy. Where a real one would crash or go wrong, it ends the process with a message: a wrong
//! thread, a call outside of a hook, a stream or scheduler that is gone. What it lends is gone, and
//! overwritten, as soon as Envoy may have changed it; Miri sees each later use.

#![allow(
    unreachable_pub,
    clippy::missing_const_for_fn,
    reason = "a module of a test"
)]

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, ThreadId};

pub use envoy_abi::hooks::{Envoy, Header, Ours, Slice};

const NONE: Slice = Slice {
    start: std::ptr::null(),
    length: 0,
};

pub fn slice(bytes: &[u8]) -> Slice {
    Slice {
        start: bytes.as_ptr(),
        length: bytes.len(),
    }
}

/// What the module lends for a call.
fn read<'a, T>(start: *const T, length: usize) -> &'a [T] {
    if length == 0 {
        return &[];
    }
    // SAFETY: the module promises so; Miri checks it.
    unsafe { std::slice::from_raw_parts(start, length) }
}

pub fn text(slice: Slice) -> String {
    String::from_utf8_lossy(read(slice.start, slice.length)).into_owned()
}

pub fn pairs(start: *const Header, length: usize) -> Vec<(String, String)> {
    let pair = |header: &Header| (text(header.name), text(header.value));
    read(start, length).iter().map(pair).collect()
}

/// Gives the module a value.
pub fn write<T>(at: *mut T, value: T) {
    // SAFETY: the module promises so; Miri checks it.
    unsafe { at.write(value) }
}

macro_rules! hooks {
    ($($name:ident = $symbol:literal ($($arg:ident: $type:ty),*) $(-> $out:ty)?;)*) => {
        unsafe extern "C" {
            $(#[link_name = concat!("envoy_dynamic_module_on_", $symbol)]
            fn $name($($arg: $type),*) $(-> $out)?;)*
        }
    };
}

hooks! {
    on_program_init = "program_init" () -> *const c_char;
    on_config_new = "http_filter_config_new" (config: Envoy, name: Slice, text: Slice) -> Ours;
    on_config_destroy = "http_filter_config_destroy" (config: Ours);
    on_config_scheduled = "http_filter_config_scheduled" (config: Envoy, ours: Ours, event: u64);
    on_answered = "http_filter_config_http_callout_done" (config: Envoy, ours: Ours, call: u64, result: u32, headers: *const Header, count: usize, chunks: *const Slice, chunk_count: usize);
    on_route_new = "http_filter_per_route_config_new" (name: Slice, text: Slice) -> Ours;
    on_route_destroy = "http_filter_per_route_config_destroy" (config: Ours);
    on_filter_new = "http_filter_new" (config: Ours, stream: Envoy) -> Ours;
    on_filter_destroy = "http_filter_destroy" (filter: Ours);
    on_request_headers = "http_filter_request_headers" (stream: Envoy, filter: Ours, ends: bool) -> u32;
    on_request_body = "http_filter_request_body" (stream: Envoy, filter: Ours, ends: bool) -> u32;
    on_request_trailers = "http_filter_request_trailers" (stream: Envoy, filter: Ours) -> u32;
    on_scheduled = "http_filter_scheduled" (stream: Envoy, filter: Ours, event: u64);
    on_response_headers = "http_filter_response_headers" (stream: Envoy, filter: Ours, ends: bool) -> u32;
}

/// The version that the module wants to speak, if any.
pub fn program_init() -> Option<String> {
    // SAFETY: Envoy's first call to a module.
    let version = unsafe { on_program_init() };
    // SAFETY: the module's text is static.
    let text = (!version.is_null()).then(|| unsafe { CStr::from_ptr(version) });
    text.map(|text| text.to_string_lossy().into_owned())
}

thread_local! {
    static LOG: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The lines that this thread wrote since the last look.
pub fn logged() -> Vec<String> {
    LOG.take()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_log(_level: u32, line: Slice) {
    LOG.with_borrow_mut(|log| log.push(text(line)));
}

/// Envoy's scheduler.
#[derive(Default)]
pub struct Scheduler {
    deleted: AtomicBool,
    events: AtomicUsize,
}

impl Scheduler {
    fn at<'a>(at: Envoy) -> &'a Self {
        // SAFETY: the stream or configuration keeps it longer than the module may use it.
        let scheduler = unsafe { &*at.cast::<Self>() };
        scheduler.check();
        scheduler
    }

    fn check(&self) {
        assert!(
            !self.deleted.load(Ordering::SeqCst),
            "a deleted scheduler was used"
        );
    }

    fn commit(&self) {
        self.events.fetch_add(1, Ordering::SeqCst);
        // Another thread that deletes it meanwhile is caught.
        for _ in 0..10 {
            thread::yield_now();
            self.check();
        }
    }

    fn delete(&self) {
        assert!(
            !self.deleted.swap(true, Ordering::SeqCst),
            "a scheduler was deleted twice"
        );
    }
}

/// The schedulers of one object.
#[derive(Default)]
struct Schedulers(RefCell<Vec<Arc<Scheduler>>>);

impl Schedulers {
    fn make(&self) -> Envoy {
        let made = Arc::new(Scheduler::default());
        let at = Arc::as_ptr(&made).cast_mut().cast();
        self.0.borrow_mut().push(made);
        at
    }

    fn take_events(&self) -> usize {
        let events = |scheduler: &Arc<Scheduler>| scheduler.events.swap(0, Ordering::SeqCst);
        self.0.borrow().iter().map(events).sum()
    }

    /// All are deleted by now.
    fn check_deleted(&self) {
        for scheduler in self.0.borrow().iter() {
            assert!(
                scheduler.deleted.load(Ordering::SeqCst),
                "a scheduler was not deleted"
            );
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_commit(at: Envoy, _event: u64) {
    Scheduler::at(at).commit();
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_delete(at: Envoy) {
    Scheduler::at(at).delete();
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_scheduler_commit(
    at: Envoy,
    _event: u64,
) {
    Scheduler::at(at).commit();
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_scheduler_delete(at: Envoy) {
    Scheduler::at(at).delete();
}

/// What an object of Envoy knows about its hooks.
pub struct Place {
    thread: ThreadId,
    hooks: Cell<usize>,
    gone: Cell<bool>,
    /// What the module has borrowed.
    lent: RefCell<Vec<*mut [u8]>>,
}

impl Place {
    fn here() -> Self {
        Self {
            thread: thread::current().id(),
            hooks: Cell::new(0),
            gone: Cell::new(false),
            lent: RefCell::default(),
        }
    }

    fn check(&self) {
        assert!(
            self.thread == thread::current().id(),
            "a callback on a wrong thread"
        );
        assert!(self.hooks.get() > 0, "a callback outside of a hook");
        assert!(!self.gone.get(), "a callback for an object that is gone");
    }

    fn hook<T>(&self, run: impl FnOnce() -> T) -> T {
        self.hooks.set(self.hooks.get() + 1);
        let out = run();
        self.hooks.set(self.hooks.get() - 1);
        if self.hooks.get() == 0 {
            self.take_back();
        }
        out
    }

    pub fn lend(&self, bytes: &[u8]) -> Slice {
        if bytes.is_empty() {
            return NONE;
        }
        let lent: *mut [u8] = Box::into_raw(bytes.into());
        self.lent.borrow_mut().push(lent);
        Slice {
            start: lent.cast(),
            length: bytes.len(),
        }
    }

    fn take_back(&self) {
        for lent in self.lent.take() {
            // SAFETY: `lend` made it from a box.
            let mut bytes = unsafe { Box::from_raw(lent) };
            bytes.fill(b'?');
            // Without Miri, a later use has to find this, not another text.
            if !cfg!(miri) {
                Box::leak(bytes);
            }
        }
    }
}

/// Envoy's object for a configuration.
pub struct Config {
    pub place: Place,
    ours: Cell<Ours>,
    schedulers: Schedulers,
    pub calls: Cell<u64>,
    /// The result of the next call.
    pub call_result: Cell<u32>,
    pub called: RefCell<Vec<String>>,
    pub secret: RefCell<String>,
    pub metrics: RefCell<Vec<(String, u64)>>,
}

impl Config {
    pub fn at<'a>(at: Envoy) -> &'a Self {
        // SAFETY: the tests keep it.
        let config = unsafe { &*at.cast::<Self>() };
        config.place.check();
        config
    }

    fn envoy(&self) -> Envoy {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Loads a configuration on this thread, the main thread. None if the module refuses it.
    pub fn load(text: &str) -> Option<Box<Self>> {
        let config = Box::new(Self {
            place: Place::here(),
            ours: Cell::new(std::ptr::null()),
            schedulers: Schedulers::default(),
            calls: Cell::new(0),
            call_result: Cell::new(0),
            called: RefCell::default(),
            secret: RefCell::default(),
            metrics: RefCell::default(),
        });
        let (at, text) = (config.envoy(), config.place.lend(text.as_bytes()));
        // SAFETY: as Envoy does.
        let ours = config
            .place
            .hook(|| unsafe { on_config_new(at, NONE, text) });
        config.ours.set(ours);
        if ours.is_null() {
            config.schedulers.check_deleted();
            return None;
        }
        Some(config)
    }

    /// Runs the events that wakers queued. Gives their number.
    pub fn wake(&self) -> usize {
        let events = self.schedulers.take_events();
        for _ in 0..events {
            let (at, ours) = (self.envoy(), self.ours.get());
            // SAFETY: as Envoy does.
            self.place
                .hook(|| unsafe { on_config_scheduled(at, ours, 0) });
        }
        events
    }

    /// Answers a call.
    pub fn answer(&self, call: u64, result: u32, headers: &[(&str, &str)], body: &[&str]) {
        let lend = |text: &str| self.place.lend(text.as_bytes());
        let header = |(name, value): &(&str, &str)| Header {
            name: lend(name),
            value: lend(value),
        };
        let headers: Vec<Header> = headers.iter().map(header).collect();
        let body: Vec<Slice> = body.iter().map(|part| lend(part)).collect();
        self.answered(
            call,
            result,
            (headers.as_ptr(), headers.len()),
            (body.as_ptr(), body.len()),
        );
    }

    /// Says that a call failed, as Envoy does: without addresses.
    pub fn fail(&self, call: u64) {
        self.answered(call, 1, (std::ptr::null(), 0), (std::ptr::null(), 0));
    }

    fn answered(
        &self,
        call: u64,
        result: u32,
        headers: (*const Header, usize),
        body: (*const Slice, usize),
    ) {
        let (at, ours) = (self.envoy(), self.ours.get());
        // SAFETY: as Envoy does.
        let run =
            || unsafe { on_answered(at, ours, call, result, headers.0, headers.1, body.0, body.1) };
        self.place.hook(run);
    }

    /// A new stream, on this thread.
    pub fn stream(&self, headers: &[(&str, &str)]) -> Box<Stream> {
        Stream::new(self.ours.get(), headers)
    }

    /// The module's part, for another thread.
    pub fn handle(&self) -> Handle {
        Handle(self.ours.get())
    }

    /// Destroys it on this thread.
    pub fn destroy(&self) {
        self.handle().destroy();
        self.schedulers.check_deleted();
    }
}

/// The module's part of a configuration, which worker threads use.
#[derive(Clone, Copy)]
pub struct Handle(Ours);

// SAFETY: Envoy shares it among its threads.
unsafe impl Send for Handle {}

impl Handle {
    pub fn stream(self, headers: &[(&str, &str)]) -> Box<Stream> {
        Stream::new(self.0, headers)
    }

    /// Destroys the configuration on this thread.
    pub fn destroy(self) {
        // SAFETY: as Envoy does.
        unsafe { on_config_destroy(self.0) }
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_scheduler_new(at: Envoy) -> Envoy {
    Config::at(at).schedulers.make()
}

fn define(at: Envoy, name: Slice, id: *mut usize) -> u32 {
    let mut metrics = Config::at(at).metrics.borrow_mut();
    write(id, metrics.len());
    metrics.push((text(name), 0));
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_define_counter(
    at: Envoy,
    name: Slice,
    _labels: *mut Slice,
    _count: usize,
    id: *mut usize,
) -> u32 {
    define(at, name, id)
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_config_define_gauge(
    at: Envoy,
    name: Slice,
    _labels: *mut Slice,
    _count: usize,
    id: *mut usize,
) -> u32 {
    define(at, name, id)
}

/// What a stream does within a callback that may end it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inline {
    /// It goes on later.
    Nothing,
    /// The response comes.
    Response,
    /// The client is gone: the filter is destroyed.
    Destroy,
}

/// Envoy's object for a stream.
pub struct Stream {
    place: Place,
    ours: Cell<Ours>,
    schedulers: Schedulers,
    headers: RefCell<Vec<(String, String)>>,
    body: RefCell<Vec<Vec<u8>>>,
    pub route: Cell<Ours>,
    /// For an answer and for a continuation.
    pub inline: Cell<Inline>,
    /// The details of each answer.
    pub replies: RefCell<Vec<(u32, String)>>,
    pub continued: Cell<usize>,
    pub metadata: RefCell<Vec<String>>,
    pub counts: RefCell<Vec<(usize, u64)>>,
}

impl Stream {
    fn new(config: Ours, headers: &[(&str, &str)]) -> Box<Self> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let stream = Box::new(Self {
            place: Place::here(),
            ours: Cell::new(std::ptr::null()),
            schedulers: Schedulers::default(),
            headers: RefCell::new(headers.iter().map(own).collect()),
            body: RefCell::default(),
            route: Cell::new(std::ptr::null()),
            inline: Cell::new(Inline::Nothing),
            replies: RefCell::default(),
            continued: Cell::new(0),
            metadata: RefCell::default(),
            counts: RefCell::default(),
        });
        let at = stream.envoy();
        // SAFETY: as Envoy does.
        let ours = stream.place.hook(|| unsafe { on_filter_new(config, at) });
        stream.ours.set(ours);
        stream
    }

    fn at<'a>(at: Envoy) -> &'a Self {
        // SAFETY: the tests keep it.
        let stream = unsafe { &*at.cast::<Self>() };
        stream.place.check();
        stream
    }

    fn envoy(&self) -> Envoy {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    fn hook<T>(&self, run: impl FnOnce(Envoy, Ours) -> T) -> T {
        assert!(!self.is_gone(), "a hook of a stream that is gone");
        self.place.hook(|| run(self.envoy(), self.ours.get()))
    }

    pub fn is_gone(&self) -> bool {
        self.place.gone.get()
    }

    pub fn request(&self, ends: bool) -> u32 {
        // SAFETY: as Envoy does.
        self.hook(|at, ours| unsafe { on_request_headers(at, ours, ends) })
    }

    pub fn body(&self, parts: &[&str], ends: bool) -> u32 {
        let own = |part: &&str| part.as_bytes().to_vec();
        self.body.replace(parts.iter().map(own).collect());
        // SAFETY: as Envoy does.
        self.hook(|at, ours| unsafe { on_request_body(at, ours, ends) })
    }

    pub fn trailers(&self) -> u32 {
        // SAFETY: as Envoy does.
        self.hook(|at, ours| unsafe { on_request_trailers(at, ours) })
    }

    pub fn response(&self) {
        // SAFETY: as Envoy does.
        let status = self.hook(|at, ours| unsafe { on_response_headers(at, ours, false) });
        assert_eq!(status, 0, "the response goes on");
    }

    /// Runs the events that wakers queued, as long as the stream lives. Gives their number.
    pub fn wake(&self) -> usize {
        let events = self.schedulers.take_events();
        for _ in 0..events {
            if !self.is_gone() {
                // SAFETY: as Envoy does.
                self.hook(|at, ours| unsafe { on_scheduled(at, ours, 0) });
            }
        }
        events
    }

    /// Destroys the filter.
    pub fn destroy(&self) {
        assert!(!self.place.gone.replace(true), "a stream ends once");
        // SAFETY: as Envoy does.
        unsafe { on_filter_destroy(self.ours.get()) }
        self.schedulers.check_deleted();
    }

    fn inline(&self) {
        match self.inline.get() {
            Inline::Nothing => {}
            Inline::Response => self.response(),
            Inline::Destroy => self.destroy(),
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_scheduler_new(at: Envoy) -> Envoy {
    Stream::at(at).schedulers.make()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_headers_size(at: Envoy, kind: u32) -> usize {
    assert_eq!(kind, 0, "the request's");
    Stream::at(at).headers.borrow().len()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_headers(
    at: Envoy,
    kind: u32,
    all: *mut Header,
) -> bool {
    assert_eq!(kind, 0, "the request's");
    let stream = Stream::at(at);
    for (index, (name, value)) in stream.headers.borrow().iter().enumerate() {
        let name = stream.place.lend(name.as_bytes());
        let value = stream.place.lend(value.as_bytes());
        // SAFETY: the module has asked for their number.
        let to = unsafe { all.add(index) };
        write(to, Header { name, value });
    }
    true
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_header(
    at: Envoy,
    kind: u32,
    name: Slice,
    value: *mut Slice,
    _index: usize,
    _count: *mut usize,
) -> bool {
    assert_eq!(
        (kind, text(name).as_str()),
        (2, ":status"),
        "all that is asked for"
    );
    write(value, Stream::at(at).place.lend(b"204"));
    true
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_set_header(
    at: Envoy,
    kind: u32,
    name: Slice,
    value: Slice,
) -> bool {
    assert_eq!(kind, 0, "the request's");
    let stream = Stream::at(at);
    let name = text(name);
    let mut headers = stream.headers.borrow_mut();
    headers.retain(|(each, _)| *each != name);
    if !value.start.is_null() {
        headers.push((name, text(value)));
    }
    stream.place.take_back();
    true
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_body_chunks_size(
    at: Envoy,
    kind: u32,
) -> usize {
    assert_eq!(kind, 0, "what just came");
    Stream::at(at).body.borrow().len()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_get_body_chunks(
    at: Envoy,
    kind: u32,
    chunks: *mut Slice,
) -> bool {
    assert_eq!(kind, 0, "what just came");
    let stream = Stream::at(at);
    for (index, chunk) in stream.body.borrow().iter().enumerate() {
        // SAFETY: the module has asked for their number.
        let to = unsafe { chunks.add(index) };
        write(to, stream.place.lend(chunk));
    }
    true
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_send_response(
    at: Envoy,
    status: u32,
    headers: *const Header,
    count: usize,
    body: Slice,
    details: Slice,
) {
    let stream = Stream::at(at);
    assert!(stream.replies.borrow().is_empty(), "a second answer");
    assert_eq!(
        stream.continued.get(),
        0,
        "an answer to a request that went on"
    );
    let headers = pairs(headers, count);
    let text = format!("{} {headers:?} {}", text(details), text(body));
    stream.replies.borrow_mut().push((status, text));
    stream.inline();
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_continue_decoding(at: Envoy) {
    let stream = Stream::at(at);
    assert!(
        stream.replies.borrow().is_empty(),
        "a continuation after an answer"
    );
    stream.continued.set(stream.continued.get() + 1);
    assert_eq!(stream.continued.get(), 1, "a second continuation");
    stream.inline();
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_set_dynamic_metadata_string(
    at: Envoy,
    namespace: Slice,
    key: Slice,
    value: Slice,
) {
    let text = format!("{}.{}={}", text(namespace), text(key), text(value));
    Stream::at(at).metadata.borrow_mut().push(text);
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_get_attribute_string(
    at: Envoy,
    attribute: u32,
    value: *mut Slice,
) -> bool {
    assert_eq!(attribute, 24, "the client's address");
    write(value, Stream::at(at).place.lend(b"192.0.2.7:4711"));
    true
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_get_most_specific_route_config(at: Envoy) -> Ours {
    Stream::at(at).route.get()
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_increment_counter(
    at: Envoy,
    id: usize,
    _labels: *mut Slice,
    _count: usize,
    by: u64,
) -> u32 {
    Stream::at(at).counts.borrow_mut().push((id, by));
    0
}

#[unsafe(no_mangle)]
extern "C" fn envoy_dynamic_module_callback_http_filter_set_gauge(
    at: Envoy,
    id: usize,
    _labels: *mut Slice,
    _count: usize,
    value: u64,
) -> u32 {
    Stream::at(at).counts.borrow_mut().push((id, value));
    0
}

/// A route's configuration, as the module made it. None if the module refuses it.
pub struct Route(pub Ours);

impl Route {
    pub fn load(text: &str) -> Option<Self> {
        // SAFETY: as Envoy does.
        let ours = unsafe { on_route_new(NONE, slice(text.as_bytes())) };
        (!ours.is_null()).then(|| Self(ours))
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        // SAFETY: as Envoy does.
        unsafe { on_route_destroy(self.0) }
    }
}
