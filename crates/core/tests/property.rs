//! Properties of every reader of outside bytes: none panics, accepted values are in bounds, and
//! written values read back.
//!
//! Those of `properties` are run here over the seeds in `crates/core/fuzz/seeds`, over random bytes
//! and over seeds that were tampered with, in bounded time; `make fuzz` goes on from there.
//! `PROPTEST_CASES` gives the number of cases.

#![allow(unreachable_pub, reason = "modules of a test have no other user")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets what it does not expect fails"
)]

mod properties;

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use apikeys_core::api_key::format::{KEY_BYTES_MAX, KeyFormat, is_id};
use apikeys_core::api_key::hash::{
    BCRYPT_COST_MAX, StoredHash, Verification, hash_bcrypt, hash_sha256,
};
use apikeys_core::api_key::record::{Field, KeyRecord, index_value, key_value};
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::exchange::credentials::{Credentials, extract};
use apikeys_core::keycloak::token::read_token_answer;
use apikeys_core::keycloak::users::{Lookup, read_lookup_answer};
use apikeys_core::signing_key::SigningKey;
use apikeys_core::store::sealed::{Entry, Kind, Sealer};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

// Made for tests, used nowhere else.
static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let config = json!({
        "keycloak_url": "https://login.example.com", "realm": "demo",
        "keycloak_upstream": "keycloak", "yield_upstream": "yield",
        "signing_key_property": "env.UNUSED",
    });
    Config::from_json(config.to_string().as_bytes()).unwrap()
});

fn format(importing: bool) -> KeyFormat {
    let format = KeyFormat::new("sk_live_").unwrap();
    if importing {
        format.with_index_key(&[7; 32])
    } else {
        format
    }
}

fn generated(random: &[u8]) -> String {
    let mut bytes = random.iter().cycle();
    let mut count = 0_u8;
    let key = format(false).generate(|buffer| {
        for byte in buffer {
            count = count.wrapping_add(1);
            *byte = bytes.next().unwrap().wrapping_add(count);
        }
    });
    key.expose().to_owned()
}

