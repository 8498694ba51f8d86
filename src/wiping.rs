//! Wipes the traces of a callback in the machine's memory: freed blocks, and its part of the
//! stack.
//!
//! Keys, tokens and assertions go through buffers outside of our own types: the SDK's copy of a
//! request's headers, the scratch space of a JSON reader, the old block of a text that grew, the
//! block that a hash works on. So every freed block is wiped, and after each callback the stack
//! below it. Only memory in use keeps secrets: tokens in the caches, the signing key and the keys
//! derived from it.

use std::alloc::System;
use std::hint::black_box;

use proxy_wasm::types::Action;
use zeroizing_alloc::ZeroAlloc;

/// Wipes each freed block of memory.
#[global_allocator]
static WIPING: ZeroAlloc<System> = ZeroAlloc(System);

/// The size of the stack that is wiped after a request's head that goes on at once: a warm
/// request uses little more than 1 KiB. Wiping more would only evict other data from the
/// processor's cache. The host model checks that no callback goes deeper.
const WARM_BYTES: usize = 4 * 1024;
/// The same after all other callbacks, which sign and read JSON.
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

/// Runs a callback in frames of its own, below those of the caller.
#[inline(never)]
fn apart<T>(act: impl FnOnce() -> T) -> T {
    act()
}

/// Wipes the memory where the frames of [`apart`] were.
#[inline(never)]
fn wipe_stack<const BYTES: usize>() {
    let mut frames = [0_u8; BYTES];
    black_box(&mut frames);
}
