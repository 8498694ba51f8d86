//! Checks against a made-up realm, answer by answer.

use serde_json::{Value, json};

use super::*;
use crate::store::slots::tests::Shared;
use crate::test_support::{config_with, jwt, signing_key};

fn at(ms: u64) -> UnixMillis {
    UnixMillis(1_700_000_000_000 + ms)
}

/// A realm, as far as a check asks.
struct Realm {
    roles: Value,
    /// Seconds that its clock is ahead of ours.
    ahead_seconds: u64,
    issuer: &'static str,
    events: Value,
    policy: Value,
    /// What is answered in place of what it would say, by a part of the path.
    instead: Option<(&'static str, Answer)>,
    /// The paths that were asked for.
    asked: Vec<String>,
}

/// Makes something wrong.
type Spoil = fn(&mut Realm);

#[derive(Clone)]
enum Answer {
    Given(u16, Vec<u8>),
    TooLarge,
    Failed(&'static str),
}

impl Realm {
    fn new() -> Self {
        Self {
            roles: json!(["view-users", "query-users", "query-groups", "view-events"]),
            ahead_seconds: 0,
            issuer: "https://login.example.com/realms/demo",
            events: json!({ "adminEventsEnabled": true }),
            policy: json!({ "unmanagedAttributePolicy": "ADMIN_EDIT" }),
            instead: None,
            asked: Vec::new(),
        }
    }

    fn answer(&mut self, call: &Call, now: UnixMillis) -> Answer {
        self.asked.push(call.path.clone());
        if let Some((part, answer)) = &self.instead
            && call.path.contains(part)
        {
            return answer.clone();
        }
        let body = match call.path.rsplit('/').next().unwrap() {
            "token" => {
                let theirs = now.as_seconds() + self.ahead_seconds;
                let claims = json!({
                    "iss": "https://login.example.com/realms/demo", "sub": "gateway",
                    "iat": theirs, "exp": theirs + 300,
                    "resource_access": { "realm-management": { "roles": self.roles } },
                });
                json!({ "access_token": jwt(&claims), "expires_in": 300, "token_type": "Bearer" })
            }
            "openid-configuration" => json!({ "issuer": self.issuer }),
            "config" => self.events.clone(),
            "profile" => self.policy.clone(),
            _ => panic!("{}", call.path),
        };
        Answer::Given(200, body.to_string().into_bytes())
    }
}

/// A worker, as far as its self-check is concerned.
struct Gateway {
    check: SelfCheck,
    service_token: ServiceToken,
    config: Config,
    exchanges: ExchangeId,
}

impl Gateway {
    fn new(seed: &[u8]) -> Self {
        Self::with(seed, &json!({ "revocation_poll_seconds": 5 }))
    }

    fn with(seed: &[u8], fields: &Value) -> Self {
        let config = config_with(fields);
        Self {
            check: SelfCheck::new(&config, &signing_key(), seed),
            service_token: ServiceToken::default(),
            config,
            exchanges: 100,
        }
    }

    fn input(&mut self, input: PollInput<'_>, ms: u64, shared: &mut Shared) -> Option<PollCall> {
        let exchanges = &mut self.exchanges;
        let mut env = CheckEnv {
            now: at(ms),
            config: &self.config,
            signing_key: &signing_key(),
            service_token: &mut self.service_token,
            store: shared,
            next_exchange: &mut || {
                *exchanges += 1;
                *exchanges
            },
            jti: &mut |name| format!("{name}.1"),
        };
        self.check.handle_input(input, &mut env)
    }

    fn tick(&mut self, ms: u64, shared: &mut Shared) -> Option<PollCall> {
        self.input(PollInput::Tick, ms, shared)
    }