/// JSON of any shape, with the names that Keycloak's answers have among its keys.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,20}".prop_map(Value::from),
        Just(Value::from("abc123def456")),
        Just(Value::from(index_value("abc123def456"))),
    ];
    let name = prop_oneof![
        Just("id".to_owned()),
        Just("enabled".to_owned()),
        Just("attributes".to_owned()),
        Just("apiKeys".to_owned()),
        Just("apiKeyIndex".to_owned()),
        Just("access_token".to_owned()),
        Just("expires_in".to_owned()),
        Just("token_type".to_owned()),
        Just("error".to_owned()),
        "[a-z]{0,5}",
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_generated_key_reads_back(random in vec(any::<u8>(), 64)) {
        let key = generated(&random);
        for importing in [false, true] {
            let parsed = format(importing).parse(key.as_bytes()).unwrap();
            prop_assert_eq!(parsed.expose(), key.as_str());
            prop_assert!(is_id(parsed.id()) && parsed.id().len() == 12);
        }
    }

    #[test]
    fn whatever_is_read_as_a_key_is_in_bounds(text in vec(any::<u8>(), 0..100), importing: bool) {
        if let Ok(key) = format(importing).parse(&text) {
            prop_assert_eq!(key.expose().as_bytes(), text.as_slice());
            prop_assert!(text.len() <= KEY_BYTES_MAX && is_id(key.id()));
            prop_assert!(importing || text.starts_with(b"sk_live_"));
        }
    }

    #[test]
    fn no_change_of_one_byte_passes_the_checksum(random in vec(any::<u8>(), 64), at in 8_usize..59, to: u8) {
        let key = generated(&random);
        let mut changed = key.clone().into_bytes();
        prop_assume!(changed[at] != to);
        changed[at] = to;
        prop_assert!(format(false).parse(&changed).is_err());
    }

    #[test]
    fn headers_of_any_bytes_give_a_key_a_pass_or_a_refusal(
        names in vec(prop_oneof![Just("authorization"), Just("Authorization"), Just("x-api-key"), Just("cookie"), Just(":path")], 0..5),
        schemes in vec(prop_oneof![Just(""), Just("ApiKey "), Just("bearer "), Just("Basic "), Just("ApiKey\t"), Just(",")], 5),
        tails in vec(vec(any::<u8>(), 0..40), 5),
        keys in vec(any::<bool>(), 5),
        random in vec(any::<u8>(), 64),
    ) {
        let key = generated(&random);
        let headers: Vec<(String, Vec<u8>)> = names.iter().enumerate().map(|(at, name)| {
            let tail = if keys[at] { key.as_bytes() } else { tails[at].as_slice() };
            ((*name).to_owned(), [schemes[at].as_bytes(), tail].concat())
        }).collect();
        if let Ok(Credentials::Key { key: found, remove }) = extract(&CONFIG, &headers) {
            prop_assert_eq!(found.expose(), key.as_str());
            for (name, value) in &headers {
                let holds = value.windows(key.len()).any(|window| window == key.as_bytes());
                let replaced = name.eq_ignore_ascii_case("authorization") || name == ":path";
                prop_assert!(!holds || replaced || remove.contains(name), "{} stays", name);
            }
        }
    }

    #[test]
    fn a_stored_hash_of_any_text_is_refused_or_in_bounds(text in "\\PC{0,80}") {
        if let Ok(hash) = StoredHash::parse(&text) {
            prop_assert!(hash.rounds() <= 1 << BCRYPT_COST_MAX);
        }
    }

    #[test]
    fn sealed_entries_open_for_their_key_alone_and_no_flipped_bit_passes(
        secret: [u8; 32], digest: [u8; 32], other: [u8; 32],
        cached_at: u64, ends_at: u64, payload in vec(any::<u8>(), 0..300), bit: prop::sample::Index,
    ) {
        let sealer = Sealer::new(&secret);
        let entry = Entry { cached_at: UnixMillis(cached_at), ends_at: UnixMillis(ends_at), payload: payload.as_slice() };
        let mut sealed = sealer.seal(Kind::Token, &digest, &entry);
        prop_assert_eq!(sealer.open(Kind::Token, &digest, &sealed), Some(entry));
        prop_assert_eq!(sealer.open(Kind::Token, &other, &sealed).is_some(), other == digest);
        let bit = bit.index(sealed.len() * 8);
        sealed[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(sealer.open(Kind::Token, &digest, &sealed).is_none());
    }

    #[test]
    fn bytes_that_nobody_sealed_do_not_open(digest: [u8; 32], bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(Sealer::new(&[1; 32]).open(Kind::Refused, &digest, &bytes).is_none());
    }

    #[test]
    fn answers_of_any_bytes_are_no_token_and_no_owner(status: u16, body in vec(any::<u8>(), 0..200)) {
        let now = UnixMillis(1_800_000_000_000);
        prop_assert!(read_token_answer(&CONFIG, status, &body, now).is_err());
        let looked_up = read_lookup_answer(status, &body, "abc123def456");
        prop_assert!(!matches!(looked_up, Ok(Lookup::Owner(_))));
    }

    #[test]
    fn answers_of_any_json_are_no_token_and_no_owner(body in any_json(), now: u64) {
        let body = body.to_string().into_bytes();
        prop_assert!(read_token_answer(&CONFIG, 200, &body, UnixMillis(now)).is_err());
        let looked_up = read_lookup_answer(200, &body, "abc123def456");
        prop_assert!(!matches!(looked_up, Ok(Lookup::Owner(_))));
    }

    #[test]
    fn a_record_reads_back_and_no_other_id_finds_it(
        id in "[0-9a-z]{12}", other in "[0-9a-zA-Z:]{11,13}", name in "\\PC{0,30}", ends_at in 0_u64..4_000_000_000,
    ) {
        let ends_at = UnixMillis::from_seconds(ends_at);
        let attributes = [
            ("apiKeys".to_owned(), vec![key_value(&id, &hash_sha256(b"key"))]),
            ("apiKeyIndex".to_owned(), vec![index_value(&id)]),
            (Field::Name.attribute(&id), vec![name]),
            (Field::ExpiresAt.attribute(&id), vec![ends_at.to_rfc3339()]),
        ].into();
        prop_assert_eq!(KeyRecord::find(&attributes, &id).unwrap().ends_at, ends_at);
        prop_assert_eq!(KeyRecord::find(&attributes, &other).is_ok(), other == id);
    }

    #[test]
    fn a_configuration_of_any_text_is_refused_without_a_panic(text in "\\PC{0,200}", value in any_json()) {
        prop_assert!(Config::from_json(text.as_bytes()).is_err());
        prop_assert!(Config::from_json(value.to_string().as_bytes()).is_err());
        prop_assert!(SigningKey::parse(&text).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn bcrypt_in_slices_agrees_with_the_crate(
        key in "[!-~]{1,72}", other in "[!-~]{1,72}", salt: [u8; 16], cost in 4_u32..7, rounds in 1_u32..50,
    ) {
        let stored = hash_bcrypt(key.as_bytes(), cost, salt).unwrap();
        for presented in [&key, &other] {
            let Verification::Computing(mut job) = StoredHash::parse(&stored).unwrap().verify(presented.as_bytes()) else {
                panic!("a bcrypt hash is computed in slices");
            };
            let decided = loop {
                if let Some(decided) = job.run(rounds) { break decided; }
            };
            prop_assert_eq!(decided, bcrypt::verify(presented, &stored).unwrap());
        }
    }
}

/// The seeds of a property, in the order of their names.
fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(name);
    let listed =
        fs::read_dir(&folder).unwrap_or_else(|fault| panic!("{}: {fault}", folder.display()));
    let mut seeds: Vec<_> = listed
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 3, "{name}: {} seeds", seeds.len());
    seeds
}

#[test]
fn every_seed_holds() {
    for (name, property) in properties::ALL {
        for (path, seed) in seeds(name) {
            eprintln!("{path}");
            property(&seed);
        }
    }
}

#[test]
fn every_property_has_its_fuzz_target() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let listed = fs::read_to_string(manifest.join("Cargo.toml")).unwrap();
    for (name, _) in properties::ALL {
        assert!(
            listed.contains(&format!("name = \"{name}\"")),
            "crates/core/fuzz/Cargo.toml lacks {name}"
        );
        let target = fs::read_to_string(manifest.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            target.contains(&format!("properties::{name}::holds(data)")),
            "{name}"
        );
    }
    assert_eq!(listed.matches("[[bin]]").count(), properties::ALL.len());
}

