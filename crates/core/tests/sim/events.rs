//! The admin events of the model, with the oddities that a poller has to live with.

use apikeys_core::clock::UnixMillis;
use apikeys_core::keycloak::{Call, Endpoint};
use serde_json::Value;

use super::keycloak::{EventFate, FakeKeycloak, User};
use super::setup::START;

const NOW: UnixMillis = UnixMillis(START);

fn ask(keycloak: &mut FakeKeycloak, path: &str, token: &str, now: UnixMillis) -> (u16, Value) {
    let call = Call {
        endpoint: Endpoint::Events,
        method: "GET",
        path: format!("/admin/realms/demo/{path}"),
        bearer: Some(token.to_owned()),
        form: None,
        json: None,
    };
    let (status, body) = keycloak.answer(&call, now);
    (status, serde_json::from_slice(&body).unwrap())
}

/// The paths of the events that a poll from this instant on shows, newest first.
fn shown(keycloak: &mut FakeKeycloak, token: &str, from: u64, now: UnixMillis) -> Vec<String> {
    let path = format!("admin-events?resourceTypes=USER&dateFrom={from}");
    let (status, events) = ask(keycloak, &path, token, now);
    assert_eq!(status, 200);
    let events = events.as_array().unwrap().iter();
    events
        .map(|event| {
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            format!("{} {}", text("operationType"), text("resourcePath"))
        })
        .collect()
}

#[test]
fn an_edit_is_told_of_once_late_twice_or_never() {
    let users = ["a", "b", "c", "d"].map(User::new).to_vec();
    let mut keycloak = FakeKeycloak::new(users);
    keycloak.management_roles.push("view-events");
    let token = keycloak.give_service_token(NOW);
    let disable = |user: &mut User| user.enabled = false;
    keycloak.edit("a", NOW, EventFate::Shown, disable);
    keycloak.edit("b", NOW.plus_ms(1), EventFate::Lost, disable);
    keycloak.edit("c", NOW.plus_ms(2), EventFate::Late(5_000), disable);
    keycloak.delete("d", NOW.plus_ms(3), EventFate::Twice);
    keycloak.create(User::new("e"), NOW.plus_ms(4), EventFate::Shown);
    let now = NOW.plus_ms(10);
    let soon = shown(&mut keycloak, &token, NOW.0 - 1, now);
    assert_eq!(
        soon,
        [
            "CREATE users/e",
            "DELETE users/d",
            "DELETE users/d",
            "UPDATE users/a"
        ]
    );
    let later = shown(&mut keycloak, &token, NOW.0 - 1, NOW.plus_ms(6_000));
    assert!(later.contains(&"UPDATE users/c".to_owned()) && later.len() == 5);
    assert_eq!(
        shown(&mut keycloak, &token, NOW.0 + 3, now),
        ["CREATE users/e"]
    );
}

#[test]
fn events_and_users_take_a_role_and_a_token_that_is_known_and_not_over() {
    let mut keycloak = FakeKeycloak::new(vec![User::new("a")]);
    keycloak.token_life_seconds = 60;
    let token = keycloak.give_service_token(NOW);
    let events = "admin-events?dateFrom=0";
    let users = "users?max=2&q=apiKeyIndex%3Ax";
    assert_eq!(ask(&mut keycloak, events, &token, NOW).0, 403);
    assert_eq!(ask(&mut keycloak, users, &token, NOW).0, 200);
    for (token, now) in [("another", NOW), (&*token, NOW.plus_ms(60_000))] {
        assert_eq!(ask(&mut keycloak, events, token, now).0, 401);
        assert_eq!(ask(&mut keycloak, users, token, now).0, 401);
    }
}
