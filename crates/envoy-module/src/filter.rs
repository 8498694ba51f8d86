//! The filter of one stream.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use apikeys_core::exchange::credentials::AUTHORIZATION;
use apikeys_core::manage::body::BODY_BYTES_MAX;
use apikeys_core::rejection::Rejection;
use apikeys_native::exchange::{Begun, Ended, Removal, Verdict, begin};
use apikeys_native::management::{self, Answered};
use apikeys_native::{Facts, Request, Route, lock};
use envoy_abi::{Foreign, Level, Reply, Step, Stream, Waker, log};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::Exchange;
use crate::keeper::Ticket;
use crate::outlets::{Envoy, Outlet};

/// The namespace of the stream's dynamic metadata.
const METADATA: &str = "apikey-jwt-exchange";

/// The keys there for the three identity headers, in their order.
const METADATA_KEYS: [&str; 3] = ["key_id", "owner_id", "key_name"];

/// The longest wait for the signing key.
const KEY_WAIT: Duration = Duration::from_secs(5);

/// The filter of one stream.
pub(crate) struct Filter {
    outlet: Arc<Outlet>,
    ticket: Arc<Ticket>,
    state: State,
}

#[expect(
    clippy::large_enum_variant,
    reason = "most requests get to the large one, and a box would be an allocation more for each"
)]
enum State {
    New,
    /// Waits for the signing key. `ends`: the request has no body.
    Unready {
        task: Task<()>,
        ends: bool,
    },
    /// A task drives the exchange.
    Waiting(Task<Ended<Envoy>>),
    /// A task drives a request of the management API.
    Managing {
        task: Task<Answered>,
        body: Zeroizing<Vec<u8>>,
        /// Takes the whole body; none if it is too large.
        whole: Option<oneshot::Sender<Option<Zeroizing<Vec<u8>>>>>,
    },
    /// The request went on.
    Over(Option<Ended<Envoy>>),
}

/// A task for a stream. It ends with the stream.
struct Task<T> {
    outcome: Arc<Mutex<Outcome<T>>>,
    handle: AbortHandle,
}

enum Outcome<T> {
    Pending,
    Done(T),
    /// The task panicked.
    Lost,
}

