//! The host of one virtual machine: every proxy-wasm function as a method.
//!
//! The linker of [`super::imports`] calls them for the wasm; naive filters, written as
//! plain functions, call them as they are. The differences between Kong and Envoy are
//! decided here, by the node's profile, each where it is met.

use std::collections::BTreeMap;

use super::abi::{self, HostResult, Pairs, Status, refuse, trap, value_of};
use super::node::{Metric, Profile, Random, Sent, SharedNode};

/// The running callback of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    VmStart,
    Configure,
    RequestHeaders,
    RequestBody,
    ResponseHeaders,
    Tick,
    CallResponse,
    /// Done, log, delete, and everything before the first callback.
    Other,
}

/// An answer of the filter itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalResponse {
    pub status: u32,
    pub headers: Pairs,
    pub body: Vec<u8>,
}

/// A context of the filter: a root, or a request.
#[derive(Default)]
pub struct ContextState {
    pub root: u32,
    pub request_id: Vec<u8>,
    pub request_headers: Pairs,
    /// Headers that were removed, and copies of a header that was set: Kong hides them from
    /// filters, and its proxy sends them to the service (K2).
    pub hidden_headers: Pairs,
    /// The last answer had no body: the next callout of this request reads into a buffer
    /// that is in use (K4).
    pub poisoned: bool,
    /// A POST ran into the host's time limit: the body of a later answer is emptied (K7).
    pub loses_body: bool,
    /// The part of the body that has arrived.
    pub request_body: Vec<u8>,
    /// Kong's nginx wrote it to a file: the filter sees its size, and none of its bytes.
    pub body_in_file: bool,
    pub resumed: u32,
    pub local_responses: Vec<LocalResponse>,
    pub in_flight_max: usize,
}

/// A callout that waits for its answer.
#[derive(Clone, Debug)]
pub struct Callout {
    pub token: u32,
    pub context: u32,
    pub sent: Sent,
}

/// The end of a callout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Response { headers: Pairs, body: Vec<u8> },
    Failed(&'static str),
}

pub struct Host {
    pub node: SharedNode,
    pub profile: Profile,
    pub context: u32,
    pub step: Step,
    pub contexts: BTreeMap<u32, ContextState>,
    pub configurations: BTreeMap<u32, Vec<u8>>,
    pub in_flight: BTreeMap<u32, Callout>,
    pub answer: Option<Answer>,
    /// The period of each root context.
    pub tick_periods_ms: BTreeMap<u32, u32>,
    pub random: Random,
}

/// The most entries of a map that Kong shows a filter.
const KONG_PAIRS_MAX: usize = 100;
/// Pseudo-headers that Kong puts before the headers of a request in its map, and does not
/// count in the number that it gives.
pub const KONG_PSEUDO_HEADERS: usize = 4;
/// The failure of a callout that ran into the host's time limit.
pub const TIMED_OUT: &str = "timeout";
/// The beginning of Kong's error lines for a property that a root context asks for.
pub const OUTSIDE: &str = "[error] cannot get";

/// A map as Kong writes it (`ngx_proxy_wasm_pairs_marshal`): Kong allocates room for the
/// first 100 headers and a part of the pseudo-headers, then writes the pseudo-headers and
/// the headers after them, 100 in all. If they need more than that room, the write goes
/// past the filter's block of memory; if they need less, some bytes stay unwritten (K6).
fn kong_map(pairs: &Pairs) -> HostResult<Vec<u8>> {
    if pairs.len() <= KONG_PAIRS_MAX {
        return Ok(abi::serialize(pairs));
    }
    let (pseudo, headers) = pairs.split_at(KONG_PSEUDO_HEADERS.min(pairs.len()));
    let counted = headers.len().min(KONG_PAIRS_MAX);
    let of_pseudo = (KONG_PAIRS_MAX - counted + 1).min(pseudo.len());
    let room: Pairs = [&headers[..counted], &pseudo[..of_pseudo]].concat();
    let room = abi::serialize(&room).len();
    let mut written = abi::serialize(&pairs[..KONG_PAIRS_MAX].to_vec());
    if written.len() > room {
        return trap("SIGSEGV, or worse: headers are written past the filter's memory");
    }
    written.resize(room, 0xaa);
    Ok(written)
}

impl Host {
    pub fn new(node: SharedNode, random: Random) -> Self {
        let profile = node.borrow().profile;
        Self {
            node,
            profile,
            context: 0,
            step: Step::Other,
            contexts: BTreeMap::new(),
            configurations: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            answer: None,
            tick_periods_ms: BTreeMap::new(),
            random,
        }
    }

