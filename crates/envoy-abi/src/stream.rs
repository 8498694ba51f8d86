//! A stream, as its hooks see it.

use std::marker::PhantomData;
use std::ptr::null_mut;

use crate::config::MetricId;
use crate::raw::{
    self, Envoy, Header, RECEIVED_REQUEST_BODY, REQUEST_HEADERS, RESPONSE_HEADERS, Slice,
};
use crate::waker::Waker;
use crate::{Foreign, Module, hooks};

/// A stream, for the time of one hook, on its thread.
///
/// What it lends is gone once it changes:
/// ```compile_fail,E0502
/// fn keep<M: envoy_abi::Module>(stream: &mut envoy_abi::Stream<'_, M>) -> usize {
///     let headers = stream.request_headers();
///     let _ = stream.remove_header("authorization");
///     headers.len()
/// }
/// ```
/// It does not leave its thread:
/// ```compile_fail,E0277
/// fn sent<T: Send>() {}
/// fn stream<M: envoy_abi::Module>() {
///     sent::<envoy_abi::Stream<'static, M>>();
/// }
/// ```
#[derive(Debug)]
pub struct Stream<'a, M> {
    stream: Envoy,
    waker: &'a mut Option<Waker>,
    module: PhantomData<fn() -> M>,
}

impl<'a, M: Module> Stream<'a, M> {
    /// # Safety
    /// `stream` must be Envoy's object of the stream whose hook runs, on this thread, until `'a` ends.
    pub(crate) const unsafe fn new(stream: Envoy, waker: &'a mut Option<Waker>) -> Self {
        Self {
            stream,
            waker,
            module: PhantomData,
        }
    }

    /// The request's headers, with the pseudo-headers; names in lower case.
    #[must_use]
    pub fn request_headers(&self) -> Vec<(&[u8], &[u8])> {
        // SAFETY: the hook of this stream runs.
        let count = unsafe { raw::get_headers_size(self.stream, REQUEST_HEADERS) };
        let mut all = vec![Header::EMPTY; count];
        // SAFETY: there is room for `count` headers, and none was added since.
        if !unsafe { raw::get_headers(self.stream, REQUEST_HEADERS, all.as_mut_ptr()) } {
            return Vec::new();
        }
        // SAFETY: Envoy keeps the bytes until the hook ends or a header changes; the borrow of `self`
        // ends before both.
        let bytes = |slice: Slice| unsafe { slice.bytes() };
        let pair = |header: Header| (bytes(header.name), bytes(header.value));
        all.into_iter().map(pair).collect()
    }

    /// The part of the body that just came.
    pub(crate) fn body(&self) -> Vec<&[u8]> {
        // SAFETY: the hook of this stream runs.
        let count = unsafe { raw::get_body_chunks_size(self.stream, RECEIVED_REQUEST_BODY) };
        let mut all = vec![Slice::EMPTY; count];
        // SAFETY: there is room for `count` chunks.
        if !unsafe { raw::get_body_chunks(self.stream, RECEIVED_REQUEST_BODY, all.as_mut_ptr()) } {
            return Vec::new();
        }
        // SAFETY: Envoy keeps the bytes until the hook ends; the borrow of `self` ends before.
        all.into_iter()
            .map(|chunk| unsafe { chunk.bytes() })
            .collect()
    }

    /// The status of the response, in a response's hook.
    #[must_use]
    pub fn response_status(&self) -> Option<u16> {
        let (name, mut value, count) = (Slice::of(b":status"), Slice::EMPTY, null_mut());
        // SAFETY: the hook of this stream runs; Envoy writes the value, and takes a null count.
        let found = unsafe {
            raw::get_header(
                self.stream,
                RESPONSE_HEADERS,
                name,
                &raw mut value,
                0,
                count,
            )
        };
        // SAFETY: as above; the bytes are read at once.
        let bytes = unsafe { value.bytes() };
        std::str::from_utf8(bytes)
            .ok()
            .filter(|_| found)?
            .parse()
            .ok()
    }

