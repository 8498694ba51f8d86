//! The rules of a soak, judged from the answers that its clients saw and from its own actions.
//!
//! Pure: a history in, failures out, so that each rule is tried on a made-up history in
//! `tests/servers/soak_judge.rs`. A dead key may be exchanged by requests that begin before a
//! bound. The bound runs from the moment at which Keycloak had confirmed the key's end:
//!
//! - a key with an end date of its own: at once;
//! - while Keycloak is well: a poll and a second;
//! - where Keycloak was not well within that time or had only just come back: the TTL.

use std::fmt;

/// The promises of the gateway, and its configuration.
#[derive(Clone, Copy)]
pub(crate) struct Promise {
    pub(crate) poll_ms: u64,
    pub(crate) ttl_ms: u64,
    /// The time after an outage in which calls to Keycloak may still fail: calls under way
    /// have to fail first, and a Keycloak that has just started is slow.
    pub(crate) recovery_ms: u64,
    /// The longest that an answer may take.
    pub(crate) answer_ms: u64,
    /// Refusals in a minute, and workers that may count apart.
    pub(crate) failures_per_minute: u64,
    pub(crate) workers: u64,
    /// The most growth of the gateway's memory once it is warm, in bytes.
    pub(crate) growth_bytes: u64,
}

impl Promise {
    /// The time that a key may go on after its end while Keycloak is well.
    pub(crate) fn by_poll_ms(&self) -> u64 {
        self.poll_ms + 1000
    }
}

/// The cause of a key's death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    Removed,
    Disabled,
    Deleted,
    Unlinked,
    /// Its end date passed.
    Expired,
}

/// The end of a key, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death {
    pub(crate) cause: Cause,
    /// The start of its end, just before the call to Keycloak: from here on it may be refused.
    pub(crate) dying_at: u64,
    /// The end, confirmed by Keycloak: from here on it is dead. None if Keycloak never
    /// confirmed it.
    pub(crate) dead_at: Option<u64>,
}

/// A period in which Keycloak was not well.
#[derive(Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) kind: &'static str,
    pub(crate) from: u64,
    /// The time at which it was seen to be well again.
    pub(crate) until: u64,
}

/// The credential of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The key at this place.
    Key(usize),
    /// A well-formed key that nobody owns.
    Unknown,
    /// A key with a wrong checksum.
    Malformed,
}

/// The sender of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The load, from addresses that fail seldom.
    Load,
    /// The one address that fails all the time.
    Flood,
}

/// The answer that a client received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    /// By the service, for the owner of the key.
    Owners,
    /// By the service, for somebody else.
    AnotherOwners,
    /// 401 `invalid_api_key`.
    Refused,
    /// 429 `throttled`.
    Throttled,
    /// 503 from the gateway.
    Unavailable,
    /// None of these.
    Strange(u16),
    Unanswered,
}

/// A request and its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) sent: Sent,
    pub(crate) by: By,
    pub(crate) answer: Answer,
    pub(crate) started: u64,
    pub(crate) ended: u64,
}

/// All observations and actions.
pub(crate) struct History {
    pub(crate) started: u64,
    pub(crate) promise: Promise,
    pub(crate) requests: Vec<Seen>,
    /// Each key's end, if it died.
    pub(crate) keys: Vec<Option<Death>>,
    /// Their public ids, by which the gateway's log names them.
    pub(crate) ids: Vec<String>,
    pub(crate) outages: Vec<Outage>,
    /// The gateway's memory in bytes, at regular intervals.
    pub(crate) memory: Vec<u64>,
}

/// The kinds of key in the table of figures, by the key's state.
pub(crate) const PHASES: [&str; 6] = [
    "alive",
    "dying",
    "dead",
    "unknown",
    "malformed",
    "the flood's",
];

/// The broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    Answered,
    InTime,
    OwnersAlone,
    OneOfOurs,
    GoodKeysPass,
    DeadKeysEnd,
    WellWhenKeycloakIs,
    FloodIsThrottled,
    Happened,
    MemoryIsFlat,
}

/// The claims about each run.
pub(crate) const RULES: [(Rule, &str); 10] = [
    (Rule::Answered, "each request is answered"),
    (Rule::InTime, "each within its deadline"),
    (Rule::OwnersAlone, "no answer is another owner's"),
    (
        Rule::OneOfOurs,
        "each is the service's or one of the gateway's",
    ),
    (Rule::GoodKeysPass, "a good key is never refused"),
    (
        Rule::DeadKeysEnd,
        "a dead key is exchanged no later than the bound",
    ),
    (
        Rule::WellWhenKeycloakIs,
        "nobody is answered 503 while Keycloak is well",
    ),
    (
        Rule::FloodIsThrottled,
        "an address that fails all the time is told to wait, and no other",
    ),
    (
        Rule::Happened,
        "keys died in each way, and outages of each kind were",
    ),
    (Rule::MemoryIsFlat, "the gateway's memory stays flat"),
];

/// A broken rule, and the observation that breaks it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) rule: Rule,
    pub(crate) what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claim = RULES.iter().find(|(rule, _)| *rule == self.rule);
        write!(f, "{}: {}", claim.map_or("", |(_, claim)| claim), self.what)
    }
}