    fn answer(&mut self, answer: &Answer, ms: u64, shared: &mut Shared) {
        let call = match answer {
            Answer::Given(status, body) => {
                let (status, body) = (*status, Some(&body[..]));
                self.input(PollInput::Answer { status, body }, ms, shared)
            }
            Answer::TooLarge => {
                let (status, body) = (200, None);
                self.input(PollInput::Answer { status, body }, ms, shared)
            }
            Answer::Failed(why) => self.input(PollInput::Failed(why), ms, shared),
        };
        assert_eq!(call, None, "a call begins at a tick alone");
        assert!(!self.check.is_under_way());
    }

    /// A few ticks, and all that follows from them; how many calls that were.
    fn run(&mut self, ms: u64, shared: &mut Shared, realm: &mut Realm) -> usize {
        let mut calls = 0;
        for _ in 0..6 {
            if let Some(PollCall { call, .. }) = self.tick(ms, shared) {
                calls += 1;
                assert!(self.check.is_under_way());
                let answer = realm.answer(&call, at(ms));
                self.answer(&answer, ms, shared);
            }
        }
        calls
    }

    fn text(&self, check: Check) -> String {
        match self.check.findings().of(check) {
            State::Bad(text) => text.clone(),
            other => panic!("{check:?}: {other:?}"),
        }
    }

