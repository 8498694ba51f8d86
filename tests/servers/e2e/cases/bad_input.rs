//! Bad input from clients: each is refused cleanly, and the log gives the reason without
//! repeating the input.

use crate::client::Request;
use crate::owner::Key;
use crate::world::{Case, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("bad_input::a_header_of_0_bytes", empty_header),
        Case::new("bad_input::a_header_of_64_kib", |world| {
            long_header(world, 64 * 1024)
        }),
        Case::new("bad_input::a_header_of_1_mib", |world| {
            long_header(world, 1024 * 1024)
        }),
        Case::new("bad_input::bytes_that_are_not_utf8", not_utf8),
        Case::new("bad_input::control_bytes", control_bytes),
        Case::new("bad_input::a_key_with_commas", commas),
        Case::new(
            "bad_input::a_key_that_would_break_out_of_a_query",
            injection,
        ),
        Case::new("bad_input::many_headers", many_headers),
    ]
}

/// Refused as a malformed key, with this reason in the log.
#[track_caller]
fn malformed(world: &World, request: &Request, reason: &str) {
    let request_id = world.gateway.send(request).invalid_api_key();
    world.expect_logged(&request_id, reason);
}

/// Refused by the filter as a malformed key, or by the gateway before the filter saw it.
#[track_caller]
fn refused(world: &World, request: &Request) {
    let answer = world.gateway.send(request);
    answer.refused_cleanly();
    if let Some(request_id) = answer.json()["request_id"].as_str() {
        world.expect_logged(request_id, r#""outcome":"refused","code":"#);
    }
    // The gateway still works.
    world.gateway.orders(&world.api_key).orders();
}

fn empty_header(world: &World) {
    for name in ["Authorization", "X-API-Key"] {
        let answer = world.gateway.send(&Request::orders().header(name, ""));
        answer.problem(401, "missing_credentials");
    }
}

fn long_header(world: &World, length: usize) {
    let long = "a".repeat(length);
    refused(world, &Request::orders().header("X-API-Key", &long));
    refused(world, &Request::orders().api_key(&long));
    refused(world, &Request::orders().header("Authorization", &long));
    refused(world, &Request::orders().bearer(&format!("sk_live_{long}")));
}

fn not_utf8(world: &World) {
    for bytes in [
        &b"\xff\xfe\xfd"[..],
        b"\xc3\x28",
        b"sk_live_\xf0\x9f\x94\x91",
    ] {
        refused(world, &Request::orders().header("X-API-Key", bytes));
        let value = [b"ApiKey ", bytes].concat();
        refused(world, &Request::orders().header("Authorization", value));
    }
    // In a header that the filter does not read they pass, or the gateway refuses them.
    let request = Request::orders()
        .api_key(&world.api_key)
        .header("X-Other", b"\xff\xfe");
    let answer = world.gateway.send(&request);
    assert!(matches!(answer.status, 200 | 400), "{}", answer.describe());
}

fn control_bytes(world: &World) {
    for byte in [0_u8, 1, 0x0b, 0x7f] {
        refused(
            world,
            &Request::orders().header("X-API-Key", [b'a', byte, b'b']),
        );
    }
}

fn commas(world: &World) {
    let key = Key::random().text;
    for text in [
        format!("{key},"),
        format!(",{key}"),
        format!("{key},{key}"),
        ",".to_owned(),
    ] {
        for request in [
            Request::orders().header("X-API-Key", &text),
            Request::orders().api_key(&text),
        ] {
            refused(world, &request);
        }
    }
}

fn injection(world: &World) {
    for id in ["a&max=1&q=*", "../../users", "%00%0d%0aX:y", "*", "'or''='"] {
        let text = format!("sk_live_{id}_{}", "a".repeat(38));
        malformed(world, &Request::orders().api_key(&text), "malformed key");
    }
}

fn many_headers(world: &World) {
    let with = |count: usize, request: Request| {
        (0..count).fold(request, |request, number| {
            request.header(&format!("X-Header-{number}"), "x".repeat(50))
        })
    };
    let with_key = || Request::orders().api_key(&world.api_key);
    let orders = world.gateway.send(&with(60, with_key())).orders();
    assert_eq!(orders.username, "alice");
    // More headers than every host shows a filter: a key could hide in the others.
    // Kong's host writes more than 100 into memory that is not its own.
    for count in [96, 98, 101, 300] {
        refused(world, &with(count, with_key()));
        refused(world, &with(count, Request::orders()));
    }
}
