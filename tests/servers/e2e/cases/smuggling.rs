//! Requests that two readers could understand in two ways: a credential that the
//! gateway ignores must not count for the service, and a key must not get past the
//! gateway in disguise.

use crate::client::Request;
use crate::owner::Key;
use crate::world::{Case, Host, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("smuggling::names_and_schemes_in_any_case", any_case),
        Case::new("smuggling::a_folded_header_hides_no_key", folded),
        Case::new("smuggling::a_space_about_a_headers_name", spaced_names),
        Case::new(
            "smuggling::a_name_with_underscores_is_another_name",
            underscores,
        ),
        Case::new("smuggling::a_key_as_a_headers_name", key_as_name),
        Case::new("smuggling::a_key_among_the_elements_of_a_list", lists),
        Case::new(
            "smuggling::a_connection_that_names_the_credential",
            nominated,
        ),
        Case::new(
            "smuggling::a_key_in_a_header_that_gateways_make_anew",
            made_anew,
        ),
        Case::new("smuggling::a_body_of_two_lengths_is_refused", two_lengths),
        Case::new("smuggling::a_key_in_other_letters_is_no_key", other_letters),
        Case::new("smuggling::a_key_in_percent_signs_is_no_key", percent),
        Case::new(
            "smuggling::an_id_of_the_request_that_would_forge_a_line",
            forged_id,
        )
        .needs(Need::Log),
    ]
}

/// The request is refused, or served as without the trick: the service sees a token of
/// the key's owner, and the key nowhere.
#[track_caller]
fn harmless(world: &World, request: &Request) {
    let answer = world.gateway.send(request);
    if answer.status != 200 {
        answer.refused_cleanly();
        return;
    }
    let orders = answer.orders();
    assert_eq!(orders.username, "alice", "{}", answer.describe());
    let key = world.api_key.to_lowercase();
    for (name, value) in &orders.headers {
        let line = format!("{name}: {value}").to_lowercase();
        assert!(!line.contains(&key), "the key is in {name}");
    }
}

/// The request is refused: no part of it may count as a credential.
#[track_caller]
fn refused(world: &World, request: &Request) {
    let answer = world.gateway.send(request);
    answer.refused_cleanly();
    world.gateway.orders(&world.api_key).orders();
}

fn any_case(world: &World) {
    let key = &world.api_key;
    for (name, value) in [
        ("AUTHORIZATION", format!("APIKEY {key}")),
        ("aUtHoRiZaTiOn", format!("aPiKeY {key}")),
        ("authorization", format!("bEARER {key}")),
        ("x-aPi-KEY", key.clone()),
    ] {
        let orders = world.gateway.send(&Request::orders().header(name, value));
        assert_eq!(orders.orders().username, "alice", "{name}");
        // Names that differ only in case are one header, so this one is sent twice.
        let twice = Request::orders()
            .header(name, key)
            .header(&name.to_ascii_lowercase(), key);
        refused(world, &twice);
    }
}

/// Headers continued on the next line (RFC 9112, 5.2): obsolete, and read in many ways.
fn folded(world: &World) {
    let key = &world.api_key;
    for value in [
        format!("ApiKey\r\n {key}"),
        format!("ApiKey\r\n\t{key}"),
        format!("ApiKey {}\r\n {}", &key[..30], &key[30..]),
        format!("Bearer a.b.c\r\n ApiKey {key}"),
        format!("Basic eDp5\r\n\tX-API-Key: {key}"),
    ] {
        harmless(world, &Request::orders().header("Authorization", value));
    }
    let other = Request::orders()
        .api_key(key)
        .header("X-Other", format!("a\r\n {key}"));
    harmless(world, &other);
}

fn spaced_names(world: &World) {
    let key = &world.api_key;
    for name in ["Authorization ", "Authorization\t", " Authorization"] {
        harmless(
            world,
            &Request::orders().header(name, format!("ApiKey {key}")),
        );
        let beside = Request::orders()
            .header(name, format!("ApiKey {}", Key::random().text))
            .api_key(key);
        harmless(world, &beside);
    }
}

/// To a service behind CGI or WSGI `X_API_Key` and `X-API-Key` are one variable.
fn underscores(world: &World) {
    let key = &world.api_key;
    for name in ["X_API_Key", "X-API_KEY", "HTTP_X_API_KEY", "Authorization_"] {
        refused(world, &Request::orders().header(name, key));
        let other = Key::random().text;
        harmless(world, &Request::orders().api_key(key).header(name, other));
    }
}

fn key_as_name(world: &World) {
    let key = &world.api_key;
    harmless(world, &Request::orders().api_key(key).header(key, "1"));
    refused(world, &Request::orders().header(key, "1"));
    refused(world, &Request::orders().header(key, key));
}

