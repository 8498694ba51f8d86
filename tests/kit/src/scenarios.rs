//! Scenarios that each rig runs: the core, led input by input, and the built filter in its hosts.
//!
//! A scenario states a fact that all rigs can see: what a request becomes, what Keycloak is asked
//! for, and what the log says. A fact that one rig alone can see stays a test of that rig.
//! [`run_scenarios`](crate::run_scenarios) makes tests of the list.

use apikeys_core::api_key::record::Field;
use serde_json::{Value, json};

use crate::checksum::summed;
use crate::keycloak::{FakeKeycloak, User, bcrypt_of, claims, jwt};
use crate::keys::{FAR, START, ending, id_of, key, owner, plain_owner, plain_owner_with, set_fact};

/// A gateway with a made-up Keycloak behind it, of the realm `demo`.
pub trait Rig: Sized {
    /// One worker; these users; a configuration with these changes.
    fn with(users: Vec<User>, changes: &Value) -> Self;

    /// Adds a worker of the same node; gives its number. The first is 0.
    fn add_worker(&mut self) -> usize;

    /// Sends a request to a worker and takes it to its end.
    fn send(&mut self, worker: usize, headers: &[(&str, &str)]) -> Outcome;

    /// Changes Keycloak or its users.
    fn keycloak(&mut self, change: impl FnOnce(&mut FakeKeycloak));

    /// Decides the fate of each callout from now on, by its kind and by how many of that kind
    /// there were.
    fn fates(&mut self, fate: impl FnMut(Asked, u32) -> Fate + 'static);

    /// How many callouts of this kind there were.
    fn count(&self, asked: Asked) -> u32;

    fn pass(&mut self, ms: u64);

    /// Whether the log has this text by now.
    fn logged(&self, text: &str) -> bool;

    /// All requests from now on come from this IP address.
    fn come_from(&mut self, address: &str);

    /// How often the host was asked for the address of a request.
    fn addresses_asked(&self) -> usize;

    /// The scenario lets a key go on to the service, which is a fault elsewhere.
    fn let_keys_pass(&mut self);

    fn new(users: Vec<User>) -> Self {
        Self::with(users, &Value::Null)
    }

    fn ask_worker(&mut self, worker: usize, key: &str) -> Outcome {
        self.send(worker, &[("x-api-key", key)])
    }

    fn ask(&mut self, key: &str) -> Outcome {
        self.ask_worker(0, key)
    }

    /// How often Keycloak was asked for a service token, a look-up and a grant.
    fn calls(&self) -> [u32; 3] {
        CALLS.map(|asked| self.count(asked))
    }
}

/// The kinds of callouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    ServiceToken,
    Lookup,
    Grant,
    /// A turn at once.
    Turn,
}

const CALLS: [Asked; 3] = [Asked::ServiceToken, Asked::Lookup, Asked::Grant];

/// What a change makes of an answer's body.
pub type Change = fn(&[u8]) -> Vec<u8>;

/// What becomes of a callout.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It is answered as it should be.
    Answered,
    /// The same, but for the body.
    Changed(Change),
    /// It is answered with this instead.
    Status(u16, Vec<u8>),
    /// The connection breaks off.
    Reset,
}

/// How a request ended.
#[derive(Debug)]
pub enum Outcome {
    /// It went on with this token.
    Forwarded(String),
    /// It went on as it came.
    Passed,
    /// The gateway answered, with this status and code.
    Rejected(u16, String),
}

impl Outcome {
    /// The claims of the token that was forwarded.
    #[track_caller]
    fn claims(&self) -> Value {
        match self {
            Self::Forwarded(token) => claims(token),
            other => panic!("not forwarded: {other:?}"),
        }
    }

    #[track_caller]
    fn expect_owner(&self, name: &str) {
        assert_eq!(self.claims()["sub"], name);
    }

    #[track_caller]
    fn expect_passed(&self) {
        assert!(matches!(self, Self::Passed), "not passed: {self:?}");
    }