    fn on_kong(&self) -> bool {
        self.profile == Profile::Kong
    }

    // --- log, time, random bytes, variables --------------------------------------

    pub fn log(&mut self, level: i32, message: &[u8]) {
        let text = String::from_utf8_lossy(message);
        self.node.borrow_mut().log(format!("[{level}] {text}"));
    }

    pub fn current_time_ns(&self) -> HostResult<u64> {
        match self.node.borrow().clock {
            Some(now) => Ok(now.0 * 1_000_000),
            None => refuse(Status::InternalFailure),
        }
    }

    pub fn random_get(&mut self, bytes: &mut [u8]) -> bool {
        self.random.fill(bytes)
    }

    /// WASI's variables: on Kong those of nginx's process, which hold no secret here.
    pub fn environment(&self) -> Vec<(String, String)> {
        if self.on_kong() {
            return Vec::new();
        }
        self.node.borrow().variables.clone()
    }

    pub fn set_tick_period(&mut self, period_ms: u32) -> HostResult<()> {
        let known = self.tick_periods_ms.insert(self.context, period_ms);
        if self.on_kong() && known.is_some() {
            return trap("tick_period already set");
        }
        Ok(())
    }

    // --- contexts ----------------------------------------------------------------

    pub fn set_effective_context(&mut self, context: u32) -> HostResult<()> {
        // Kong says Ok and does nothing.
        if !self.on_kong() {
            if !self.contexts.contains_key(&context) {
                return refuse(Status::BadArgument);
            }
            self.context = context;
        }
        Ok(())
    }

    pub fn continue_stream(&mut self, stream: i32) -> HostResult<()> {
        if stream != abi::REQUEST_STREAM {
            return refuse(Status::Unimplemented);
        }
        let context = self.contexts.get_mut(&self.context);
        let Some(context) = context else {
            return refuse(Status::BadArgument);
        };
        context.resumed += 1;
        Ok(())
    }

    pub fn send_local_response(&mut self, mut response: LocalResponse) -> HostResult<()> {
        let (on_kong, id) = (self.on_kong(), self.context);
        let Some(context) = self.contexts.get(&id) else {
            return refuse(Status::BadArgument);
        };
        let request = context.request_id.clone();
        let is_answered = |(known, context): (&u32, &ContextState)| {
            (*known == id || context.request_id == request) && !context.local_responses.is_empty()
        };
        if on_kong && self.contexts.iter().any(is_answered) {
            return trap("local response already stashed");
        }
        let Some(context) = self.contexts.get_mut(&id) else {
            return refuse(Status::BadArgument);
        };
        if context.loses_body {
            response.body.clear();
        }
        context.local_responses.push(response);
        if on_kong {
            self.in_flight.retain(|_, callout| callout.context != id);
        }
        Ok(())
    }

    /// Whether the host says that the headers are the whole request.
    pub fn end_of_stream(&self, has_body: bool) -> bool {
        !self.on_kong() && !has_body
    }

    /// The body of the current callback's request.
    fn request_body(&self) -> HostResult<&[u8]> {
        match self.contexts.get(&self.context) {
            Some(context) if self.step == Step::RequestBody => match context.body_in_file {
                true => refuse(Status::NotFound),
                false => Ok(&context.request_body),
            },
            _ => refuse(Status::NotFound),
        }
    }

    // --- maps and buffers ----------------------------------------------------------

    /// A map in the form that the filter receives.
    pub fn header_map(&self, map: i32) -> HostResult<Vec<u8>> {
        let pairs = match (map, &self.answer) {
            (abi::REQUEST_HEADERS, _) => self.request_headers()?,
            (abi::CALL_RESPONSE_HEADERS, Some(Answer::Response { headers, .. })) => headers,
            _ => return refuse(Status::BadArgument),
        };
        match self.on_kong() {
            true => kong_map(pairs),
            false => Ok(abi::serialize(pairs)),
        }
    }