impl<T: Send + 'static> Task<T> {
    /// Runs the work on the module's threads, and wakes the stream at its end.
    fn spawn(
        ticket: &Ticket,
        waker: Waker,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Self {
        let outcome = Arc::new(Mutex::new(Outcome::Pending));
        let teller = Teller {
            outcome: Arc::clone(&outcome),
            waker,
        };
        let task = ticket.threads().spawn(async move {
            let done = work.await;
            *lock(&teller.outcome) = Outcome::Done(done);
            drop(teller);
        });
        Self {
            outcome,
            handle: task.abort_handle(),
        }
    }

    fn take(&self) -> Outcome<T> {
        std::mem::replace(&mut *lock(&self.outcome), Outcome::Pending)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Tells the stream that its task has ended, however it ended.
struct Teller<T> {
    outcome: Arc<Mutex<Outcome<T>>>,
    waker: Waker,
}

impl<T> Drop for Teller<T> {
    fn drop(&mut self) {
        {
            let mut outcome = lock(&self.outcome);
            if matches!(*outcome, Outcome::Pending) {
                *outcome = Outcome::Lost;
            }
        }
        self.waker.wake();
    }
}

impl Filter {
    pub(crate) fn new(outlet: &Arc<Outlet>, ticket: &Arc<Ticket>) -> Self {
        Self {
            outlet: Arc::clone(outlet),
            ticket: Arc::clone(ticket),
            state: State::New,
        }
    }

    /// Performs the verdict.
    fn finish(&mut self, stream: &mut Stream<'_, Exchange>, ended: Ended<Envoy>) -> Step {
        let is_written = match &ended.verdict {
            Verdict::Exchanged {
                authorization,
                remove,
            } => {
                let mut is_written = stream.set_header(AUTHORIZATION, authorization);
                is_written &= remove.iter().all(|name| stream.remove_header(name));
                for ((name, value), key) in ended.identity().iter().zip(METADATA_KEYS) {
                    is_written &= stream.set_header(name, value);
                    stream.set_metadata(METADATA, key, value);
                }
                is_written
            }
            Verdict::Passed { remove } => remove.iter().all(|name| stream.remove_header(name)),
            Verdict::Refused { rejection, body } => {
                return Step::Reply(answer(*rejection, self.realm(), body.clone()));
            }
        };
        if !is_written {
            return Step::Reply(self.unavailable());
        }
        let exchanged = matches!(ended.verdict, Verdict::Exchanged { .. });
        self.state = State::Over(exchanged.then_some(ended));
        Step::Continue
    }

    /// Waits for the signing key: a secret may come a moment after the first request. A request of the
    /// management API does not wait, because it may have a body.
    fn wait_for_key(&mut self, stream: &mut Stream<'_, Exchange>, ends: bool) -> Step {
        if self.ticket.manages() {
            return Step::Reply(self.no_key());
        }
        let Some(waits) = self.ticket.admit_waiting() else {
            return Step::Reply(self.unavailable());
        };
        let ticket = Arc::clone(&self.ticket);
        let wait = async move {
            let _waits = waits;
            // The request is refused if the key does not come.
            let _ = timeout(KEY_WAIT, ticket.started()).await;
        };
        let task = Task::spawn(&self.ticket, stream.waker(), wait);
        self.state = State::Unready { task, ends };
        Step::Hold
    }

    fn no_key(&self) -> Reply {
        log(
            Level::Error,
            "a request is refused: Envoy has not delivered the signing key",
        );
        self.unavailable()
    }

    /// Begins the exchange.
    fn begin(&mut self, stream: &mut Stream<'_, Exchange>, ends: bool) -> Step {
        let Some(route) = self.ticket.route() else {
            return Step::Reply(self.no_key());
        };
        if self.ticket.manages() && self.ticket.config().enabled {
            return self.manage(Arc::clone(route), stream, ends);
        }
        let begun = {
            let headers = stream.request_headers();
            let Some(headers) = headers.iter().map(as_text).collect::<Option<Vec<_>>>() else {
                return Step::Reply(refusal(Rejection::AmbiguousCredentials, self.realm(), "-"));
            };
            begin(route, &headers, Removal::Listed, &|| facts_of(stream))
        };
        match begun {
            Begun::Ended(ended) => self.finish(stream, ended),
            Begun::Waits(waiting) => {
                let work = waiting.finish();
                self.state = State::Waiting(Task::spawn(&self.ticket, stream.waker(), work));
                Step::Hold
            }
        }
    }

    fn realm(&self) -> &str {
        &self.ticket.config().realm.name
    }

    fn unavailable(&self) -> Reply {
        refusal(Rejection::IdentityProviderUnavailable, self.realm(), "-")
    }

    /// Begins a request of the management API.
    fn manage(
        &mut self,
        route: Arc<Route<Envoy>>,
        stream: &mut Stream<'_, Exchange>,
        ends: bool,
    ) -> Step {
        let request = request_of(stream);
        let pseudo = |wanted: &str| {
            let found = request.headers.iter().find(|(name, _)| name == wanted);
            let value = found.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
            value.unwrap_or_default()
        };
        let (method, path) = (pseudo(":method"), pseudo(":path"));
        let (whole, body) = match ends {
            true => (None, None),
            false => {
                let (whole, body) = oneshot::channel();
                (Some(whole), Some(body))
            }
        };
        let body = body.map(|body| async { body.await.ok().flatten() });
        let work = async move { management::answer(route, &request, &method, &path, body).await };
        self.state = State::Managing {
            task: Task::spawn(&self.ticket, stream.waker(), work),
            body: Zeroizing::default(),
            whole,
        };
        match ends {
            true => Step::Hold,
            false => Step::ReadBody,
        }
    }
}

/// A header as lent by Envoy; none if its name is no text, which no client can send.
fn as_text<'a>((name, value): &(&'a [u8], &'a [u8])) -> Option<(&'a str, &'a [u8])> {
    Some((std::str::from_utf8(name).ok()?, value))
}

impl envoy_abi::Filter for Filter {
    type Module = Exchange;

    fn on_request_headers(&mut self, stream: &mut Stream<'_, Exchange>, ends: bool) -> Step {
        match stream.route_config() {
            Ok(None) => {}
            Ok(Some(own)) => self.ticket = Arc::clone(&own.ticket),
            Err(Foreign) => {
                log(
                    Level::Error,
                    "a route has a configuration of another module",
                );
                return Step::Reply(self.unavailable());
            }
        }
        self.ticket.tell_through(&self.outlet, stream);
        if self.ticket.route().is_none() {
            return self.wait_for_key(stream, ends);
        }
        self.begin(stream, ends)
    }

    fn on_request_body(&mut self, part: &[&[u8]], ends: bool) -> Step {
        let State::Managing { body, whole, .. } = &mut self.state else {
            return Step::Hold;
        };
        let size = body.len() + part.iter().map(|bytes| bytes.len()).sum::<usize>();
        if size > BODY_BYTES_MAX {
            if let Some(whole) = whole.take() {
                // The task may be over.
                let _ = whole.send(None);
            }
            return Step::ReadBody;
        }
        for bytes in part {
            body.extend_from_slice(bytes);
        }
        if ends && let Some(whole) = whole.take() {
            // The task may be over.
            let _ = whole.send(Some(std::mem::take(body)));
        }
        Step::ReadBody
    }

    fn on_wake(&mut self, stream: &mut Stream<'_, Exchange>) -> Step {
        match &self.state {
            State::Waiting(task) => match task.take() {
                Outcome::Pending => Step::Hold,
                Outcome::Done(ended) => self.finish(stream, ended),
                Outcome::Lost => Step::Reply(<Exchange as envoy_abi::Module>::panicked()),
            },
            State::Managing { task, .. } => match task.take() {
                Outcome::Pending => Step::ReadBody,
                Outcome::Done(answered) => Step::Reply(Reply {
                    status: answered.status,
                    headers: own(answered.headers),
                    body: answered.body.to_vec(),
                    details: "apikeys_management".to_owned(),
                }),
                Outcome::Lost => Step::Reply(<Exchange as envoy_abi::Module>::panicked()),
            },
            State::Unready { task, ends } => {
                let ends = *ends;
                match task.take() {
                    Outcome::Pending => Step::Hold,
                    Outcome::Done(()) | Outcome::Lost => self.begin(stream, ends),
                }
            }
            State::New | State::Over(_) => Step::Hold,
        }
    }

    fn on_response_headers(&mut self, stream: &Stream<'_, Exchange>) {
        // Not kept for a long response: it holds the state that the request began with.
        if let State::Over(over) = &mut self.state
            && let Some(mut ended) = over.take()
            && stream.response_status() == Some(401)
        {
            ended.token_refused(|| request_of(stream));
        }
    }
}

/// A copy of a request.
fn request_of(stream: &Stream<'_, Exchange>) -> Request {
    let headers = stream.request_headers();
    let headers = headers.iter().map(|(name, value)| {
        let name = String::from_utf8_lossy(name).into_owned();
        (name, value.to_vec())
    });
    Request {
        headers: headers.collect(),
        facts: facts_of(stream),
    }
}

/// Envoy's facts about a request.
fn facts_of(stream: &Stream<'_, Exchange>) -> Facts {
    Facts {
        source: stream.source_address(),
        route: stream.route_name(),
    }
}

/// A refusal without an exchange.
pub(crate) fn refusal(rejection: Rejection, realm: &str, request_id: &str) -> Reply {
    answer(rejection, realm, rejection.body(request_id))
}

fn answer(rejection: Rejection, realm: &str, body: String) -> Reply {
    Reply {
        status: rejection.status(),
        headers: own(rejection.headers(realm)),
        body: body.into_bytes(),
        details: format!("apikeys_{}", rejection.code()),
    }
}

fn own(headers: Vec<(&'static str, String)>) -> Vec<(String, String)> {
    let headers = headers.into_iter();
    headers
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