    #[track_caller]
    fn expect_rejected(&self, status: u16, code: &str) {
        let rejected = matches!(self, Self::Rejected(s, c) if (*s, c.as_str()) == (status, code));
        assert!(rejected, "not rejected with {status} {code}: {self:?}");
    }

    #[track_caller]
    fn expect_invalid(&self) {
        self.expect_rejected(401, "invalid_api_key");
    }

    #[track_caller]
    fn expect_unavailable(&self) {
        self.expect_rejected(503, "identity_provider_unavailable");
    }
}

/// Makes a test of each scenario, on a rig of this type.
#[macro_export]
macro_rules! run_scenarios {
    ($rig:ty) => {
        $crate::run_scenarios! { $rig =>
            a_first_use_is_verified_in_slices_and_every_later_request_asks_nobody
            a_refresh_asks_keycloak_and_runs_no_bcrypt
            a_changed_hash_is_verified_anew
            a_service_token_that_is_no_longer_taken_is_fetched_anew_once
            no_token_is_used_past_its_end_less_the_skew
            a_token_ends_with_its_key_and_the_key_is_refused_after
            all_invalid_keys_get_one_answer_and_each_its_reason_in_the_log
            a_wrong_secret_is_refused_and_its_neighbour_is_not
            a_malformed_key_is_refused_and_asks_nobody
            a_revoked_key_is_refused_once_its_entry_has_ended
            an_unknown_key_and_no_other_passes_until_the_fallback_ends
            without_one_credential_the_policy_decides_before_any_call
            a_bearer_token_that_is_no_key_passes_untouched
            a_disabled_filter_touches_nothing
            a_missing_role_is_named_and_is_no_unknown_key
            whatever_keycloak_answers_wrong_is_a_503_and_the_next_request_is_served
            a_token_that_is_not_the_owners_is_never_forwarded
            a_token_that_is_over_or_outlives_its_key_is_never_forwarded
            a_turn_that_is_not_given_ends_the_exchange
            an_address_that_has_failed_too_often_is_told_to_wait_before_any_call
            the_host_is_asked_for_no_address_of_a_warm_request
            a_key_over_its_rate_limit_is_told_so_and_served_again_later
            a_key_bound_to_networks_is_refused_from_elsewhere_once_it_is_verified
            a_disabled_key_is_refused_like_any_other_and_the_log_says_why
        }
    };
    ($rig:ty => $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::scenarios::$name::<$rig>();
            }
        )*
    };
}

// --- tokens ---------------------------------------------------------------------------

pub fn a_first_use_is_verified_in_slices_and_every_later_request_asks_nobody<R: Rig>() {
    let mut rig = R::new(vec![owner("alice", 1)]);
    let second = rig.add_worker();
    for worker in [0, 0, second, second] {
        rig.ask_worker(worker, &key(1)).expect_owner("alice");
        assert_eq!(rig.calls(), [1, 1, 1], "worker {worker}");
        // 32 rounds in slices of 12, and a turn for the signatures.
        assert_eq!(rig.count(Asked::Turn), 3);
    }
}

pub fn a_refresh_asks_keycloak_and_runs_no_bcrypt<R: Rig>() {
    let mut rig = R::with(vec![owner("alice", 1)], &json!({ "cache_ttl_seconds": 60 }));
    let second = rig.add_worker();
    rig.ask(&key(1)).expect_owner("alice");
    let turns = rig.count(Asked::Turn);
    for (worker, times) in [(0, 2), (second, 3)] {
        rig.pass(60_000);
        rig.ask_worker(worker, &key(1)).expect_owner("alice");
        assert_eq!(rig.count(Asked::Lookup), times);
        assert_eq!(rig.count(Asked::Grant), times);
    }
    assert_eq!(rig.count(Asked::Turn), turns, "verified once on the node");
}

pub fn a_changed_hash_is_verified_anew<R: Rig>() {
    let changes = json!({ "cache_ttl_seconds": 60 });
    let mut rig = R::with(vec![plain_owner("alice", 1)], &changes);
    rig.ask(&key(1)).expect_owner("alice");
    assert_eq!(rig.count(Asked::Turn), 1, "SHA-256 takes no turn");
    rig.keycloak(|keycloak| keycloak.users = vec![owner("alice", 1)]);
    rig.pass(60_000);
    rig.ask(&key(1)).expect_owner("alice");
    assert!(rig.count(Asked::Turn) > 2, "bcrypt takes turns");
}

