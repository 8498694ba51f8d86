//! Any input is answered, within bounds, and nothing panics.

use apikeys_core::machine::{Effect, Event};
use apikeys_core::manage::{Manage, Output, RequestHead};
use proptest::prelude::*;
use serde_json::json;

use super::client::Client;
use super::keycloak::User;
use super::keys::{key, owner};
use super::request::{KEYS, Request};
use super::world::World;

fn methods() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec!["GET", "POST", "PATCH", "DELETE", "OPTIONS"]).prop_map(str::to_owned),
        1 => "[A-Za-z]{0,8}",
        1 => any::<String>(),
    ]
}

fn paths() -> impl Strategy<Value = String> {
    let known = [
        "/api-keys",
        "/api-keys/abc",
        "/api-keys/abc/rotate",
        "/api-keys/abc/usage",
        "/api-keys/validate",
        "/api-keys/revoke",
        "/openapi.json",
        "/",
        "/api-keys/",
        "/api-keys//rotate",
    ];
    let known = prop::sample::select(known.to_vec());
    let query = prop_oneof![
        3 => Just(String::new()),
        1 => "\\?(limit|after|user_id|x)=[a-z0-9%&=.]{0,8}",
        1 => "\\?\\PC{0,12}",
    ];
    prop_oneof![
        8 => (known, query).prop_map(|(path, query)| format!("/api/v1{path}{query}")),
        1 => "/[a-z0-9/.%?=&]{0,30}",
        1 => any::<String>(),
    ]
}

fn headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let names = [
        "authorization",
        "Authorization",
        "content-type",
        "content-length",
        "origin",
        "x",
        "transfer-encoding",
        "x-api-key",
        "cookie",
    ];
    let name = prop::sample::select(names.to_vec()).prop_map(str::to_owned);
    let token = "Bearer [A-Za-z0-9_-]{0,20}\\.[A-Za-z0-9_-]{0,20}\\.[A-Za-z0-9_-]{0,20}";
    let text = prop_oneof![
        Just("application/json".to_owned()),
        Just(format!("Bearer {}", key(1))),
        "[0-9]{1,6}",
        token,
    ];
    let value = prop_oneof![
        4 => text.prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec((name, value), 0..6)
}

fn bodies() -> impl Strategy<Value = Option<Vec<u8>>> {
    let json = prop::sample::select(vec![
        json!({ "name": "n" }),
        json!({ "name": "n", "scopes": ["profile"] }),
        json!({}),
        json!({ "grace_seconds": 0 }),
        json!({ "name": "n", "rate_limit": "1/1", "disabled": null }),
        json!({ "api_key": key(1) }),
        json!({ "api_key": "x" }),
    ]);
    prop_oneof![
        1 => Just(None),
        4 => json.prop_map(|body| Some(body.to_string().into_bytes())),
        2 => prop::collection::vec(any::<u8>(), 0..60).prop_map(Some),
    ]
}

/// An input that comes back after any effect.
#[derive(Debug, Clone)]
enum Back {
    /// The right answer.
    Right,
    Answer(u16, Option<Vec<u8>>),
    Failed(String),
    Body(Option<Vec<u8>>),
    /// The clock is stepped by so many seconds first.
    Clock(i32),
}

fn backs() -> impl Strategy<Value = Back> {
    let status = prop::sample::select(vec![
        0_u16, 100, 200, 204, 301, 400, 401, 403, 404, 409, 429, 500, 503,
    ]);
    let texts = prop::sample::select(vec![
        "",
        "{}",
        "[]",
        "null",
        "[{}]",
        "{\"keys\":[]}",
        "{\"id\":\"alice\"}",
        "{\"error\":\"invalid_scope\"}",
        "[{\"identityProvider\":\"api-keys-lock\",\"userId\":\"x\",\"userName\":\"x@1\"}]",
    ]);
    let body = prop_oneof![
        4 => texts.prop_map(|text| Some(text.as_bytes().to_vec())),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Some),
        1 => Just(None),
    ];
    prop_oneof![
        12 => Just(Back::Right),
        2 => (status, body).prop_map(|(status, body)| Back::Answer(status, body)),
        1 => any::<String>().prop_map(Back::Failed),
        1 => bodies().prop_map(Back::Body),
        1 => (-100_000..100_000).prop_map(Back::Clock),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_request_is_answered(
        method in methods(), path in paths(), headers in headers(), body in bodies(), follows: bool,
    ) {
        let origins = json!({ "cors_origins": ["https://a.example"] });
        let mut world = World::with(vec![User::new("alice")], &origins);
        let mut manage = Manage::new();
        let head = RequestHead { method: &method, path: &path, headers: &headers, body_follows: follows };
        let mut output = world.begin(0, &mut manage, head);
        for step in 0.. {
            prop_assert!(step < 100, "no end");
            output = match &output {
                Output::ReadBody { .. } => world.body(0, &mut manage, body.as_deref()),
                Output::Await(Effect::Call { call, .. }) => {
                    let (status, body) = world.keycloak.answer(&call.clone(), world.now);
                    world.input(0, &mut manage, Event::Answer { status, body: Some(&body) })
                }
                Output::Await(Effect::Yield { .. }) => world.input(0, &mut manage, Event::TURN),
                Output::Await(Effect::Compute { .. }) => unreachable!("it computes in slices"),
                Output::Respond(_) => break,
            };
        }
        world.expect_nothing_held();
    }

    #[test]
    fn any_answers_lead_to_an_end(kind in 0_usize..8, backs in prop::collection::vec(backs(), 0..40)) {
        let mut world = World::new(vec![owner("alice", 1), User::new("bob")]);
        let token = world.token("alice");
        let new = json!({ "name": "n", "scopes": ["profile"] });
        let request = match kind {
            0 => Request::create(&token, &new),
            1 => Request::rotate(&token, "abc", &json!({})),
            2 => Request::revoke(&token, "abc"),
            3 => Request::list(&token),
            4 => Request::new("GET", &format!("{KEYS}/abc?user_id=bob")).bearer(&world.admin()),
            5 => Request::update(&token, "abc", &json!({ "disabled": true })),
            6 => Request::validate(&key(1)),
            _ => Request::present(&key(1)),
        };
        let mut client = Client::send(&mut world, &request);
        let mut backs = backs.into_iter();
        let mut took_ms = 0;
        while !client.is_over() {
            let takes_ms = client.takes_ms();
            world.pass(takes_ms);
            took_ms += takes_ms.max(1);
            prop_assert!(took_ms < 60_000, "no end");
            match backs.next().unwrap_or(Back::Right) {
                Back::Right => client.answer(&mut world),
                Back::Answer(status, body) => {
                    client.input(&mut world, Event::Answer { status, body: body.as_deref() });
                }
                Back::Failed(why) => client.input(&mut world, Event::Failed(&why)),
                Back::Body(body) => client.body(&mut world, body.as_deref()),
                Back::Clock(seconds) => {
                    let ms = u64::from(seconds.unsigned_abs()) * 1000;
                    world.now = if seconds < 0 { world.now.minus_ms(ms) } else { world.now.plus_ms(ms) };
                }
            }
        }
        world.expect_nothing_held();
    }
}
