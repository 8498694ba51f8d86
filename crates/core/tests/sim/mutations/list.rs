//! The list of mutations, by invariant.

use super::{Edit, Mutation};

const fn edit(file: &'static str, original: &'static str, mutated: &'static str) -> Edit {
    Edit {
        file,
        original,
        mutated,
    }
}

pub const MUTATIONS: &[Mutation] = &[
    // Every key is refused.
    Mutation {
        name: "RefusesAll",
        invariant: 0,
        edits: &[edit(
            "exchange/steps.rs",
            "env.worker.cache.digest(&key)",
            "return rejected(Reason::QueueFull)",
        )],
    },
    // A circuit that has opened stays open.
    Mutation {
        name: "BreakerStaysOpen",
        invariant: 0,
        edits: &[edit("calls/breaker.rs", "over && free", "false")],
    },
    // An entry of shared data is believed without its seal, and for any key.
    Mutation {
        name: "SealUnchecked",
        invariant: 1,
        edits: &[
            edit("store/sealed.rs", "sealed.get(2..34)? != digest", "false"),
            edit("store/sealed.rs", "found == digest", "true"),
            edit("store/sealed.rs", "self.0.verify(body, tag)", "true"),
        ],
    },
    // A refusal outlives the change that ends its reason.
    Mutation {
        name: "RefusalOutlivesChange",
        invariant: 0,
        edits: &[edit(
            "cache/mod.rs",
            "revocations.kills(owner_id, refusal.cached_at)",
            "false",
        )],
    },
    // A key that is switched off is served.
    Mutation {
        name: "DisabledIgnored",
        invariant: 3,
        edits: &[edit("exchange/steps.rs", "record.disabled", "false")],
    },
    // A token is used past its end.
    Mutation {
        name: "EndIgnored",
        invariant: 2,
        edits: &[edit("cache/mod.rs", "now < entry.ends_at", "true")],
    },
    // A token may outlive its key.
    Mutation {
        name: "KeyEndIgnored",
        invariant: 2,
        edits: &[
            edit(
                "exchange/steps.rs",
                "token.exp > key_ends_at.plus_ms(1000)",
                "false",
            ),
            edit("exchange/steps.rs", "ends_at.min(key_ends_at)", "ends_at"),
        ],
    },
    // A token is used past the TTL.
    Mutation {
        name: "TtlSlides",
        invariant: 3,
        edits: &[
            edit("cache/mod.rs", "ends_at.min(ttl_ends_at)", "ends_at"),
            edit(
                "cache/mod.rs",
                "now < entry.cached_at.plus_ms(ttl_ms)",
                "true",
            ),
        ],
    },
    // The caches serve tokens of revoked owners.
    Mutation {
        name: "RevocationIgnored",
        invariant: 3,
        edits: &[
            edit(
                "revocation/mod.rs",
                "unseen_ms <= poll_ms + LATE_MS",
                "true",
            ),
            edit(
                "revocation/mod.rs",
                "cached_at <= self.known.newest()",
                "false",
            ),
            edit(
                "revocation/mod.rs",
                "cached_at <= self.known.shared_floor()",
                "false",
            ),
        ],
    },
    // A poll reads events and does nothing about them.
    Mutation {
        name: "EventsIgnored",
        invariant: 3,
        edits: &[edit(
            "background/poller.rs",
            "event.concerns",
            "Concerns::Nobody",
        )],
    },
    // A request passes when Keycloak cannot be asked.
    Mutation {
        name: "FailsOpen",
        invariant: 4,
        edits: &[edit(
            "exchange/steps.rs",
            "let rejection = reason.rejection();
    Output::Reject { rejection, reason }",
            "let rejection = reason.rejection();
    if rejection == Rejection::IdentityProviderUnavailable {
        Output::Pass(Pass::NoKey)
    } else {
        Output::Reject { rejection, reason }
    }",
        )],
    },
    // The key itself goes to the log in place of its id.
    Mutation {
        name: "KeyForId",
        invariant: 5,
        edits: &[edit(
            "exchange/steps.rs",
            "self.admit(&digest, token, remove, level.into(), env)",
            "{ self.key_id = Some(key.expose().to_owned());
              self.admit(&digest, token, remove, level.into(), env) }",
        )],
    },
    // A token goes to the log in place of the key's id.
    Mutation {
        name: "TokenForId",
        invariant: 5,
        edits: &[edit(
            "exchange/steps.rs",
            "self.forwarded = Some(*digest);",
            "self.key_id = Some(token.authorization.to_string());
            self.forwarded = Some(*digest);",
        )],
    },
    // Each refusal of a pending request falls back.
    Mutation {
        name: "RefusedFallsBack",
        invariant: 6,
        edits: &[edit(
            "exchange/steps.rs",
            "self.end(end, env)",
            "self.end(if falls_back(env) { End::Fallback } else { end }, env)",
        )],
    },
    // A header that holds the key stays.
    Mutation {
        name: "KeyStays",
        invariant: 6,
        edits: &[edit(
            "exchange/credentials.rs",
            "remove.push(name.to_owned());",
            "",
        )],
    },
    // An exchange goes on for an hour.
    Mutation {
        name: "DeadlineIgnored",
        invariant: 7,
        edits: &[edit(
            "exchange/steps.rs",
            "2 * config.callout_timeout_ms",
            "3_600_000",
        )],
    },
    // An exchange gives nothing back.
    Mutation {
        name: "ClaimsKept",
        invariant: 7,
        edits: &[edit("exchange/steps.rs", "release(&pending, env);", "")],
    },
    // A verification runs in one go.
    Mutation {
        name: "OneSlice",
        invariant: 8,
        edits: &[edit(
            "api_key/hash/rounds.rs",
            "rounds.min(self.left)",
            "self.left",
        )],
    },
    // A worker keeps each bucket that it ever met.
    Mutation {
        name: "BucketsUnbounded",
        invariant: 9,
        edits: &[edit(
            "exchange/rate_limit.rs",
            "self.seen.len() > self.entries_max",
            "false",
        )],
    },
    // L1 has no bound.
    Mutation {
        name: "CacheUnbounded",
        invariant: 9,
        edits: &[edit("cache/mod.rs", "cache.len() > entries_max", "false")],
    },
    // An answer that is not JSON is a panic.
    Mutation {
        name: "PanicsOnNonsense",
        invariant: 10,
        edits: &[edit(
            "keycloak/users.rs",
            "serde_json::from_slice(body).map_err(|_| LookupError::Malformed)?",
            "serde_json::from_slice(body).unwrap()",
        )],
    },
    // A token is taken for any subject.
    Mutation {
        name: "SubjectUnchecked",
        invariant: 11,
        edits: &[edit(
            "exchange/steps.rs",
            "token.subject != owner.id",
            "false",
        )],
    },
    // The first of several owners is taken.
    Mutation {
        name: "FirstOwnerTaken",
        invariant: 11,
        edits: &[edit(
            "keycloak/users.rs",
            "<[User; 1]>::try_from(users)",
            "<[User; 1]>::try_from(users.into_iter().take(1).collect::<Vec<_>>())",
        )],
    },
    // The host's random source alone makes an assertion unique.
    Mutation {
        name: "HostRandomTrusted",
        invariant: 12,
        edits: &[edit(
            "calls/ids.rs",
            "URL_SAFE_NO_PAD.encode(half)",
            "URL_SAFE_NO_PAD.encode(request_nonce.get(..16).unwrap_or(request_nonce))",
        )],
    },
    // Failures cost nothing.
    Mutation {
        name: "FailuresUncounted",
        invariant: 13,
        edits: &[edit(
            "exchange/throttle.rs",
            "bucket.spend(&mut full_at, now);",
            "",
        )],
    },
    // Unknown keys are looked up as they come.
    Mutation {
        name: "LookupsUnlimited",
        invariant: 13,
        edits: &[edit(
            "exchange/lookups.rs",
            "self.wait_ms(self.before(id), now) > 0",
            "false",
        )],
    },
    // A look-up that came to nothing gives its token back.
    Mutation {
        name: "StrangersForgiven",
        invariant: 13,
        edits: &[edit(
            "exchange/steps.rs",
            "worker.new_keys.came_to_nothing();",
            "if let Some(spent) = pending.attempt.spent {
            worker.new_keys.verified(spent, env.now);
        }",
        )],
    },
    // A call that ends keeps its place.
    Mutation {
        name: "CallsKept",
        invariant: 9,
        edits: &[edit("exchange/steps.rs", "worker.in_flight.give_up();", "")],
    },
    // An address that failed too often is refused with a key in the cache as well.
    Mutation {
        name: "WarmKeysThrottled",
        invariant: 13,
        edits: &[edit(
            "exchange/steps.rs",
            "env.worker.cache.find(&digest, env.now, env.store)",
            "if self.is_throttled(env) {
                return rejected(Reason::Throttled);
            } else {
                env.worker.cache.find(&digest, env.now, env.store)
            }",
        )],
    },
    // A key is served from any address.
    Mutation {
        name: "NetworksIgnored",
        invariant: 14,
        edits: &[edit("exchange/steps.rs", "allowed.allow(address)", "true")],
    },
    // The terms are lost on the way through shared data.
    Mutation {
        name: "TermsLost",
        invariant: 14,
        edits: &[edit(
            "cache/payload.rs",
            "Arc::new(terms)",
            "Arc::new(Terms::default())",
        )],
    },
    // A request goes on though the limit is spent.
    Mutation {
        name: "LimitIgnored",
        invariant: 14,
        edits: &[edit(
            "exchange/steps.rs",
            "taken.err().map(Reason::RateLimited)",
            "None",
        )],
    },
    // Each worker counts for itself.
    Mutation {
        name: "BucketUnwritten",
        invariant: 14,
        edits: &[edit(
            "exchange/rate_limit.rs",
            "store.set(name, &value, version)",
            "true",
        )],
    },
    // A worker forgets the requests that shared data lost.
    Mutation {
        name: "MemoryIgnored",
        invariant: 14,
        edits: &[edit(
            "exchange/rate_limit.rs",
            "self
            .full_at
            .max(FullAt(place.full_at_us.unwrap_or_default()))",
            "FullAt(place.full_at_us.unwrap_or_default())",
        )],
    },
    // Keys with the same limit share a bucket.
    Mutation {
        name: "BucketOfAllKeys",
        invariant: 14,
        edits: &[edit(
            "exchange/rate_limit.rs",
            "key_id.as_bytes()",
            "b\"\".as_slice()",
        )],
    },
];