fn lists(world: &World) {
    let (key, other) = (&world.api_key, Key::random().text);
    for value in [
        format!("{key},"),
        format!("{other}, {key}"),
        format!("ApiKey {key}, ApiKey {key}"),
        format!("Bearer a.b.c, ApiKey {key}"),
        format!("ApiKey {other}, Bearer a.b.c, ApiKey {key}"),
    ] {
        for name in ["Authorization", "X-API-Key"] {
            refused(world, &Request::orders().header(name, &value));
        }
    }
    let many = (0..8).fold(Request::orders(), |request, _| {
        request.header("X-API-Key", key)
    });
    refused(world, &many);
}

/// A reader that obeys `Connection` removes the headers that it names (RFC 9110,
/// 7.6.1).
fn nominated(world: &World) {
    for named in [
        "close, Authorization",
        "keep-alive, X-API-Key, Authorization",
    ] {
        let request = Request::orders()
            .api_key(&world.api_key)
            .header("Connection", named);
        harmless(world, &request);
    }
}

/// Kong makes these headers before the filter runs, and the filter cannot change them
/// any more.
fn made_anew(world: &World) {
    let key = &world.api_key;
    for name in [
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Path",
        "X-Forwarded-Method",
        "Expect",
        "Via",
        "Forwarded",
        "TE",
        "Upgrade",
        "Connection",
    ] {
        for value in [key.clone(), format!("a, for={key}")] {
            harmless(world, &Request::orders().api_key(key).header(name, value));
        }
    }
    for upgrades in [["websocket", key.as_str()], [key.as_str(), "websocket"]] {
        let request = Request::orders().api_key(key);
        let request = request.header("Upgrade", upgrades[0]);
        harmless(world, &request.header("Upgrade", upgrades[1]));
    }
}

fn two_lengths(world: &World) {
    let hidden = format!(
        "0\r\n\r\nGET /orders HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\n\r\n",
        world.api_key
    );
    for (name, value) in [
        ("Transfer-Encoding", "chunked"),
        ("Transfer-Encoding", "xchunked"),
        ("Content-Length", "3"),
    ] {
        let request = Request::orders()
            .api_key(&world.api_key)
            .post(hidden.clone().into_bytes())
            .header(name, value);
        // RFC 9112, 6.3, allows both: HAProxy and Caddy drop the length.
        let reads_chunks = matches!(world.host, Host::Haproxy | Host::Caddy);
        match value == "chunked" && reads_chunks {
            true => harmless(world, &request),
            false => refused(world, &request),
        }
    }
}

/// Texts that a normalising service could read as the key.
fn other_letters(world: &World) {
    let key = &world.api_key;
    let wide = |c: char| char::from_u32(u32::from(c) + 0xfee0).unwrap();
    for text in [
        key.chars().map(wide).collect(),
        key.replacen('s', "\u{455}", 1),
        key.replacen('k', "\u{212a}", 1),
        key.replacen('_', "\u{ff3f}", 1),
        key.replacen("sk", "sk\u{200b}", 1),
        format!("\u{feff}{key}"),
        format!("{key}\u{a0}"),
    ] {
        refused(world, &Request::orders().header("X-API-Key", &text));
        refused(world, &Request::orders().api_key(&text));
    }
    // An "s" of two bytes, which no reader of UTF-8 may accept.
    let overlong = [b"\xc1\xb3", &key.as_bytes()[1..]].concat();
    refused(world, &Request::orders().header("X-API-Key", overlong));
}

fn percent(world: &World) {
    let key = &world.api_key;
    let all: String = key.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for text in [
        key.replace('_', "%5f"),
        key.replacen('s', "%73", 1),
        key.replace('_', "%255f"),
        key.replace('_', "&#95;"),
        key.replace('_', "\\u005f"),
        format!("{key}%00"),
        format!("{key}%0d%0aX-Injected:1"),
        all,
    ] {
        refused(world, &Request::orders().header("X-API-Key", &text));
        refused(world, &Request::orders().api_key(&text));
    }
}

fn forged_id(world: &World) {
    for line in ["x rejected: code=forged", "forged\"}", "forged'"] {
        let request = Request::orders().header("X-Request-Id", line);
        let answer = world.gateway.send(&request);
        let request_id = answer.problem(401, "missing_credentials");
        assert!(!request_id.contains("forged"), "{}", answer.describe());
        world.expect_logged(&request_id, r#""reason":"no credentials""#);
    }
    let escape = Request::orders().header("X-Request-Id", "x\u{1b}[2Jforged");
    refused(world, &escape);
    let log = world.log().text();
    assert!(!log.contains("forged"), "a line of a client's making");
}
