//! Changes against a made-up Keycloak with one owner. Its search may not find the owner, as
//! with a user storage without import.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use apikeys_core::clock::UnixMillis;
use apikeys_core::manage::owner_keys::NewKey;
use serde_json::{Value, json};

use super::*;
use crate::keycloak_admin::Credentials;
use crate::test_server::TestServer;

const HASH: &str = "$sha256$zo75w-Di9hNE34M0jJKx5QRdG50_DeOqx1uA1mXI3Fk";
const ID: &str = "abc123def456";
const OWNER: &str = "f:8f2a39f0-d2c5-4654-8727-b5119384708d:alice";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Search {
    Finds,
    FindsNobody,
    /// Another writer ends all keys just before it.
    ComesTooLate,
    Fails,
}

/// The owner as Keycloak keeps it: its representation and its links.
type Kept = Arc<Mutex<(Value, BTreeMap<String, Value>)>>;

fn keycloak(search: Search) -> (TestServer, Kept) {
    let user = json!({"id": OWNER, "username": "alice", "enabled": true, "attributes": {}});
    let kept: Kept = Arc::new(Mutex::new((user, BTreeMap::new())));
    let shared = Arc::clone(&kept);
    let server = TestServer::start_with(move |request, body| {
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let (user, links) = &mut *shared.lock().unwrap();
        let link = path
            .split_once("/federated-identity/")
            .map(|(_, alias)| alias);
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        match (method, link) {
            _ if path.ends_with("/token") => (
                200,
                json!({"access_token": "t", "expires_in": 60}).to_string(),
            ),
            ("POST", Some(alias)) => {
                links.insert(alias.to_owned(), body);
                (204, String::new())
            }
            ("DELETE", Some(alias)) => {
                links.remove(alias);
                (204, String::new())
            }
            ("GET", _) if path.ends_with("/federated-identity") => {
                (200, json!(links.values().collect::<Vec<_>>()).to_string())
            }
            ("GET", _) if path.contains("q=") && search == Search::Fails => (500, String::new()),
            ("GET", _) if path.contains("q=") && search == Search::Finds => {
                (200, json!([user]).to_string())
            }
            ("GET", _) if path.contains("q=") && search == Search::ComesTooLate => {
                user["attributes"] = json!({});
                (200, "[]".to_owned())
            }
            ("GET", _) if path.contains('?') => (200, "[]".to_owned()),
            ("GET", _) => (200, user.to_string()),
            ("PUT", _) => {
                *user = body;
                (204, String::new())
            }
            _ => panic!("{request}"),
        }
    });
    (server, kept)
}

fn sign_in(server: &TestServer) -> KeycloakAdmin {
    let credentials = Credentials {
        realm: "master".into(),
        client_id: "admin-cli".into(),
        username: "admin".into(),
        password: "p".to_owned().into(),
    };
    KeycloakAdmin::sign_in(&server.url(), "demo", credentials, None).unwrap()
}

fn make_a_key(search: Search) -> (Result<Changed>, Kept) {
    let (server, kept) = keycloak(search);
    let admin = sign_in(&server);
    let names = Names {
        client_id: "api-key-gateway".into(),
        management_client_id: "api-key-manager".into(),
        identity_provider: "api-keys".into(),
    };
    let edit = Edit::Create {
        key: NewKey {
            id: ID.into(),
            hash_text: HASH.into(),
            name: "n".into(),
            created: UnixMillis(0),
            expires_at: UnixMillis::parse_rfc3339("2100-01-01T00:00:00Z").unwrap(),
            scopes: None,
            settings: Vec::new(),
        },
        keys_max: 5,
    };
    (make(&admin, &names, OWNER, edit), kept)
}

/// The owner's keys, and the providers that it is linked to.
fn left(kept: &Kept) -> (usize, Vec<String>) {
    let (user, links) = &*kept.lock().unwrap();
    let keys = user["attributes"]["apiKeys"].as_array();
    (keys.map_or(0, Vec::len), links.keys().cloned().collect())
}

#[test]
fn a_new_key_that_the_gateways_search_finds_is_made() {
    let (made, kept) = make_a_key(Search::Finds);
    assert_eq!(made.unwrap().warnings, [] as [String; 0]);
    assert_eq!(left(&kept), (1, vec!["api-keys".to_owned()]));
}

#[test]
fn a_new_key_that_no_gateway_would_find_is_taken_away_again() {
    let (made, kept) = make_a_key(Search::FindsNobody);
    let error = made.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Unfindable::Undone)));
    assert!(
        error
            .to_string()
            .contains("Keycloak's search does not find")
    );
    assert_eq!(left(&kept), (0, vec![]));
}

#[test]
fn a_new_key_that_could_not_be_looked_up_is_told_with_a_warning() {
    let (made, kept) = make_a_key(Search::Fails);
    let [warning] = &made.unwrap().warnings[..] else {
        panic!("no warning")
    };
    assert!(warning.contains("could not be looked up"), "{warning}");
    assert_eq!(left(&kept).0, 1);
}

#[test]
fn a_new_key_that_another_writer_ended_before_its_look_up_was_made() {
    let (made, kept) = make_a_key(Search::ComesTooLate);
    assert_eq!(made.unwrap().edited.added.as_deref(), Some(ID));
    assert_eq!(left(&kept), (0, vec![]));
}

#[test]
fn an_old_key_that_no_gateway_finds_is_refused_unless_another_writer_just_ended_it() {
    for (search, is_refused) in [
        (Search::Finds, false),
        (Search::FindsNobody, true),
        (Search::ComesTooLate, false),
    ] {
        let (made, before) = make_a_key(Search::Finds);
        made.unwrap();
        let (server, kept) = keycloak(search);
        kept.lock().unwrap().0 = before.lock().unwrap().0.clone();
        let admin = sign_in(&server);
        let owner = owner::read(&admin, OWNER).unwrap();
        let checked = check_found(&admin, &owner, ID, UnixMillis(0));
        assert_eq!(checked.is_err(), is_refused, "{search:?}: {checked:?}");
    }
}