pub fn a_service_token_that_is_no_longer_taken_is_fetched_anew_once<R: Rig>() {
    let users = vec![plain_owner("alice", 1), plain_owner("bob", 2)];
    let mut rig = R::new(users);
    rig.ask(&key(1)).expect_owner("alice");
    rig.keycloak(FakeKeycloak::revoke_tokens);
    rig.ask(&key(2)).expect_owner("bob");
    assert_eq!(rig.calls(), [2, 3, 2]);
    rig.keycloak(|keycloak| keycloak.takes_no_token = true);
    rig.ask(&key(3)).expect_unavailable();
    assert_eq!(rig.calls(), [3, 5, 2]);
}

pub fn no_token_is_used_past_its_end_less_the_skew<R: Rig>() {
    let changes = json!({ "cache_ttl_seconds": 86_400 });
    let mut rig = R::with(vec![plain_owner("alice", 1)], &changes);
    let second = rig.add_worker();
    rig.keycloak(|keycloak| keycloak.token_life_seconds = 100);
    rig.ask(&key(1)).expect_owner("alice");
    rig.pass(69_000);
    for worker in [0, second] {
        rig.ask_worker(worker, &key(1)).expect_owner("alice");
    }
    assert_eq!(rig.count(Asked::Grant), 1);
    rig.pass(1_001);
    rig.ask_worker(second, &key(1)).expect_owner("alice");
    assert_eq!(rig.count(Asked::Grant), 2);
    // The first worker's own copy has ended too.
    rig.ask(&key(1)).expect_owner("alice");
    assert_eq!(rig.count(Asked::Grant), 2);
}

pub fn a_token_ends_with_its_key_and_the_key_is_refused_after<R: Rig>() {
    let ends_at = START.plus_ms(40_000);
    let mut rig = R::new(vec![ending("alice", 1, ends_at)]);
    let claims = rig.ask(&key(1)).claims();
    assert!(claims["exp"].as_u64().unwrap() <= ends_at.as_seconds());
    rig.pass(30_000);
    rig.ask(&key(1)).expect_owner("alice");
    rig.pass(10_000);
    rig.ask(&key(1)).expect_invalid();
}

// --- refusals -------------------------------------------------------------------------

/// A key with the id of `key` and another secret, shaped and summed right.
fn other_secret(key: &str, number: u32) -> String {
    summed(&format!("{}_{}{number:08}", &key[..20], "z".repeat(24)))
}

pub fn all_invalid_keys_get_one_answer_and_each_its_reason_in_the_log<R: Rig>() {
    let expired = ending("carol", 3, START);
    let mut disabled = owner("dave", 4);
    disabled.enabled = false;
    let mut unlinked = owner("erin", 5);
    unlinked.unlink();
    let too_dear = bcrypt_of(&key(6)).replace("$05$", "$15$");
    let dear = User::new("frank").with_key(id_of(&key(6)), &too_dear, FAR);
    let twins = [owner("g1", 7), owner("g2", 7)];
    let mut users = vec![owner("alice", 1), expired, disabled, unlinked, dear];
    users.extend(twins);
    for (presented, said) in [
        (key(2), "unknown key"),
        (key(3), "key expired"),
        (key(4), "owner disabled"),
        (key(5), "owner unlinked or deleted"),
        (key(6), "bcrypt cost 15 is outside 4 to 14"),
        (key(7), "more than one user answers to this id"),
        (other_secret(&key(1), 0), "wrong secret"),
    ] {
        let mut rig = R::new(users.clone());
        let second = rig.add_worker();
        rig.ask(&presented).expect_invalid();
        assert!(rig.logged(said), "{said}");
        assert!(!rig.logged("refused before"));
        let calls = rig.calls();
        for worker in [0, second] {
            rig.ask_worker(worker, &presented).expect_invalid();
        }
        assert!(rig.logged("refused before"));
        assert_eq!(rig.calls(), calls, "{said}: remembered on the node");
    }
}

