//! A module whose hooks do what the test's thread has scripted.

#![allow(unreachable_pub, clippy::panic, reason = "a module of a test")]

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use envoy_abi::{Answer, Filter, Loading, Module, Outside, Reply, Step, Stream, http_module};

pub const SECOND: Duration = Duration::from_secs(1);

pub type OnWake = Box<dyn Fn(&Outside<'_>) + Send>;
pub type OnStream = Box<dyn FnMut(&mut Stream<'_, Probe>) -> Step>;

pub type Load = Box<dyn Fn(&mut Loading<'_>) -> Result<OnWake, String>>;
pub type OnBody = Box<dyn FnMut(&[&[u8]], bool) -> Step>;
pub type OnResponse = Box<dyn FnMut(&Stream<'_, Probe>)>;

pub struct Script {
    pub load: Load,
    pub filter: Box<dyn Fn()>,
    pub headers: OnStream,
    pub body: OnBody,
    pub wake: OnStream,
    pub response: OnResponse,
    pub dropped: fn(),
    pub refusal: fn() -> Reply,
}

thread_local! {
    static NOTES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static SCRIPT: RefCell<Script> = RefCell::new(Script {
        load: Box::new(|_| Ok(Box::new(|_| {}))),
        filter: Box::new(|| {}),
        headers: Box::new(|_| Step::Continue),
        body: Box::new(|_, _| Step::Continue),
        wake: Box::new(|_| Step::Continue),
        response: Box::new(|_| {}),
        dropped: || {},
        refusal: || reply("panicked"),
    });
}

pub fn script(change: impl FnOnce(&mut Script)) {
    SCRIPT.with_borrow_mut(change);
}

/// Notes a hook on this thread.
pub fn note(line: impl Into<String>) {
    NOTES.with_borrow_mut(|notes| notes.push(line.into()));
}

/// The notes since the last look.
pub fn notes() -> Vec<String> {
    NOTES.take()
}

pub fn reply(details: &str) -> Reply {
    Reply {
        status: 403,
        headers: vec![("x-why".to_owned(), "test".to_owned())],
        body: b"no".to_vec(),
        details: details.to_owned(),
    }
}

#[derive(Debug)]
pub struct Probe {
    on_wake: Mutex<Hidden<OnWake>>,
}

pub struct Hidden<T>(T);

impl<T> std::fmt::Debug for Hidden<T> {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl Module for Probe {
    type Filter = Scripted;
    type RouteConfig = RouteText;

    fn load(text: &[u8], loading: &mut Loading<'_>) -> Result<Self, String> {
        note(format!("load {}", String::from_utf8_lossy(text)).trim());
        let on_wake = SCRIPT.with_borrow(|script| (script.load)(loading))?;
        Ok(Self {
            on_wake: Mutex::new(Hidden(on_wake)),
        })
    }

    fn load_route(text: &[u8]) -> Result<RouteText, String> {
        match text {
            b"panic" => panic!("asked for"),
            b"" => Err("empty".to_owned()),
            text => Ok(RouteText(String::from_utf8_lossy(text).into_owned())),
        }
    }

    fn filter(&self) -> Scripted {
        SCRIPT.with_borrow(|script| (script.filter)());
        Scripted
    }

    fn on_wake(&self, outside: &Outside<'_>) {
        (self
            .on_wake
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0)(outside);
    }

    fn on_answer(&self, call: u64, answer: Option<Answer<'_>>) {
        let text = |answer: &Answer<'_>| {
            let body = String::from_utf8_lossy(&answer.body.concat()).into_owned();
            format!("{} {body}", answer.status)
        };
        let text = answer.as_ref().map_or("none".to_owned(), text);
        note(format!("answer {call}: {text}"));
        assert_ne!(text, "500 panic", "asked for");
    }

    fn on_end(&self) {
        note("end");
        SCRIPT.with_borrow(|script| (script.dropped)());
    }

    fn panicked() -> Reply {
        (SCRIPT.with_borrow(|script| script.refusal))()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        SCRIPT.with_borrow(|script| (script.dropped)());
    }
}

#[derive(Debug)]
pub struct RouteText(pub String);

impl Drop for RouteText {
    fn drop(&mut self) {
        assert_ne!(self.0, "panic at the end", "asked for");
    }
}

#[derive(Debug)]
pub struct Scripted;

impl Filter for Scripted {
    type Module = Probe;

    fn on_request_headers(&mut self, stream: &mut Stream<'_, Probe>, _ends: bool) -> Step {
        note("headers");
        SCRIPT.with_borrow_mut(|script| (script.headers)(stream))
    }

    fn on_request_body(&mut self, part: &[&[u8]], ends: bool) -> Step {
        note("body");
        SCRIPT.with_borrow_mut(|script| (script.body)(part, ends))
    }

    fn on_wake(&mut self, stream: &mut Stream<'_, Probe>) -> Step {
        note("wake");
        SCRIPT.with_borrow_mut(|script| (script.wake)(stream))
    }

    fn on_response_headers(&mut self, stream: &Stream<'_, Probe>) {
        note("response");
        SCRIPT.with_borrow_mut(|script| (script.response)(stream));
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        note("drop");
        SCRIPT.with_borrow(|script| (script.dropped)());
    }
}

http_module!(Probe);