    pub fn header_value(&self, map: i32, name: &[u8]) -> HostResult<Vec<u8>> {
        if map == abi::CALL_RESPONSE_HEADERS
            && let Some(Answer::Failed(why)) = self.answer
        {
            // Envoy has no map then, and asking for one is an error.
            return match (self.profile, name) {
                (Profile::Kong, b":dispatch_status") => Ok(why.as_bytes().to_vec()),
                (Profile::Kong, _) => refuse(Status::NotFound),
                (Profile::Envoy, _) => refuse(Status::BadArgument),
            };
        }
        let name = String::from_utf8_lossy(name).into_owned();
        let pairs = match (map, &self.answer) {
            (abi::REQUEST_HEADERS, _) => self.request_headers()?,
            (abi::CALL_RESPONSE_HEADERS, Some(Answer::Response { headers, .. })) => headers,
            _ => return refuse(Status::BadArgument),
        };
        match value_of(pairs, &name) {
            Some(value) => Ok(value.to_vec()),
            None => refuse(Status::NotFound),
        }
    }

    fn request_headers(&self) -> HostResult<&Pairs> {
        match self.contexts.get(&self.context) {
            Some(context) if context.root != 0 => Ok(&context.request_headers),
            _ => refuse(Status::BadArgument),
        }
    }

