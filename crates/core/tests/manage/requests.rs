//! Invalid requests, each refused by its own contents alone.

use serde_json::json;

use super::keycloak::User;
use super::keys::key;
use super::request::{KEYS, Request};
use super::world::World;

fn world() -> World {
    World::new(vec![User::new("alice")])
}

#[test]
fn a_member_that_is_not_what_it_should_be_is_named_and_its_value_is_not_repeated() {
    let mut world = world();
    let token = world.token("alice");
    for (body, named) in [
        (json!({}), "name"),
        (json!({ "name": null }), "name"),
        (json!({ "name": "" }), "name"),
        (json!({ "name": " \t" }), "name"),
        (json!({ "name": "a\u{0}b" }), "name"),
        (json!({ "name": "n".repeat(101) }), "name"),
        (json!({ "name": "n", "expires_days": 0 }), "expires_days"),
        (
            json!({ "name": "n", "expires_days": 36_501 }),
            "expires_days",
        ),
        (json!({ "name": "n", "expires_days": 1.5 }), "expires_days"),
        (json!({ "name": "n", "expires_days": -1 }), "expires_days"),
        (json!({ "name": "n", "expires_days": "7" }), "expires_days"),
        (json!({ "name": "n", "scopes": "orders:read" }), "scopes"),
        (json!({ "name": "n", "scopes": [] }), "scopes"),
        (json!({ "name": "n", "scopes": ["a", "a"] }), "scopes"),
        (json!({ "name": "n", "scopes": ["a b"] }), "scopes"),
        (json!({ "name": "n", "scopes": [1] }), "scopes"),
        (
            json!({ "name": "n", "scopes": ["a".repeat(1025)] }),
            "scopes",
        ),
        (json!({ "name": "n", key(1): 1 }), "not known here"),
        (json!({ "name": [key(1)] }), "name"),
        (json!({ "name": "n", "rate_limit": key(1) }), "rate_limit"),
        (
            json!({ "name": "n", "allowed_addresses": [key(1)] }),
            "allowed_addresses",
        ),
        (json!([]), "JSON object"),
        (json!("text"), "JSON object"),
    ] {
        let detail = world
            .ask(&Request::create(&token, &body))
            .refused(400, "invalid_request");
        assert!(detail.contains(named), "{named}: {detail}");
    }
    for (body, named) in [
        (json!({ "grace_seconds": -1 }), "grace_seconds"),
        (json!({ "grace_seconds": 604_801 }), "grace_seconds"),
        (json!({ "grace_seconds": "0" }), "grace_seconds"),
        (json!({ "expires_days": 0 }), "expires_days"),
        (json!({ "name": "n" }), "not known here"),
    ] {
        let detail = world.ask(&Request::rotate(&token, "abc", &body));
        assert!(
            detail.refused(400, "invalid_request").contains(named),
            "{named}"
        );
    }
    for body in [
        json!({}),
        json!({ "api_key": [key(1)] }),
        json!({ "key": key(1) }),
    ] {
        let request = Request::validate("x").with_json(&body);
        let detail = world.ask(&request).refused(400, "invalid_request");
        assert!(detail.contains("api_key"), "{detail}");
    }
    assert!(world.calls.is_empty(), "nobody is asked");
    world.expect_nothing_held();
}

#[test]
fn what_is_no_json_is_refused() {
    let mut world = world();
    let token = world.token("alice");
    let deep = "[".repeat(5_000);
    for body in [
        &b""[..],
        b"{",
        b"name=n",
        b"{\"name\":\"n\"} {}",
        b"\xef\xbb\xbf{\"name\":\"n\"}",
        b"{\"name\":\"\xff\"}",
        deep.as_bytes(),
    ] {
        let request = Request::new("POST", KEYS).bearer(&token);
        let told = world.ask(&request.with_body("application/json", body));
        told.refused(400, "invalid_request");
    }
}

#[test]
fn a_body_of_any_length_up_to_the_bound_is_read_and_none_above() {
    let mut world = world();
    let token = world.token("alice");
    let of_length = |length: usize| {
        let text = json!({ "name": "n" }).to_string();
        let padded = format!("{text}{}", " ".repeat(length - text.len()));
        Request::new("POST", KEYS)
            .bearer(&token)
            .with_body("application/json", padded.as_bytes())
    };
    world.ask(&of_length(16_384)).made();
    world
        .ask(&of_length(16_385))
        .refused(413, "payload_too_large");
    // A body larger than announced, or one that cannot be read.
    let liar = of_length(16_385).replace("content-length", "14");
    world.ask(&liar).refused(413, "payload_too_large");
    let mut client = super::client::Client::send(&mut world, &of_length(100));
    client.body(&mut world, None);
    client.told().refused(413, "payload_too_large");
    world.expect_nothing_held();
}

#[test]
fn a_body_has_to_say_what_it_is_and_how_long() {
    let mut world = world();
    let token = world.token("alice");
    let good = Request::create(&token, &json!({ "name": "n" }));
    for kind in [
        "application/json",
        "Application/JSON; charset=utf-8",
        " application/json ",
    ] {
        world
            .ask(&good.clone().replace("content-type", kind))
            .made();
    }
    for kind in [
        "",
        "text/plain",
        "application/jsonp",
        "application/problem+json",
        "json",
    ] {
        let told = world.ask(&good.clone().replace("content-type", kind));
        told.refused(415, "unsupported_media_type");
    }
    let chunked = good.clone().replace("transfer-encoding", "chunked");
    let told = world.ask(&chunked.without("content-length"));
    told.refused(411, "length_required");
    for length in ["", "x", "-1", "+7", "1e3", "7, 7", "99999999999999999999"] {
        let told = world.ask(&good.clone().replace("content-length", length));
        told.refused(400, "invalid_request");
    }
    for twice in ["content-type", "content-length"] {
        let told = world.ask(&good.clone().header(twice, "7"));
        told.refused(400, "invalid_request");
    }
    let told = world.ask(&good.clone().replace("content-length", "16385"));
    told.refused(413, "payload_too_large");
    world.expect_nothing_held();
}