pub fn a_wrong_secret_is_refused_and_its_neighbour_is_not<R: Rig>() {
    let mut rig = R::new(vec![owner("alice", 1)]);
    rig.ask(&other_secret(&key(1), 1)).expect_invalid();
    rig.ask(&key(1)).expect_owner("alice");
    rig.ask(&other_secret(&key(1), 2)).expect_invalid();
}

pub fn a_malformed_key_is_refused_and_asks_nobody<R: Rig>() {
    let mut rig = R::new(vec![owner("alice", 1)]);
    let good = key(1);
    let last = if good.ends_with('0') { "1" } else { "0" };
    let mistyped = format!("{}{last}", &good[..58]);
    let mut typo = good.clone().into_bytes();
    typo[30] ^= 1;
    let typo = String::from_utf8(typo).unwrap();
    for bad in [
        &good[..58],
        &mistyped,
        &typo,
        "sk_live_",
        "sk_live_x_y",
        "x",
    ] {
        rig.ask(bad).expect_invalid();
    }
    assert_eq!(rig.calls(), [0; 3]);
}

pub fn a_revoked_key_is_refused_once_its_entry_has_ended<R: Rig>() {
    let revocations: [fn(&mut User); 3] = [
        |user| user.remove_key(id_of(&key(1))),
        |user| user.enabled = false,
        User::unlink,
    ];
    for revoke in revocations {
        let mut rig = R::new(vec![plain_owner("alice", 1)]);
        // The token outlasts the TTL.
        rig.keycloak(|keycloak| keycloak.token_life_seconds = 900);
        rig.ask(&key(1)).expect_owner("alice");
        rig.keycloak(|keycloak| revoke(keycloak.user("alice")));
        // Its use in between makes the time no longer.
        rig.pass(200_000);
        rig.ask(&key(1)).expect_owner("alice");
        rig.pass(100_000);
        rig.ask(&key(1)).expect_invalid();
    }
}

pub fn an_unknown_key_and_no_other_passes_until_the_fallback_ends<R: Rig>() {
    let until = START.plus_ms(60_000);
    let changes = json!({ "fallback_until": until.to_rfc3339() });
    let mut disabled = plain_owner("dave", 4);
    disabled.enabled = false;
    let mut rig = R::with(vec![owner("alice", 1), disabled], &changes);
    let second = rig.add_worker();
    rig.let_keys_pass();
    for worker in [0, 0, second] {
        rig.ask_worker(worker, &key(2)).expect_passed();
        rig.ask_worker(worker, &key(4)).expect_invalid();
    }
    // Before a key falls back Keycloak is asked for it a second time.
    assert_eq!(rig.count(Asked::Lookup), 3);
    rig.ask(&other_secret(&key(1), 1)).expect_invalid();
    // A look-up that says nothing about the key is no positive answer.
    rig.fates(|asked, _| match asked {
        Asked::Lookup => Fate::Status(500, Vec::new()),
        _ => Fate::Answered,
    });
    rig.ask(&key(3)).expect_unavailable();
    rig.fates(|_, _| Fate::Answered);
    rig.pass(60_000);
    for number in [2, 3] {
        rig.ask(&key(number)).expect_invalid();
    }
}

pub fn without_one_credential_the_policy_decides_before_any_call<R: Rig>() {
    let mut rig = R::new(vec![owner("alice", 1)]);
    rig.send(0, &[]).expect_rejected(401, "missing_credentials");
    let (one, two) = (key(1), key(2));
    let bearer = format!("Bearer {one}");
    for pair in [
        [("authorization", bearer.as_str()), ("x-api-key", &two)],
        [("authorization", "Bearer e.x.y"), ("x-api-key", &one)],
        [("x-api-key", &one), ("x-api-key", &one)],
    ] {
        let outcome = rig.send(0, &pair);
        outcome.expect_rejected(400, "ambiguous_credentials");
    }
    assert_eq!(rig.calls(), [0; 3]);
}

