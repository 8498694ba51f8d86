//! Wipes what a callback leaves behind in the machine's memory: what it frees, and its
//! part of the stack.
//!
//! Keys, tokens and assertions go through buffers that no type of ours is around: the
//! SDK's copy of a request's headers, what a reader of JSON keeps aside, the place that a
//! text outgrew, the block that a hash works on. So all that is given back is wiped, and
//! after each callback the stack below it. What stays is what is in use: tokens in the
//! caches, the signing key and what is derived from it.

use std::alloc::System;
use std::hint::black_box;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};
use zeroizing_alloc::ZeroAlloc;

/// Wipes each block of memory that is given back.
#[global_allocator]
static WIPING: ZeroAlloc<System> = ZeroAlloc(System);

/// How much of the stack is wiped after a request's head that goes on at once: a warm one uses
/// little more than 1 KiB. More would only push others out of the processor's cache. The host
/// model sees to it that nothing goes deeper.
const WARM_BYTES: usize = 4 * 1024;
/// The same after all others, which sign and read JSON.
const COLD_BYTES: usize = 64 * 1024;

/// A context whose callbacks leave nothing on the stack.
pub(super) struct Wiping<C>(pub(super) C);

/// Runs this, then wipes the stack that it used, however deep it went.
fn wiping<T>(act: impl FnOnce() -> T) -> T {
    let result = apart(act);
    wipe_stack::<COLD_BYTES>();
    result
}

/// In frames of its own, below those of the caller.
#[inline(never)]
fn apart<T>(act: impl FnOnce() -> T) -> T {
    act()
}

/// Lies where the frames of [`apart`] were.
#[inline(never)]
fn wipe_stack<const BYTES: usize>() {
    let mut frames = [0_u8; BYTES];
    black_box(&mut frames);
}

impl<C: Context> Context for Wiping<C> {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, trailers: usize) {
        wiping(|| {
            self.0.on_http_call_response(token, headers, body, trailers);
        });
    }

    fn on_done(&mut self) -> bool {
        self.0.on_done()
    }
}

impl<C: HttpContext> HttpContext for Wiping<C> {
    fn on_http_request_headers(&mut self, count: usize, end_of_stream: bool) -> Action {
        let action = apart(|| self.0.on_http_request_headers(count, end_of_stream));
        match action {
            Action::Continue => wipe_stack::<WARM_BYTES>(),
            _ => wipe_stack::<COLD_BYTES>(),
        }
        action
    }

    fn on_http_request_body(&mut self, bytes: usize, end_of_stream: bool) -> Action {
        wiping(|| self.0.on_http_request_body(bytes, end_of_stream))
    }

    fn on_http_response_headers(&mut self, count: usize, end_of_stream: bool) -> Action {
        self.0.on_http_response_headers(count, end_of_stream)
    }

    fn on_log(&mut self) {
        self.0.on_log();
    }
}

impl<C: RootContext> RootContext for Wiping<C> {
    fn on_vm_start(&mut self, bytes: usize) -> bool {
        self.0.on_vm_start(bytes)
    }

    fn on_configure(&mut self, bytes: usize) -> bool {
        wiping(|| self.0.on_configure(bytes))
    }

    fn on_tick(&mut self) {
        wiping(|| self.0.on_tick());
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        self.0.create_http_context(id)
    }

    fn get_type(&self) -> Option<ContextType> {
        self.0.get_type()
    }
}