#[test]
fn a_body_of_no_length_is_none_however_that_is_written() {
    let mut world = world();
    for length in ["0", "00", "000"] {
        let (id, _) = world.make("alice");
        let token = world.token("alice");
        let mut request = Request::rotate(&token, &id, &json!({}));
        request = request.replace("content-length", length);
        // The host says that a body comes.
        request.body = Some(Vec::new());
        let client = super::client::Client::send(&mut world, &request);
        assert_ne!(client.waits_for(), "body", "it would be waited for in vain");
        client.finish_with(&mut world, |_, reply| Ok(reply)).made();
        let told = world.ask(&Request::revoke(&token, &id));
        told.expect(204);
    }
}

/// Kong shows a filter no body that was not announced, even if one comes.
#[test]
fn a_body_that_may_come_unseen_has_to_be_announced() {
    let mut world = world();
    let (id, _) = world.make("alice");
    let token = world.token("alice");
    let mut request = Request::rotate(&token, &id, &json!({ "grace_seconds": 0 }));
    request = request.without("content-length");
    request.body = None;
    world.ask(&request).refused(411, "length_required");
    // Neither length nor type: there is none.
    world.ask(&request.without("content-type")).made();
}

#[test]
fn a_request_with_more_headers_than_a_host_shows_is_refused() {
    let mut world = world();
    let mut request = Request::list(&world.token("alice"));
    while request.headers.len() < 100 {
        request = request.header("x-filler", "1");
    }
    world.ask(&request).expect(200);
    let told = world.ask(&request.header("x-filler", "1"));
    told.refused(400, "invalid_request");
}

#[test]
fn a_body_that_does_not_come_is_told_from_a_host_that_lends_no_turn() {
    let mut world = world();
    let request = Request::create(&world.token("alice"), &json!({ "name": "n" }));
    let mut client = super::client::Client::send(&mut world, &request);
    assert_eq!((client.waits_for(), client.timeout_ms()), ("body", 10_000));
    client.reply(&mut world, 204, b"");
    client.told().refused(400, "invalid_request");
    let mut client = super::client::Client::send(&mut world, &request);
    client.reply(&mut world, 503, b"");
    client.told().refused(503, "overloaded");
    let mut client = super::client::Client::send(&mut world, &request);
    client.fail(&mut world);
    client.told().refused(503, "overloaded");
    world.expect_nothing_held();
}

/// An easy mistake: the key then stands in every log on the way.
#[test]
fn a_key_in_a_path_is_refused_and_not_repeated() {
    let mut world = world();
    let token = world.token("alice");
    let (_, made) = world.make("alice");
    for text in [&made, &key(1), &made[..40]] {
        for request in [
            Request::show(&token, text),
            Request::revoke(&token, text),
            Request::rotate(&token, text, &json!({})),
            Request::new("GET", &format!("{KEYS}?after={text}")).bearer(&token),
        ] {
            let detail = world.ask(&request).refused(400, "invalid_request");
            assert!(detail.contains("rotate"), "{detail}");
        }
    }
}

#[test]
fn whole_numbers_may_be_written_as_any_json_number() {
    let mut world = world();
    let token = world.token("alice");
    for number in ["7", "7.0", "7e0"] {
        let body = format!("{{\"name\":\"n\",\"expires_days\":{number}}}");
        let request = Request::new("POST", KEYS).bearer(&token);
        let request = request.with_body("application/json", body.as_bytes());
        world.ask(&request).made();
    }
    let body = b"{\"name\":\"n\",\"expires_days\":1e400}";
    let request = Request::new("POST", KEYS).bearer(&token);
    let told = world.ask(&request.with_body("application/json", body));
    told.refused(400, "invalid_request");
}

#[test]
fn a_query_that_is_not_taken_is_refused() {
    let mut world = world();
    let token = world.token("alice");
    for (path, query) in [
        (KEYS, "limit=0"),
        (KEYS, "limit=101"),
        (KEYS, "limit=+5"),
        (KEYS, "limit="),
        (KEYS, "limit=5&limit=5"),
        (KEYS, "after=a/b"),
        (KEYS, "after="),
        (KEYS, "user_id="),
        (KEYS, "user_id=a/b"),
        (KEYS, "user_id=.."),
        (KEYS, "user_id=%ff"),
        (KEYS, "api_key=x"),
        ("/api/v1/api-keys/abc", "after=abc"),
        ("/api/v1/openapi.json", "user_id=alice"),
    ] {
        let told = world.ask(&Request::new("GET", &format!("{path}?{query}")).bearer(&token));
        told.refused(400, "invalid_request");
    }
    assert!(world.calls.is_empty());
}

/// Clients that send their bodies slowly cost the host, but take nobody's place.
#[test]
fn those_whose_body_is_on_its_way_take_nobodys_place() {
    let mut world = world();
    let request = Request::create(&world.token("alice"), &json!({ "name": "n" }));
    let slow: Vec<_> = (0..apikeys_core::exchange::PENDING_MAX)
        .map(|_| super::client::Client::send(&mut world, &request))
        .collect();
    assert!(slow.iter().all(|client| client.waits_for() == "body"));
    world.expect_nothing_held();
    world.ask(&request).made();
}