/// The state of a key from the start of a request to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Life {
    Alive,
    /// Its end was under way, or the bound was not over: anything may be answered.
    Dying,
    /// The bound was over.
    Dead,
}

impl History {
    /// All failures.
    pub(crate) fn judge(&self) -> Vec<Failure> {
        let mut failures: Vec<Failure> = self
            .requests
            .iter()
            .enumerate()
            .filter_map(|(number, seen)| self.judge_one(number, seen))
            .collect();
        failures.extend(self.judge_flood());
        failures.extend(self.judge_growth());
        failures
    }

    /// One request.
    fn judge_one(&self, number: usize, seen: &Seen) -> Option<Failure> {
        let (rule, expected) = self.broken(seen)?;
        let what = format!(
            "request {number}, {} by {:?}, from {} to {}, was answered {:?}; expected: {expected}",
            self.name(seen.sent),
            seen.by,
            self.clock(seen.started),
            self.clock(seen.ended),
            seen.answer,
        );
        Some(Failure { rule, what })
    }

    fn name(&self, sent: Sent) -> String {
        match sent {
            Sent::Key(at) => format!("key {}", self.ids.get(at).map_or("", String::as_str)),
            Sent::Unknown | Sent::Malformed => format!("{sent:?} key"),
        }
    }

    fn broken(&self, seen: &Seen) -> Option<(Rule, String)> {
        let broken = |rule, expected: &str| Some((rule, expected.to_owned()));
        match seen.answer {
            Answer::Unanswered => return broken(Rule::Answered, "an answer"),
            Answer::AnotherOwners => return broken(Rule::OwnersAlone, "its owner, or a refusal"),
            Answer::Strange(_) => return broken(Rule::OneOfOurs, "200, 401, 429 or 503"),
            _ => {}
        }
        if seen.ended.saturating_sub(seen.started) > self.promise.answer_ms {
            let expected = format!("an answer within {} ms", self.promise.answer_ms);
            return Some((Rule::InTime, expected));
        }
        match (self.life(seen), seen.answer) {
            (_, Answer::Throttled) if seen.by == By::Flood => matches!(seen.sent, Sent::Key(_))
                .then(|| {
                    (
                        Rule::FloodIsThrottled,
                        "a key that is in use passes".to_owned(),
                    )
                }),
            (_, Answer::Throttled) => broken(
                Rule::FloodIsThrottled,
                "an address that did not fail is heard",
            ),
            (_, Answer::Unavailable) => (!self.is_disturbed(seen.started, seen.ended))
                .then(|| (Rule::WellWhenKeycloakIs, self.nearest_outage(seen.started))),
            (Some(Life::Alive), Answer::Refused) => broken(Rule::GoodKeysPass, "it is exchanged"),
            (Some(Life::Dead), Answer::Owners) => Some((Rule::DeadKeysEnd, self.why_dead(seen))),
            (None, Answer::Owners) => broken(Rule::OwnersAlone, "nobody owns it: 401"),
            _ => None,
        }
    }

    /// The state of its key; none if nobody owns it.
    pub(crate) fn life(&self, seen: &Seen) -> Option<Life> {
        let Sent::Key(at) = seen.sent else {
            return None;
        };
        Some(match self.keys.get(at).copied().flatten() {
            None => Life::Alive,
            Some(death) if seen.ended < death.dying_at => Life::Alive,
            Some(death) => match death.dead_at {
                Some(dead_at) if seen.started > dead_at + self.bound_ms(&death) => Life::Dead,
                _ => Life::Dying,
            },
        })
    }

    /// The row of a request in the table of figures: one of [`PHASES`].
    pub(crate) fn phase(&self, seen: &Seen) -> usize {
        match (seen.by, seen.sent, self.life(seen)) {
            (By::Flood, Sent::Unknown | Sent::Malformed, _) => 5,
            (_, Sent::Unknown, _) => 3,
            (_, Sent::Malformed, _) => 4,
            (_, _, Some(Life::Dead)) => 2,
            (_, _, Some(Life::Dying)) => 1,
            _ => 0,
        }
    }

    /// The time that this key may go on after its end.
    pub(crate) fn bound_ms(&self, death: &Death) -> u64 {
        match death.dead_at {
            _ if death.cause == Cause::Expired => 0,
            Some(dead_at) => {
                let seen_at = dead_at + self.promise.by_poll_ms();
                if self.is_disturbed(death.dying_at, seen_at) {
                    self.promise.ttl_ms
                } else {
                    self.promise.by_poll_ms()
                }
            }
            None => self.promise.ttl_ms,
        }
    }

    /// Whether Keycloak was unreliable at some time between the two.
    fn is_disturbed(&self, from: u64, until: u64) -> bool {
        let recovery = self.promise.recovery_ms;
        let meets = |outage: &Outage| outage.from <= until && outage.until + recovery >= from;
        self.outages.iter().any(meets)
    }