pub fn a_bearer_token_that_is_no_key_passes_untouched<R: Rig>() {
    let mut rig = R::new(vec![]);
    let headers = [("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.x")];
    rig.send(0, &headers).expect_passed();
    assert_eq!(rig.calls(), [0; 3]);
}

pub fn a_disabled_filter_touches_nothing<R: Rig>() {
    let mut rig = R::with(vec![owner("alice", 1)], &json!({ "enabled": false }));
    rig.let_keys_pass();
    rig.ask(&key(1)).expect_passed();
    rig.send(0, &[]).expect_passed();
    assert_eq!(rig.calls(), [0; 3]);
}

pub fn a_missing_role_is_named_and_is_no_unknown_key<R: Rig>() {
    for roles in [&[][..], &["query-users"], &["view-events", "query-users"]] {
        let mut rig = R::new(vec![plain_owner("alice", 1)]);
        rig.keycloak(|keycloak| keycloak.management_roles = roles.to_vec());
        rig.ask(&key(1)).expect_unavailable();
        assert!(rig.logged("view-users"));
        assert_eq!(rig.count(Asked::Lookup), 0);
        rig.keycloak(|keycloak| keycloak.management_roles = vec!["view-users"]);
        rig.ask(&key(1)).expect_owner("alice");
    }
    let mut rig = R::new(vec![plain_owner("alice", 1)]);
    rig.fates(|asked, count| match (asked, count) {
        (Asked::Lookup, 0) => Fate::Status(403, Vec::new()),
        _ => Fate::Answered,
    });
    rig.ask(&key(1)).expect_unavailable();
    assert!(rig.logged("view-users"));
    rig.ask(&key(1)).expect_owner("alice");
}

// --- faults ---------------------------------------------------------------------------

fn half(body: &[u8]) -> Vec<u8> {
    body[..body.len() / 2].to_vec()
}

fn nested(begin: &str, end: &str) -> Vec<u8> {
    [begin, &"[".repeat(120), &"]".repeat(120), end]
        .concat()
        .into_bytes()
}

fn wrong_answers() -> Vec<Fate> {
    let bodies: [&[u8]; 8] = [
        b"<html>Welcome</html>",
        b"",
        b"[{\"id\":",
        b"{\"access_token\":7}",
        b"null",
        b"[1,null,{\"id\":{}}]",
        b"\xff\xfe\x00",
        &[b'['; 600_000],
    ];
    let mut fates: Vec<_> = bodies.map(|body| Fate::Status(200, body.to_vec())).into();
    for status in [201, 204, 302, 403, 404, 429, 500, 502, 503, 504] {
        fates.extend([bodies[0], bodies[1]].map(|body| Fate::Status(status, body.to_vec())));
    }
    // More bytes than are read.
    let huge = format!("{{\"access_token\":\"{}\"}}", "x".repeat(256 * 1024));
    fates.extend([
        Fate::Reset,
        Fate::Changed(half),
        Fate::Changed(|_| b"[[[[".repeat(10_000)),
        // As deep as is read at all.
        Fate::Changed(|_| nested("{\"error\":", "}")),
        Fate::Changed(|_| nested("[{\"id\":\"x\",\"attributes\":{\"apiKeys\":", "}}]")),
        Fate::Changed(|_| vec![0xff; 100]),
        Fate::Status(200, huge.into_bytes()),
    ]);
    fates
}

pub fn whatever_keycloak_answers_wrong_is_a_503_and_the_next_request_is_served<R: Rig>() {
    for wrong in CALLS {
        for fate in wrong_answers() {
            let mut rig = R::new(vec![plain_owner("alice", 1)]);
            // What another node might answer is asked again.
            let tries = match fate {
                Fate::Reset | Fate::Status(502..=504, _) => 3,
                _ => 1,
            };
            let is_reset = matches!(fate, Fate::Reset);
            rig.fates(move |asked, count| match asked == wrong && count < tries {
                true => fate.clone(),
                false => Fate::Answered,
            });
            rig.ask(&key(1)).expect_unavailable();
            assert!(!is_reset || rig.logged("callout failed: "));
            assert_eq!(rig.count(wrong), tries);
            rig.ask(&key(1)).expect_owner("alice");
        }
    }
}

