//! The C interface, as `abi.h` of Envoy 1.38 to 1.40 declares it
//! (`source/extensions/dynamic_modules/abi/abi.h`). Names are Envoy's without their prefix.

use std::ffi::{c_char, c_void};

/// Bytes of Envoy or of the module. The receiver of a slice may read it until the call or the hook ends.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    /// Its first byte.
    pub start: *const u8,
    /// Their number.
    pub length: usize,
}

/// A header of Envoy or of the module.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Its name.
    pub name: Slice,
    /// Its value.
    pub value: Slice,
}

/// Envoy's object for a stream, or for a filter's configuration.
pub type Envoy = *mut c_void;
/// The module's object for one of them.
pub type Ours = *const c_void;

pub(crate) const REQUEST_HEADERS: u32 = 0;
pub(crate) const RESPONSE_HEADERS: u32 = 2;
pub(crate) const RECEIVED_REQUEST_BODY: u32 = 0;
pub(crate) const SOURCE_ADDRESS: u32 = 24;
pub(crate) const ROUTE_NAME: u32 = 61;
pub(crate) const SUCCESS: u32 = 0;

macro_rules! callbacks {
    ($($name:ident = $symbol:literal ($($arg:ident: $type:ty),*) $(-> $out:ty)?;)*) => {
        unsafe extern "C" {
            $(#[link_name = concat!("envoy_dynamic_module_callback_", $symbol)]
            pub(crate) fn $name($($arg: $type),*) $(-> $out)?;)*
        }
    };
}

callbacks! {
    log = "log" (level: u32, line: Slice);
    get_headers_size = "http_get_headers_size" (stream: Envoy, kind: u32) -> usize;
    get_headers = "http_get_headers" (stream: Envoy, kind: u32, all: *mut Header) -> bool;
    get_header = "http_get_header" (stream: Envoy, kind: u32, name: Slice, value: *mut Slice, at: usize, count: *mut usize) -> bool;
    set_header = "http_set_header" (stream: Envoy, kind: u32, name: Slice, value: Slice) -> bool;
    send_response = "http_send_response" (stream: Envoy, status: u32, headers: *const Header, count: usize, body: Slice, details: Slice);
    get_body_chunks_size = "http_get_body_chunks_size" (stream: Envoy, kind: u32) -> usize;
    get_body_chunks = "http_get_body_chunks" (stream: Envoy, kind: u32, chunks: *mut Slice) -> bool;
    set_metadata = "http_set_dynamic_metadata_string" (stream: Envoy, namespace: Slice, key: Slice, value: Slice);
    get_attribute = "http_filter_get_attribute_string" (stream: Envoy, attribute: u32, value: *mut Slice) -> bool;
    continue_decoding = "http_filter_continue_decoding" (stream: Envoy);
    get_route_config = "get_most_specific_route_config" (stream: Envoy) -> Ours;
    scheduler_new = "http_filter_scheduler_new" (stream: Envoy) -> Envoy;
    scheduler_commit = "http_filter_scheduler_commit" (scheduler: Envoy, event: u64);
    scheduler_delete = "http_filter_scheduler_delete" (scheduler: Envoy);
    config_scheduler_new = "http_filter_config_scheduler_new" (config: Envoy) -> Envoy;
    config_scheduler_commit = "http_filter_config_scheduler_commit" (scheduler: Envoy, event: u64);
    config_scheduler_delete = "http_filter_config_scheduler_delete" (scheduler: Envoy);
    define_counter = "http_filter_config_define_counter" (config: Envoy, name: Slice, labels: *mut Slice, count: usize, id: *mut usize) -> u32;
    define_gauge = "http_filter_config_define_gauge" (config: Envoy, name: Slice, labels: *mut Slice, count: usize, id: *mut usize) -> u32;
    stream_increment = "http_filter_increment_counter" (stream: Envoy, id: usize, labels: *mut Slice, count: usize, by: u64) -> u32;
    stream_set_gauge = "http_filter_set_gauge" (stream: Envoy, id: usize, labels: *mut Slice, count: usize, value: u64) -> u32;
}

unsafe extern "C" {
    /// Miri has no dynamic linker: there, the fake Envoy stands in.
    #[cfg_attr(miri, link_name = "envoy_abi_dlsym")]
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

/// Callbacks that older versions lack. Rust binds the symbols above at load, and one that is missing
/// keeps the module from loading; these are looked up by name, and may be none.
macro_rules! newer {
    ($($name:ident = $symbol:literal ($($arg:ident: $type:ty),*) -> $out:ty;)*) => {$(
        pub(crate) fn $name() -> Option<unsafe extern "C" fn($($type),*) -> $out> {
            let symbol = concat!("envoy_dynamic_module_callback_", $symbol, "\0");
            // SAFETY: dlsym only reads the name, which ends in a zero byte.
            let found = unsafe { dlsym(libc::RTLD_DEFAULT, symbol.as_ptr().cast()) };
            // SAFETY: each Envoy that has a callback of this name has it with this type; null is none.
            unsafe { std::mem::transmute::<*mut c_void, Option<_>>(found) }
        }
    )*};
}

newer! {
    // Since Envoy 1.38.
    callout = "http_filter_config_http_callout" (config: Envoy, call: *mut u64, cluster: Slice, headers: *const Header, count: usize, body: Slice, timeout: u64) -> u32;
    // Since Envoy 1.39.
    increment = "http_filter_config_increment_counter" (config: Envoy, id: usize, labels: *mut Slice, count: usize, by: u64) -> u32;
    set_gauge = "http_filter_config_set_gauge" (config: Envoy, id: usize, labels: *mut Slice, count: usize, value: u64) -> u32;
    // Since Envoy 1.40.
    subscribe = "http_filter_config_generic_secret_subscribe" (config: Envoy, name: Slice, source: Slice) -> usize;
    get_secret = "http_filter_config_get_generic_secret" (config: Envoy, id: usize, value: *mut Slice) -> bool;
}

/// A callback that changes a metric.
pub(crate) type Change = unsafe extern "C" fn(Envoy, usize, *mut Slice, usize, u64) -> u32;

impl Slice {
    pub(crate) const EMPTY: Self = Self {
        start: std::ptr::null(),
        length: 0,
    };

    /// The module's bytes, for one call.
    pub(crate) const fn of(bytes: &[u8]) -> Self {
        Self {
            start: bytes.as_ptr(),
            length: bytes.len(),
        }
    }

    /// The bytes.
    ///
    /// # Safety
    /// They must stay readable, and must not change, for as long as `'a` lasts.
    pub(crate) const unsafe fn bytes<'a>(self) -> &'a [u8] {
        // SAFETY: the caller's promise.
        unsafe { array(self.start, self.length) }
    }
}

/// Values that Envoy lends. Where there are none, Envoy may give no address.
///
/// # Safety
/// `start` must be null, or lead to `count` values that stay readable and do not change for as long as
/// `'a` lasts.
pub(crate) const unsafe fn array<'a, T>(start: *const T, count: usize) -> &'a [T] {
    if start.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(start, count) }
}

impl Header {
    pub(crate) const EMPTY: Self = Self {
        name: Slice::EMPTY,
        value: Slice::EMPTY,
    };

    /// The module's header, for one call.
    pub(crate) const fn of(name: &str, value: &str) -> Self {
        Self {
            name: Slice::of(name.as_bytes()),
            value: Slice::of(value.as_bytes()),
        }
    }
}