    fn states(&self) -> String {
        let letter = |(_, state): (Check, &State)| match state {
            State::Unchecked => '-',
            State::Good => 'g',
            State::Warning(_) => 'w',
            State::Bad(_) => 'B',
        };
        self.check.findings().iter().map(letter).collect()
    }
}

/// A worker that has checked once, at 0; and how its findings look, in their order.
fn checked(realm: &mut Realm) -> (Gateway, Shared, String) {
    let (mut gateway, mut shared) = (Gateway::new(b"1"), Shared::default());
    gateway.run(0, &mut shared, realm);
    let states = gateway.states();
    (gateway, shared, states)
}

#[test]
fn what_fits_is_told_once_and_looked_at_every_five_minutes() {
    let mut realm = Realm::new();
    let (mut gateway, mut shared, states) = checked(&mut realm);
    assert_eq!(states, "gggggg");
    assert_eq!(
        realm.asked,
        [
            "/realms/demo/protocol/openid-connect/token",
            "/realms/demo/.well-known/openid-configuration",
            "/admin/realms/demo/events/config",
            "/admin/realms/demo/users/profile",
        ]
    );
    let told = gateway.check.take_findings().unwrap();
    assert_eq!(
        told.to_string(),
        "self-check: all is well: service_token, roles, issuer, clock, events, user_profile"
    );
    assert_eq!(gateway.run(299_999, &mut shared, &mut realm), 0);
    assert_eq!(gateway.run(300_000, &mut shared, &mut realm), 4);
    assert_eq!(gateway.check.take_findings(), None);
}

#[test]
fn its_token_is_fresh_and_left_for_all_requests() {
    let mut realm = Realm::new();
    let (mut gateway, mut shared, _) = checked(&mut realm);
    let needed = |gateway: &mut Gateway, ms| gateway.service_token.need(1, at(ms), at(ms), at(ms));
    assert!(matches!(needed(&mut gateway, 1), Need::Use(_)));
    // Roles that were taken meanwhile are seen, though the token is good.
    realm.roles = json!(["view-users"]);
    assert!(matches!(needed(&mut gateway, 200_000), Need::Use(_)));
    gateway.service_token.give_up(1);
    gateway.run(300_000, &mut shared, &mut realm);
    assert_eq!(gateway.states(), "gBgg-g");
    assert!(matches!(needed(&mut gateway, 500_000), Need::Use(_)));
}

#[test]
fn what_is_bad_is_told_once_and_looked_at_every_half_minute() {
    let mut realm = Realm::new();
    realm.policy = json!({ "unmanagedAttributePolicy": "ENABLED" });
    let (mut gateway, mut shared, states) = checked(&mut realm);
    assert_eq!(states, "gggggB");
    let told = gateway.check.take_findings().unwrap();
    let [(Severity::Error, line)] = &told.lines()[..] else {
        panic!("{told}")
    };
    assert!(
        line.starts_with("self-check: user_profile: ANY USER"),
        "{line}"
    );
    assert_eq!(gateway.run(29_999, &mut shared, &mut realm), 0);
    assert_eq!(gateway.run(30_000, &mut shared, &mut realm), 4);
    assert_eq!(gateway.check.take_findings(), None);
    realm.policy = json!({});
    gateway.run(60_000, &mut shared, &mut realm);
    let told = gateway.check.take_findings().unwrap();
    assert!(told.to_string().contains("cannot be written"), "{told}");
    realm = Realm::new();
    assert_eq!(gateway.run(90_000, &mut shared, &mut realm), 4);
    let told = gateway.check.take_findings().unwrap();
    assert!(told.to_string().contains("all is well"), "{told}");
    assert_eq!(gateway.run(389_999, &mut shared, &mut realm), 0);
}

#[test]
fn each_fault_is_a_finding_of_its_own_check() {
    let refused = br#"{"error":"invalid_client","error_description":"Unable to load public key"}"#;
    let cases: [(Spoil, &str, Check, &str); 6] = [
        (
            |realm| realm.roles = json!(["view-events"]),
            "gBggg-",
            Check::Roles,
            "view-users",
        ),
        (
            |realm| realm.roles = json!(["view-users"]),
            "gBgg-g",
            Check::Roles,
            "view-events",
        ),
        (
            |realm| realm.roles = json!([]),
            "gBgg--",
            Check::Roles,
            "view-users",
        ),
        (
            |realm| realm.issuer = "http://kc:8080/realms/demo",
            "ggBggg",
            Check::Issuer,
            "names issuer http://kc:8080/realms/demo, and",
        ),
        (
            |realm| realm.ahead_seconds = 31,
            "gggBgg",
            Check::Clock,
            "31 s behind",
        ),
        (
            |realm| realm.events = json!({ "adminEventsEnabled": false }),
            "ggggBg",
            Check::Events,
            "no admin events",
        ),
    ];
    for (spoil, expected, check, words) in cases {
        let mut realm = Realm::new();
        spoil(&mut realm);
        let (gateway, _, states) = checked(&mut realm);
        assert_eq!(states, expected);
        assert!(
            gateway.text(check).contains(words),
            "{}",
            gateway.text(check)
        );
    }
    let mut realm = Realm::new();
    realm.instead = Some(("/token", Answer::Given(401, refused.to_vec())));
    let (mut gateway, _, states) = checked(&mut realm);
    // What needs no token is looked at all the same.
    assert_eq!(states, "B-g---");
    let text = gateway.text(Check::ServiceToken);
    assert!(
        text.contains("Unable to load public key") && text.contains("signing key"),
        "{text}"
    );
    // A request that waits for the token learns it, too.
    let need = gateway
        .service_token
        .need(1, at(0).minus_ms(1), at(9), at(1));
    assert!(matches!(need, Need::Failed(..)), "{need:?}");
}

#[test]
fn a_warning_is_told_and_brings_no_more_checks() {
    let mut realm = Realm::new();
    realm.roles = json!(["view-users", "view-events", "manage-users"]);
    let (mut gateway, mut shared, states) = checked(&mut realm);
    assert_eq!(states, "gwgggg");
    let told = gateway.check.take_findings().unwrap();
    assert!(
        matches!(&told.lines()[..], [(Severity::Warning, line)] if line.contains("manage-users"))
    );
    assert_eq!(gateway.run(30_000, &mut shared, &mut realm), 0);
}

#[test]
fn by_how_much_the_clocks_differ_is_told_once() {
    let mut realm = Realm::new();
    realm.ahead_seconds = 40;
    let (mut gateway, mut shared, states) = checked(&mut realm);
    assert!(states == "gggBgg" && gateway.check.take_findings().is_some());
    realm.ahead_seconds = 41;
    gateway.run(30_000, &mut shared, &mut realm);
    assert_eq!(gateway.check.take_findings(), None);
    assert!(gateway.text(Check::Clock).contains("41 s"));
    realm.ahead_seconds = 20;
    gateway.run(60_000, &mut shared, &mut realm);
    assert!(gateway.check.take_findings().is_some());
}

#[test]
fn a_call_that_fails_is_a_finding_and_keeps_no_other_check_from_being_made() {
    let given = |status, body: &str| Answer::Given(status, body.as_bytes().to_vec());
    for answer in [
        Answer::TooLarge,
        Answer::Failed("connection refused"),
        given(500, "{}"),
        given(401, "{}"),
        given(403, "{}"),
        given(200, "<html>"),
        given(200, ""),
    ] {
        for (part, expected, check) in [
            ("/token", "B-g---", Check::ServiceToken),
            ("openid-configuration", "ggBggg", Check::Issuer),
            ("events/config", "ggggBg", Check::Events),
            ("users/profile", "gggggB", Check::UserProfile),
        ] {
            let mut realm = Realm::new();
            realm.instead = Some((part, answer.clone()));
            let (gateway, _, states) = checked(&mut realm);
            assert_eq!(states, expected);
            let text = gateway.text(check);
            let told = check == Check::ServiceToken || text.starts_with("cannot be checked: ");
            assert!(told, "{text}");
        }
    }
    let mut realm = Realm::new();
    realm.instead = Some(("openid-configuration", given(404, "{}")));
    let (gateway, ..) = checked(&mut realm);
    assert!(gateway.text(Check::Issuer).contains("no such realm"));
}

#[test]
fn events_are_not_asked_for_where_nobody_polls() {
    let mut gateway = Gateway::with(b"1", &json!({ "revocation_poll_seconds": 0 }));
    let mut realm = Realm::new();
    realm.roles = json!(["view-users"]);
    assert_eq!(gateway.run(0, &mut Shared::default(), &mut realm), 3);
    assert_eq!(gateway.states(), "gggg-g");
    let told = gateway.check.take_findings().unwrap().to_string();
    assert!(
        told.ends_with("service_token, roles, issuer, clock, user_profile"),
        "{told}"
    );
}

#[test]
fn a_call_that_is_never_answered_ends_with_its_check() {
    let (mut gateway, mut shared) = (Gateway::new(b"1"), Shared::default());
    let call = gateway.tick(0, &mut shared).unwrap();
    assert_eq!(call.timeout_ms, 2_000);
    assert!(gateway.tick(12_999, &mut shared).is_none());
    assert!(gateway.check.is_under_way());
    assert!(gateway.tick(13_000, &mut shared).is_none());
    assert!(!gateway.check.is_under_way());
    assert_eq!(gateway.states(), "B-----");
    assert!(
        gateway
            .text(Check::ServiceToken)
            .contains("no answer came in time")
    );
    gateway.answer(&Answer::Given(200, b"{}".to_vec()), 13_001, &mut shared);
    // Whoever comes now fetches the token, and waits for nobody.
    let need = gateway
        .service_token
        .need(1, at(13_001), at(14_000), at(13_001));
    assert_eq!(need, Need::Fetch);
}

#[test]
fn a_node_that_does_not_answer_is_no_finding_where_another_does() {
    for gone in [
        Answer::Failed("connection refused"),
        Answer::Given(503, vec![]),
    ] {
        let (mut gateway, mut shared) = (Gateway::new(b"1"), Shared::default());
        let mut realm = Realm::new();
        let mut calls = 0;
        for ms in (0..20_000).step_by(200) {
            if let Some(PollCall { call, .. }) = gateway.tick(ms, &mut shared) {
                calls += 1;
                // Every other call comes to the node that is gone.
                let answer = match calls % 2 {
                    1 => gone.clone(),
                    _ => realm.answer(&call, at(ms)),
                };
                gateway.answer(&answer, ms, &mut shared);
            }
        }
        assert_eq!((calls, gateway.states().as_str()), (8, "gggggg"));
    }
}

#[test]
fn it_waits_for_a_request_that_fetches_the_token_and_fetches_its_own() {
    let (mut gateway, mut shared) = (Gateway::new(b"1"), Shared::default());
    let need = gateway.service_token.need(1, at(0), at(3_000), at(0));
    assert_eq!(need, Need::Fetch);
    assert!(gateway.tick(0, &mut shared).is_none() && !gateway.check.is_under_way());
    gateway.service_token.give_up(1);
    let mut realm = Realm::new();
    assert_eq!(gateway.run(200, &mut shared, &mut realm), 4);
    assert_eq!(gateway.states(), "gggggg");
}

#[test]
fn what_that_request_learns_of_the_token_is_a_finding() {
    for (reason, expected) in [
        (Reason::MissingRole, "gBg---"),
        (Reason::LightweightToken("gateway's"), "gBg---"),
        (Reason::Signing, "B-g---"),
    ] {
        let (mut gateway, mut shared) = (Gateway::new(b"1"), Shared::default());
        gateway.service_token.need(1, at(0), at(3_000), at(0));
        assert!(gateway.tick(0, &mut shared).is_none());
        gateway.service_token.failed(1, at(100), reason);
        assert_eq!(gateway.run(200, &mut shared, &mut Realm::new()), 1);
        assert_eq!(gateway.states(), expected);
    }
}

#[test]
fn one_worker_checks_and_another_takes_over_when_it_is_gone() {
    let mut realm = Realm::new();
    let (mut one, mut shared, _) = checked(&mut realm);
    let mut other = Gateway::new(b"2");
    for ms in (200..=304_800).step_by(5_000) {
        assert_eq!(other.run(ms, &mut shared, &mut realm), 0, "{ms}");
        if ms < 300_000 {
            assert_eq!(one.run(ms, &mut shared, &mut realm), 0, "{ms}");
        }
    }
    assert_eq!(other.states(), "------");
    // The first was due, and is gone.
    assert_eq!(other.run(306_000, &mut shared, &mut realm), 4);
    assert!(other.check.take_findings().is_some());
    assert_eq!(one.run(307_000, &mut shared, &mut realm), 0);
    // While its call is out no other checks, and one that dies holds nobody up for long.
    assert!(other.tick(606_000, &mut shared).is_some());
    assert_eq!(one.run(612_000, &mut shared, &mut realm), 0);
    assert_eq!(one.run(624_000, &mut shared, &mut realm), 4);
}

#[test]
fn where_nothing_is_shared_each_worker_checks() {
    let (mut shared, mut realm) = (Shared::default(), Realm::new());
    for seed in [b"1", b"2"] {
        let mut gateway = Gateway::with(seed, &json!({ "l2_slots": 0 }));
        assert_eq!(gateway.run(0, &mut shared, &mut realm), 3);
    }
    assert!(shared.0.is_empty());
}

#[test]
fn a_clock_that_is_set_back_ends_no_check_for_good() {
    let mut realm = Realm::new();
    let (mut gateway, mut shared, _) = checked(&mut realm);
    let day = 86_400_000;
    gateway.run(day, &mut shared, &mut realm);
    assert_eq!(gateway.run(0, &mut shared, &mut realm), 4);
    assert!(gateway.tick(300_000, &mut shared).is_some());
    assert!(gateway.tick(299_000, &mut shared).is_none());
    assert_eq!(gateway.run(299_200, &mut shared, &mut realm), 4);
    assert_eq!(gateway.states(), "gggggg");
}

#[test]
fn nothing_secret_is_in_what_is_shown() {
    let (mut gateway, mut shared, mut realm) =
        (Gateway::new(b"1"), Shared::default(), Realm::new());
    let call = gateway.tick(0, &mut shared).unwrap().call;
    let answer = realm.answer(&call, at(0));
    gateway.answer(&answer, 0, &mut shared);
    let shown = format!("{:?}", gateway.check);
    assert!(!shown.contains("eyJ"), "{shown}");
}