/// A grant's answer with another claim in its token.
fn with_claim(body: &[u8], name: &str, value: Value) -> Vec<u8> {
    let mut body: Value = serde_json::from_slice(body).unwrap();
    let mut changed = claims(body["access_token"].as_str().unwrap());
    changed[name] = value;
    body["access_token"] = jwt(&changed).into();
    body.to_string().into_bytes()
}

/// A grant that is changed so is refused in these words, and nothing of it is kept.
fn expect_unused<R: Rig>(change: Change, said: &str) {
    let mut rig = R::new(vec![ending("alice", 1, START.plus_ms(120_000))]);
    rig.fates(move |asked, count| match (asked, count) {
        (Asked::Grant, 0) => Fate::Changed(change),
        _ => Fate::Answered,
    });
    rig.ask(&key(1)).expect_unavailable();
    assert!(rig.logged(said), "{said}");
    rig.ask(&key(1)).expect_owner("alice");
    assert_eq!(rig.count(Asked::Grant), 2);
}

pub fn a_token_that_is_not_the_owners_is_never_forwarded<R: Rig>() {
    let foreign: [(Change, &str); 3] = [
        (
            |body| with_claim(body, "sub", json!("mallory")),
            "subject is not the key's owner",
        ),
        (
            |body| with_claim(body, "sub", Value::Null),
            "lacks iss, sub or exp",
        ),
        (
            |body| with_claim(body, "iss", json!("https://login.example.com/realms/other")),
            "another issuer",
        ),
    ];
    for (change, said) in foreign {
        expect_unused::<R>(change, said);
    }
}

pub fn a_token_that_is_over_or_outlives_its_key_is_never_forwarded<R: Rig>() {
    let wrong: [(Change, &str); 6] = [
        (
            |body| with_claim(body, "exp", json!(START.as_seconds())),
            "expired already",
        ),
        (
            |body| with_claim(body, "exp", json!(START.as_seconds() - 1)),
            "expired already",
        ),
        (
            |body| with_claim(body, "exp", json!("soon")),
            "lacks iss, sub or exp",
        ),
        (
            |body| with_claim(body, "exp", json!(START.as_seconds() + 130)),
            "outlives the key",
        ),
        (
            |body| with_claim(body, "exp", json!(START.as_seconds() + 300)),
            "outlives the key",
        ),
        (
            |body| with_claim(body, "exp", json!(u64::MAX)),
            "outlives the key",
        ),
    ];
    for (change, said) in wrong {
        expect_unused::<R>(change, said);
    }
}

pub fn a_turn_that_is_not_given_ends_the_exchange<R: Rig>() {
    for fate in [Fate::Reset, Fate::Status(503, Vec::new())] {
        for number in 0..3 {
            let mut rig = R::new(vec![owner("alice", 1)]);
            let refused = fate.clone();
            rig.fates(
                move |asked, count| match asked == Asked::Turn && count == number {
                    true => refused.clone(),
                    false => Fate::Answered,
                },
            );
            rig.ask(&key(1)).expect_rejected(503, "overloaded");
            assert!(rig.logged("yield_upstream does not answer"));
            rig.ask(&key(1)).expect_owner("alice");
        }
    }
}

// --- abuse ----------------------------------------------------------------------------

