//! Records of every form that Keycloak may hold, and their effect on a token.

use serde_json::json;

use crate::owner::{Key, Record, unique_name};
use crate::wait::now_seconds;
use crate::world::{Case, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "records::a_seed_format_record_with_bcrypt_cost_12",
            seed_format,
        ),
        Case::new("records::several_keys_of_one_owner", several),
        Case::new("records::a_token_ends_no_later_than_its_key", token_end),
        Case::new("records::the_scopes_of_a_key_are_asked_for", scopes),
        Case::new("records::an_unknown_scope_is_503", unknown_scope),
    ]
}

fn seed_format(world: &World) {
    let key = Key::random();
    let owner = world.owner_of(&[Record::bcrypt(&key, "2b", 12)]);
    let orders = world.gateway.orders(&key.text).orders();
    assert_eq!(orders.subject, owner.id);
}

fn several(world: &World) {
    let keys: Vec<Key> = (0..5).map(|_| Key::random()).collect();
    let records: Vec<Record> = keys.iter().map(Record::sha256).collect();
    let owner = world.owner_of(&records);
    for key in &keys {
        let orders = world.gateway.orders(&key.text).orders();
        assert_eq!(orders.subject, owner.id);
    }
    // If one of them goes, the others stay.
    owner.set_records(&records[1..]);
    world.gateway.orders(&keys[1].text).orders();
}

fn token_end(world: &World) {
    let ends_at = now_seconds() + 45;
    let key = Key::random();
    world.owner_of(&[Record::sha256(&key).expiring_at(ends_at)]);
    let claims = world.gateway.orders(&key.text).orders().claims;
    let token_ends_at = claims["exp"].as_u64().unwrap();
    assert!(
        token_ends_at <= ends_at && token_ends_at > now_seconds(),
        "the key ends at {ends_at}: {claims}"
    );
    // For a long-lived key, Keycloak decides the token's end.
    let (_, key) = world.owner();
    let claims = world.gateway.orders(&key.text).orders().claims;
    assert!(claims["exp"].as_u64().unwrap() > ends_at, "{claims}");
}

fn scopes(world: &World) {
    let admin = &world.keycloak;
    let scope = unique_name("scope");
    let representation = json!({
        "name": scope, "protocol": "openid-connect",
        "attributes": {"include.in.token.scope": "true"},
    });
    let created = admin.must("POST", "client-scopes", Some(&representation));
    let scope_id = created.created_id.expect("the id of the scope");
    let client = admin.client_id("api-key-gateway");
    let optional = format!("clients/{client}/optional-client-scopes/{scope_id}");
    admin.must("PUT", &optional, None);

    let (with, without) = (Key::random(), Key::random());
    world.owner_of(&[
        Record::sha256(&with).scopes(&scope),
        Record::sha256(&without),
    ]);
    let granted = |key: &Key| {
        let claims = world.gateway.orders(&key.text).orders().claims;
        let granted = claims["scope"].as_str().unwrap_or_default().to_owned();
        granted.split(' ').any(|granted| granted == scope)
    };
    let seen = (granted(&with), granted(&without));
    admin.call("DELETE", &format!("client-scopes/{scope_id}"), None);
    assert_eq!(seen, (true, false));
}

fn unknown_scope(world: &World) {
    let key = Key::random();
    world.owner_of(&[Record::sha256(&key).scopes("no-such-scope")]);
    let request_id = world.gateway.orders(&key.text).unavailable();
    world.expect_logged(&request_id, "Invalid scopes");
}