    /// Sets a header of the request; any of this name go. False if Envoy does not.
    #[must_use]
    pub fn set_header(&mut self, name: &str, value: &str) -> bool {
        self.change(name, Slice::of(value.as_bytes()))
    }

    /// Takes all headers of this name out of the request. False if Envoy does not.
    #[must_use]
    pub fn remove_header(&mut self, name: &str) -> bool {
        self.change(name, Slice::EMPTY)
    }

    fn change(&mut self, name: &str, value: Slice) -> bool {
        let name = Slice::of(name.as_bytes());
        // SAFETY: the hook of this stream runs; Envoy copies both. A value without an address removes.
        unsafe { raw::set_header(self.stream, REQUEST_HEADERS, name, value) }
    }

    /// The client's address with its port, after `xff_num_trusted_hops`.
    #[must_use]
    pub fn source_address(&self) -> Option<String> {
        self.attribute(raw::SOURCE_ADDRESS)
    }

    /// The name of the stream's route; none if it has no name.
    #[must_use]
    pub fn route_name(&self) -> Option<String> {
        let name = self.attribute(raw::ROUTE_NAME);
        name.filter(|name| !name.is_empty())
    }

    fn attribute(&self, attribute: u32) -> Option<String> {
        let mut value = Slice::EMPTY;
        // SAFETY: the hook of this stream runs; Envoy writes the value.
        let found = unsafe { raw::get_attribute(self.stream, attribute, &raw mut value) };
        // SAFETY: Envoy keeps the bytes until the hook ends; they are copied at once.
        let bytes = unsafe { value.bytes() };
        found.then(|| String::from_utf8_lossy(bytes).into_owned())
    }

    /// Sets a text in the stream's dynamic metadata, for access logs and other filters.
    pub fn set_metadata(&mut self, namespace: &str, key: &str, value: &str) {
        let slice = |text: &str| Slice::of(text.as_bytes());
        // SAFETY: the hook of this stream runs; Envoy copies all three.
        unsafe { raw::set_metadata(self.stream, slice(namespace), slice(key), slice(value)) }
    }

    /// The configuration of the stream's route, if it has one of its own.
    ///
    /// # Errors
    /// It is another module's: Envoy does not compare the modules of a filter and a route.
    pub fn route_config(&self) -> Result<Option<&M::RouteConfig>, Foreign> {
        // SAFETY: the hook of this stream runs.
        let config = unsafe { raw::get_route_config(self.stream) };
        if !config.is_null() && !hooks::is_route(config) {
            return Err(Foreign);
        }
        // SAFETY: null, or `hooks::route_new` made it from a box of this type; the stream's route, which
        // Envoy keeps for the hook, keeps it.
        Ok(unsafe { config.cast::<M::RouteConfig>().as_ref() })
    }

    /// The stream's waker.
    pub fn waker(&mut self) -> Waker {
        let stream = self.stream;
        let made = || {
            // SAFETY: the hook of this stream runs.
            let scheduler = unsafe { raw::scheduler_new(stream) };
            // SAFETY: it is new.
            unsafe { Waker::new(scheduler, raw::scheduler_commit, raw::scheduler_delete) }
        };
        self.waker.get_or_insert_with(made).clone()
    }

    /// Adds to a counter.
    pub fn increment(&self, counter: MetricId, by: u64) {
        // SAFETY: the hook of this stream runs; without labels, Envoy reads none. An unknown id is an error
        // that Envoy returns, and then the count is lost.
        unsafe { raw::stream_increment(self.stream, counter.0, null_mut(), 0, by) };
    }

    /// Sets a gauge.
    pub fn set_gauge(&self, gauge: MetricId, value: u64) {
        // SAFETY: as for `increment`.
        unsafe { raw::stream_set_gauge(self.stream, gauge.0, null_mut(), 0, value) };
    }
}