    /// Removes a request header, or sets it if there is a value.
    pub fn replace_header(
        &mut self,
        map: i32,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> HostResult<()> {
        self.request_headers()?;
        let on_kong = self.on_kong();
        let context = self.contexts.get_mut(&self.context);
        let Some(context) = context.filter(|_| map == abi::REQUEST_HEADERS) else {
            return refuse(Status::BadArgument);
        };
        let is_named = |known: &[u8]| known.eq_ignore_ascii_case(name);
        let headers = &mut context.request_headers;
        let first = headers.iter().position(|(known, _)| is_named(known));
        let (named, others): (Pairs, Pairs) = std::mem::take(headers)
            .into_iter()
            .partition(|(known, _)| is_named(known));
        *headers = others;
        if on_kong {
            let is_list = [&b"cookie"[..], b"x-forwarded-for"]
                .iter()
                .any(|list| is_named(list));
            if value.is_none() && is_list && named.len() != 1 {
                return trap("SIGSEGV: removal of a header that is a list for nginx");
            }
            // The first header of that name is overwritten.
            let written = usize::from(value.is_some());
            context
                .hidden_headers
                .extend(named.into_iter().skip(written));
        }
        if let Some(value) = value {
            let at = first.unwrap_or(headers.len());
            headers.insert(at, (name.to_vec(), value.to_vec()));
        }
        Ok(())
    }

    /// The headers that the service gets if the request goes on.
    pub fn headers_to_service(&self, context: u32) -> Pairs {
        let context = &self.contexts[&context];
        [&context.request_headers[..], &context.hidden_headers].concat()
    }

    /// Puts other bytes in the place of the request's body.
    pub fn set_request_body(
        &mut self,
        start: usize,
        length: usize,
        bytes: &[u8],
    ) -> HostResult<()> {
        if self.step != Step::RequestBody {
            return trap("can only set request body during \"on_request_body\"");
        }
        let Some(context) = self.contexts.get_mut(&self.context) else {
            return refuse(Status::BadArgument);
        };
        let body = &mut context.request_body;
        if start != 0 || length < body.len() {
            return refuse(Status::Unimplemented);
        }
        if self.profile == Profile::Kong && bytes.is_empty() {
            return trap("zero size buf in writer");
        }
        bytes.clone_into(body);
        Ok(())
    }

    pub fn add_header(&mut self, map: i32, name: &[u8], value: &[u8]) -> HostResult<()> {
        let before = self.header_value(map, name);
        self.replace_header(map, name, Some(value))?;
        if let (Ok(before), Some(context)) = (before, self.contexts.get_mut(&self.context)) {
            context.request_headers.push((name.to_vec(), before));
        }
        Ok(())
    }

    pub fn buffer(&self, buffer: i32, start: usize, length: usize) -> HostResult<Vec<u8>> {
        let bytes: &[u8] = match (buffer, &self.answer) {
            (abi::PLUGIN_CONFIGURATION, _) => {
                let of = self
                    .contexts
                    .get(&self.context)
                    .map_or(0, |known| known.root);
                let root = if of == 0 { self.context } else { of };
                self.configurations.get(&root).map_or(&[], Vec::as_slice)
            }
            (abi::VM_CONFIGURATION, _) => &[],
            (abi::REQUEST_BODY, _) => self.request_body()?,
            (abi::CALL_RESPONSE_BODY, Some(Answer::Response { body, .. })) => body,
            _ => return refuse(Status::BadArgument),
        };
        let end = start.saturating_add(length).min(bytes.len());
        match bytes.get(start..end) {
            Some([]) | None if self.on_kong() => refuse(Status::NotFound),
            Some(bytes) => Ok(bytes.to_vec()),
            None => refuse(Status::BadArgument),
        }
    }

    // --- properties ----------------------------------------------------------------

    pub fn property(&self, path: &[u8]) -> HostResult<Vec<u8>> {
        let mut node = self.node.borrow_mut();
        node.properties_asked.push(path.to_vec());
        let parts: Vec<&[u8]> = path.split(|byte| *byte == 0).collect();
        let context = self.contexts.get(&self.context);
        let request = context.filter(|context| context.root != 0);
        match (self.profile, parts.as_slice(), request) {
            (Profile::Kong, [b"plugin_root_id"], _) => Ok(b"0".to_vec()),
            (Profile::Envoy, [b"plugin_root_id"], _) => Ok(node.root_id.clone().into_bytes()),
            (Profile::Kong, [b"plugin_name"], None) => {
                trap("SIGSEGV: plugin_name of a root context")
            }
            (Profile::Kong, [b"ngx" | b"kong", ..], None) => {
                let space = String::from_utf8_lossy(parts[0]).into_owned();
                node.log(format!("{OUTSIDE} {space} properties outside of a request"));
                refuse(Status::InternalFailure)
            }
            (Profile::Kong, [b"ngx", b"kong_request_id"], Some(request)) => {
                Ok(request.request_id.clone())
            }
            // nginx makes a new one at each reading, unless a configuration keeps it.
            (Profile::Kong, [b"ngx", b"request_id"], Some(_)) => {
                Ok(format!("{:032x}", node.next_id()).into_bytes())
            }
            // nginx's variables: only within a request.
            (Profile::Kong, [b"ngx", name], Some(_)) => {
                let known = node.variables.iter().find(|(n, _)| n.as_bytes() == *name);
                known.map_or_else(
                    || refuse(Status::NotFound),
                    |(_, value)| Ok(value.clone().into_bytes()),
                )
            }
            (Profile::Kong, [b"kong", b"version"], Some(_)) => match node.kong_version {
                Some(version) => Ok(version.as_bytes().to_vec()),
                None => refuse(Status::NotFound),
            },
            (Profile::Kong, [b"kong", b"router", b"route"], Some(_)) => {
                Ok(br#"{"paths":["/orders"],"name":"orders","id":"4711"}"#.to_vec())
            }
            // Known, but not supported: an error, and not a missing value.
            (Profile::Kong, [b"route_name" | b"node" | b"cluster_name"], _) => {
                refuse(Status::InternalFailure)
            }
            (Profile::Envoy, [b"xds", b"route_name"], Some(_)) => Ok(b"orders".to_vec()),
            (_, [b"source", b"address"], Some(request)) => Ok(node.address(&request.request_id)),
            (Profile::Envoy, [b"request", b"id"], Some(request)) => Ok(request.request_id.clone()),
            _ => refuse(Status::NotFound),
        }
    }

    /// Envoy keeps it in the request's filter state, under `wasm.` and the path
    /// (`Context::setProperty`); a root context has no request.
    pub fn set_property(&mut self, path: &[u8], value: &[u8]) -> HostResult<()> {
        if self.on_kong() && path == b"ngx\0request_id" {
            return trap("cannot set property: the variable is not changeable");
        }
        let context = self.contexts.get(&self.context);
        if !self.on_kong() && context.is_none_or(|context| context.root == 0) {
            return refuse(Status::NotFound);
        }
        let set = (path.to_vec(), value.to_vec());
        self.node.borrow_mut().properties_set.push(set);
        Ok(())
    }

    // --- shared data ---------------------------------------------------------------

    pub fn get_shared_data(&mut self, key: &[u8]) -> HostResult<(Vec<u8>, u32)> {
        self.note_shared_data();
        self.node.borrow_mut().shared.get(key)
    }

    pub fn set_shared_data(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        cas: u32,
    ) -> HostResult<()> {
        self.note_shared_data();
        self.node.borrow_mut().shared.set(key, value, cas)
    }

    /// Shared data may trap, and a trap in a root context's answer crashes Kong's worker.
    fn note_shared_data(&mut self) {
        let root = self
            .contexts
            .get(&self.context)
            .is_some_and(|context| context.root == 0);
        if root && self.step == Step::CallResponse {
            self.node.borrow_mut().shared_in_root_answers += 1;
        }
    }

    // --- callouts --------------------------------------------------------------------

    pub fn http_call(&mut self, sent: Sent) -> HostResult<u32> {
        let mut node = self.node.borrow_mut();
        let context = self.context;
        let parallel = 1 + self
            .in_flight
            .values()
            .filter(|c| c.context == context)
            .count();
        if self.on_kong() {
            if !matches!(
                self.step,
                Step::RequestHeaders | Step::RequestBody | Step::Tick | Step::CallResponse
            ) {
                return trap("can only send HTTP dispatch during a request, a tick or an answer");
            }
            if parallel > 1 {
                return trap("parallel callouts of one context");
            }
            let state = self.contexts.get(&context);
            if self.step == Step::CallResponse && state.is_none_or(|state| state.root == 0) {
                return trap("SIGSEGV: a root context calls out from an answer");
            }
            if state.is_some_and(|state| state.poisoned) {
                return trap("SIGSEGV: the callout after an answer without a body");
            }
        }
        let complete = [":method", ":path", ":authority"]
            .iter()
            .all(|name| value_of(&sent.headers, name).is_some());
        let known = self.on_kong() || node.clusters.contains(&sent.upstream);
        if !complete || !known {
            return refuse(Status::BadArgument);
        }
        if node.refuses_callouts > 0 {
            node.refuses_callouts -= 1;
            return refuse(Status::InternalFailure);
        }
        node.sent.push(sent.clone());
        let token = node.next_id();
        if let Some(state) = self.contexts.get_mut(&context) {
            state.in_flight_max = state.in_flight_max.max(parallel);
        }
        let callout = Callout {
            token,
            context,
            sent,
        };
        self.in_flight.insert(token, callout);
        Ok(token)
    }

    /// Takes an answered callout, and notes the effects of its end on its request; false if
    /// it was cancelled.
    pub fn take_callout(&mut self, token: u32, answer: &Answer) -> bool {
        let Some(callout) = self.in_flight.remove(&token) else {
            return false;
        };
        if self.on_kong()
            && let Some(context) = self.contexts.get_mut(&callout.context)
        {
            match answer {
                Answer::Response { body, .. } => context.poisoned |= body.is_empty(),
                Answer::Failed(why) => {
                    context.loses_body |= *why == TIMED_OUT && !callout.sent.body.is_empty();
                }
            }
        }
        true
    }

    // --- metrics ---------------------------------------------------------------------

    pub fn define_metric(&mut self, kind: i32, name: &[u8]) -> HostResult<u32> {
        let name = String::from_utf8_lossy(name).into_owned();
        let mut node = self.node.borrow_mut();
        node.metric_calls += 1;
        if !node.has_metrics() {
            return trap("proxy_define_metric: not yet implemented");
        }
        let metrics = &mut node.metrics;
        let known = metrics.iter().position(|metric| metric.name == name);
        let index = known.unwrap_or_else(|| {
            metrics.push(Metric {
                kind,
                name,
                value: 0,
            });
            metrics.len() - 1
        });
        Ok(u32::try_from(index).unwrap())
    }

    /// Kong takes an increment for a counter alone; Envoy for a gauge as well.
    pub fn increment_metric(&mut self, id: u32, by: i64) -> HostResult<()> {
        if self.on_kong() && self.kind_of(id)? != abi::COUNTER {
            return trap("could not increment metric: not a counter");
        }
        if !self.on_kong() && self.kind_of(id)? == abi::COUNTER && by < 0 {
            return refuse(Status::BadArgument);
        }
        self.change_metric(id, |value| value + by).map(|_| ())
    }

    /// Kong records anything but a counter; Envoy adds a recorded value to a counter.
    pub fn record_metric(&mut self, id: u32, value: i64) -> HostResult<()> {
        let is_counter = self.kind_of(id)? == abi::COUNTER;
        if self.on_kong() && is_counter {
            return trap("could not record value: metric is a counter");
        }
        let before = if is_counter { 1 } else { 0 };
        self.change_metric(id, |known| before * known + value)
            .map(|_| ())
    }

    fn kind_of(&self, id: u32) -> HostResult<i32> {
        match self.node.borrow().metrics.get(id as usize) {
            Some(metric) => Ok(metric.kind),
            None => refuse(Status::NotFound),
        }
    }

    pub fn change_metric(&mut self, id: u32, change: impl FnOnce(i64) -> i64) -> HostResult<i64> {
        let mut node = self.node.borrow_mut();
        node.metric_calls += 1;
        match node.metrics.get_mut(id as usize) {
            Some(metric) => {
                metric.value = change(metric.value);
                Ok(metric.value)
            }
            None => refuse(Status::NotFound),
        }
    }
}
