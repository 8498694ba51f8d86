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

use proxy_wasm::types::Action;
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

/// Runs a callback, then wipes the stack that it used, however deep it went.
pub(super) fn wiping<T>(act: impl FnOnce() -> T) -> T {
    let result = apart(act);
    wipe_stack::<COLD_BYTES>();
    result
}

/// The same for the callback of a request's head.
pub(super) fn wiping_head(act: impl FnOnce() -> Action) -> Action {
    let action = apart(act);
    match action {
        Action::Continue => wipe_stack::<WARM_BYTES>(),
        _ => wipe_stack::<COLD_BYTES>(),
    }
    action
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