pub fn an_address_that_has_failed_too_often_is_told_to_wait_before_any_call<R: Rig>() {
    for (address, neighbour, other) in [
        ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
        ("2001:db8:0:1::7", "2001:db8:0:1:ffff::1", "2001:db8:0:2::7"),
    ] {
        let mut rig = R::new(vec![plain_owner("alice", 1), plain_owner("bob", 2)]);
        let second = rig.add_worker();
        for worker in [0, second] {
            rig.ask_worker(worker, &key(1)).expect_owner("alice");
        }
        rig.come_from(address);
        // A failure is forgotten in three seconds.
        for number in 0..20 {
            let worker = if number % 2 == 0 { 0 } else { second };
            rig.ask_worker(worker, &key(100 + number)).expect_invalid();
        }
        let calls = rig.calls();
        rig.come_from(neighbour);
        for worker in [0, second] {
            for presented in [&key(99), &key(2), "sk_live_short"] {
                let outcome = rig.ask_worker(worker, presented);
                outcome.expect_rejected(429, "throttled");
            }
            // A key in the cache passes.
            rig.ask_worker(worker, &key(1)).expect_owner("alice");
        }
        assert_eq!(rig.calls(), calls);
        rig.come_from(other);
        rig.ask(&key(2)).expect_owner("bob");
        // In a minute the first may fail as often again.
        rig.come_from(address);
        rig.pass(60_000);
        rig.ask(&key(98)).expect_invalid();
    }
}

pub fn the_host_is_asked_for_no_address_of_a_warm_request<R: Rig>() {
    let mut rig = R::new(vec![plain_owner("alice", 1)]);
    let second = rig.add_worker();
    rig.ask(&key(1)).expect_owner("alice");
    let asked = rig.addresses_asked();
    for worker in [0, second] {
        rig.ask_worker(worker, &key(1)).expect_owner("alice");
    }
    assert_eq!(rig.addresses_asked(), asked);
    rig.ask(&key(2)).expect_invalid();
    assert!(rig.addresses_asked() > asked);
}

// --- the terms of a key -----------------------------------------------------------------

pub fn a_key_over_its_rate_limit_is_told_so_and_served_again_later<R: Rig>() {
    let mut rig = R::new(vec![
        plain_owner_with("alice", 1, Field::RateLimit, "3/60"),
        plain_owner("bob", 2),
    ]);
    let other = rig.add_worker();
    for worker in [0, 0, other] {
        rig.ask_worker(worker, &key(1)).expect_owner("alice");
    }
    for worker in [0, other] {
        rig.ask_worker(worker, &key(1))
            .expect_rejected(429, "rate_limited");
    }
    rig.ask(&key(2)).expect_owner("bob");
    rig.pass(20_000);
    rig.ask(&key(1)).expect_owner("alice");
    rig.ask(&key(1)).expect_rejected(429, "rate_limited");
}

pub fn a_key_bound_to_networks_is_refused_from_elsewhere_once_it_is_verified<R: Rig>() {
    let alice = plain_owner_with("alice", 1, Field::AllowedAddresses, "192.0.2.0/24");
    let mut rig = R::new(vec![alice]);
    rig.come_from("198.51.100.7");
    rig.ask(&key(1)).expect_rejected(403, "address_not_allowed");
    rig.ask(&other_secret(&key(1), 1)).expect_invalid();
    rig.come_from("192.0.2.7");
    rig.ask(&key(1)).expect_owner("alice");
    rig.come_from("198.51.100.7");
    rig.ask(&key(1)).expect_rejected(403, "address_not_allowed");
    assert!(rig.logged("the key may not come from this address"));
}

pub fn a_disabled_key_is_refused_like_any_other_and_the_log_says_why<R: Rig>() {
    let mut rig = R::new(vec![plain_owner_with("alice", 1, Field::Disabled, "true")]);
    rig.ask(&key(1)).expect_invalid();
    assert!(rig.logged("key disabled"));
    rig.keycloak(|keycloak| set_fact(&mut keycloak.users[0], 1, Field::Disabled, "false"));
    rig.pass(31_000);
    rig.ask(&key(1)).expect_owner("alice");
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_scenario_is_left_out_of_the_list() {
        let source = include_str!("scenarios.rs");
        let (_, list) = source.split_once("$rig =>\n").unwrap();
        let listed: Vec<_> = list
            .lines()
            .map(str::trim)
            .take_while(|name| *name != "}")
            .collect();
        let scenarios = source
            .lines()
            .filter_map(|line| line.strip_prefix("pub fn ")?.strip_suffix("<R: Rig>() {"));
        assert_eq!(listed, scenarios.collect::<Vec<_>>());
    }
}