/// One change to a seed.
#[derive(Debug, Clone)]
enum Change {
    Flip(usize, u8),
    Insert(usize, Vec<u8>),
    Cut(usize, usize),
    Repeat(usize, usize),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), 0_u8..8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        (any::<usize>(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<usize>(), 1_usize..20).prop_map(|(at, length)| Change::Cut(at, length)),
        (any::<usize>(), 1_usize..20).prop_map(|(at, length)| Change::Repeat(at, length)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = bytes.len();
        let part =
            |at: usize, long: usize| (at % (length + 1), (at % (length + 1) + long).min(length));
        match change {
            Change::Flip(at, bit) if length > 0 => bytes[at % length] ^= bit,
            Change::Flip(..) => {}
            Change::Insert(at, new) => {
                let (at, _) = part(*at, 0);
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Cut(at, long) => {
                let (from, to) = part(*at, *long);
                bytes.drain(from..to);
            }
            Change::Repeat(at, long) => {
                let (from, to) = part(*at, *long);
                let again = bytes[from..to].to_vec();
                bytes.splice(to..to, again);
            }
        }
    }
    bytes
}

/// Random bytes, and a seed that was tampered with.
fn any_input(name: &str) -> impl Strategy<Value = Vec<u8>> {
    let seeds: Vec<Vec<u8>> = seeds(name).into_iter().map(|(_, seed)| seed).collect();
    let tampered = (prop::sample::select(seeds), vec(any_change(), 1..6));
    prop_oneof![
        1 => vec(any::<u8>(), 0..400),
        3 => tampered.prop_map(|(seed, changes)| changed(seed, &changes)),
    ]
}

macro_rules! properties_hold {
    ($($test:ident: $module:ident,)*) => { proptest! { $(
        #[test]
        fn $test(input in any_input(stringify!($module))) {
            properties::$module::holds(&input);
        }
    )* } };
}

properties_hold! {
    caches_above_a_store_that_lies_give_what_was_remembered_for_that_very_key: cache,
    a_configuration_is_in_bounds_or_refused_without_its_values: config,
    an_event_concerns_its_owner_or_everybody_but_for_what_is_harmless: events,
    an_exchange_led_through_anything_ends_and_forwards_its_owners_token_alone: exchange,
    a_key_comes_from_one_header_and_is_in_none_after: headers,
    a_key_is_read_where_a_strict_reader_reads_it: key_format,
    what_goes_out_reads_back_and_shows_no_secret: outgoing,
    a_record_is_found_where_a_strict_reader_finds_it: record,
    whatever_stands_in_the_logs_place_lifts_no_revocation: revocations,
    an_entry_opens_as_it_was_sealed_and_with_any_bit_flipped_not_at_all: sealed,
    a_token_is_believed_where_a_strict_reader_believes_it: tokens,
    an_owner_is_believed_where_a_strict_reader_believes_it: users,
}