    /// The times that ended keys went on, apart from expired ones: those under the poll's
    /// bound, and those under the TTL's.
    pub(crate) fn delays(&self) -> [Vec<u64>; 2] {
        let mut last: Vec<Option<u64>> = vec![None; self.keys.len()];
        for seen in &self.requests {
            let (Sent::Key(at), Answer::Owners) = (seen.sent, seen.answer) else {
                continue;
            };
            if let Some(last) = last.get_mut(at) {
                *last = (*last).max(Some(seen.started));
            }
        }
        let mut delays = [Vec::new(), Vec::new()];
        for (death, last) in self.keys.iter().zip(last) {
            let (Some(death), Some(last)) = (death, last) else {
                continue;
            };
            let (Some(dead_at), true) = (death.dead_at, death.cause != Cause::Expired) else {
                continue;
            };
            let by_poll = self.bound_ms(death) == self.promise.by_poll_ms();
            delays[usize::from(!by_poll)].push(last.saturating_sub(dead_at));
        }
        delays
    }

    /// For each outage, the time from its end to the start of the last request that was
    /// answered 503.
    pub(crate) fn recoveries(&self) -> Vec<u64> {
        let ends = self.outages.iter().enumerate().map(|(at, outage)| {
            let next = self.outages.get(at + 1).map_or(u64::MAX, |next| next.from);
            let unavailable = |seen: &&Seen| {
                seen.answer == Answer::Unavailable
                    && seen.started >= outage.from
                    && seen.ended < next
            };
            let last = self.requests.iter().filter(unavailable);
            let last = last.map(|seen| seen.started).max().unwrap_or(0);
            last.saturating_sub(outage.until)
        });
        ends.collect()
    }

    fn judge_flood(&self) -> Option<Failure> {
        let flood: Vec<&Seen> = self
            .requests
            .iter()
            .filter(|seen| seen.by == By::Flood && !matches!(seen.sent, Sent::Key(_)))
            .collect();
        let minutes = flood.last()?.ended.saturating_sub(flood.first()?.started) / 60_000;
        let count = |answer| flood.iter().filter(|seen| seen.answer == answer).count() as u64;
        let refused = count(Answer::Refused);
        let most = self.promise.failures_per_minute * (minutes + 2) * self.promise.workers;
        let what = format!("one address was told 401 {refused} times; expected: {most} at most");
        (refused > most).then_some(Failure {
            rule: Rule::FloodIsThrottled,
            what,
        })
    }

    /// Whether every event that a soak needs has happened.
    pub(crate) fn judge_happened(&self, kinds: &[&str], causes: &[Cause]) -> Vec<Failure> {
        let mut missing: Vec<String> = Vec::new();
        for kind in kinds {
            if !self.outages.iter().any(|outage| outage.kind == *kind) {
                missing.push(format!("Keycloak {kind}"));
            }
        }
        for cause in causes {
            if !self.keys.iter().flatten().any(|key| key.cause == *cause) {
                missing.push(format!("a key that died as {cause:?}"));
            }
        }
        for (delays, what) in self.delays().iter().zip(["was well", "was not"]) {
            if delays.is_empty() {
                missing.push(format!("a key that died while Keycloak {what}"));
            }
        }
        if self
            .requests
            .iter()
            .all(|seen| seen.answer != Answer::Throttled)
        {
            missing.push("an answer of 429".to_owned());
        }
        let failure = |missing| Failure {
            rule: Rule::Happened,
            what: format!("there was none: {missing}"),
        };
        missing.into_iter().map(failure).collect()
    }

    fn judge_growth(&self) -> Option<Failure> {
        let (warm, last) = self.warm_and_last()?;
        let growth = last.saturating_sub(warm);
        let most = self.promise.growth_bytes;
        (growth > most).then(|| Failure {
            rule: Rule::MemoryIsFlat,
            what: format!("it grew from {warm} to {last} bytes; expected: by {most} at most"),
        })
    }

    /// The gateway's memory after a third of the run, and at its end.
    pub(crate) fn warm_and_last(&self) -> Option<(u64, u64)> {
        let warm = self.memory.get(self.memory.len() / 3)?;
        Some((*warm, *self.memory.last()?))
    }

    /// Milliseconds since 1970 as seconds since the start.
    pub(crate) fn clock(&self, at: u64) -> String {
        let ms = i128::from(at) - i128::from(self.started);
        format!("{:.3} s", ms as f64 / 1000.0)
    }

    fn nearest_outage(&self, at: u64) -> String {
        let before = self.outages.iter().rev().find(|outage| outage.from <= at);
        before.map_or("Keycloak was well".to_owned(), |outage| {
            format!(
                "Keycloak was well, {} last and until {}",
                outage.kind,
                self.clock(outage.until)
            )
        })
    }

    fn why_dead(&self, seen: &Seen) -> String {
        let Sent::Key(at) = seen.sent else {
            return String::new();
        };
        let Some(death) = self.keys.get(at).copied().flatten() else {
            return String::new();
        };
        format!(
            "401, {:?} at {} and so over {} ms later",
            death.cause,
            self.clock(death.dead_at.unwrap_or_default()),
            self.bound_ms(&death)
        )
    }
}
