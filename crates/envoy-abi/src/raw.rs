//! The C interface, as `abi.h` of Envoy 1.38 to 1.40 declares it
//! (`source/extensions/dynamic_modules/abi/abi.h`). Names are Envoy's without their prefix.

use std::ffi::{CStr, c_void};

/// Bytes of Envoy or of the module. The receiver of a slice may read it until the call or the hook ends.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    pub(crate) start: *const u8,
    pub(crate) length: usize,
}

/// A header of Envoy or of the module.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Header {
    pub(crate) name: Slice,
    pub(crate) value: Slice,
}

/// Envoy's object for a stream, or for a filter's configuration.
pub type Envoy = *mut c_void;
/// The module's object for one of them.
pub type Ours = *const c_void;

pub(crate) const REQUEST_HEADERS: u32 = 0;
pub(crate) const RESPONSE_HEADERS: u32 = 2;
pub(crate) const BUFFERED_REQUEST_BODY: u32 = 1;
pub(crate) const RECEIVED_REQUEST_BODY: u32 = 0;
pub(crate) const SOURCE_ADDRESS: u32 = 24;
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

/// Makes a call from a configuration; since Envoy 1.38.
pub(crate) type Callout =
    unsafe extern "C" fn(Envoy, *mut u64, Slice, *const Header, usize, Slice, u64) -> u32;
/// Changes a metric outside of a stream; since Envoy 1.39.
pub(crate) type ChangeMetric = unsafe extern "C" fn(Envoy, usize, *mut Slice, usize, u64) -> u32;
/// Subscribes to a generic secret, and gives its id; since Envoy 1.40.
pub(crate) type Subscribe = unsafe extern "C" fn(Envoy, Slice, Slice) -> usize;
/// Reads a generic secret by its id; since Envoy 1.40.
pub(crate) type ReadSecret = unsafe extern "C" fn(Envoy, usize, *mut Slice) -> bool;

/// A callback that older versions lack: its address, or null. Rust binds all symbols at load, so
/// naming it as the others would keep the module from loading there.
pub(crate) fn newer(symbol: &CStr) -> *mut c_void {
    // Miri has no dynamic linker.
    if cfg!(miri) {
        return std::ptr::null_mut();
    }
    // SAFETY: dlsym only reads the name, which ends in a zero byte.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) }
}

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
    pub(crate) unsafe fn bytes<'a>(self) -> &'a [u8] {
        // Envoy's empty slices may have no address.
        if self.length == 0 || self.start.is_null() {
            return &[];
        }
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
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
