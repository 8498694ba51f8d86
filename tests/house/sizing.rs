//! The figures of `docs/sizing.md`: each is computed here, printed, and held against the page.

use apikeys_core::api_key::format::KeyFormat;
use apikeys_core::api_key::hash::{
    BCRYPT_COST_MAX, BCRYPT_COST_MIN, ROUNDS_PER_SLICE, StoredHash, Verification, hash_bcrypt,
};
use apikeys_core::api_key::terms::{RateLimit, Terms};
use apikeys_core::cache::{Cache, CachedRefusal, CachedToken};
use apikeys_core::clock::UnixMillis;
use apikeys_core::config::Config;
use apikeys_core::exchange::PENDING_MAX;
use apikeys_core::exchange::gate::QUEUE_MAX;
use apikeys_core::exchange::rate_limit::RateLimits;
use apikeys_core::rejection::Refused;
use apikeys_core::signing_key::SigningKey;
use p256::pkcs8::EncodePrivateKey;
use serde_json::json;
use test_kit::markdown;
use test_kit::store::Shared;

const PAGE: &str = include_str!("../../docs/sizing.md");
const KEY: &[u8] = b"sk_live_a_key_of_no_consequence";
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// The slices of a verification, counted as the gate runs them.
fn slices(cost: u32) -> u64 {
    // A hash of another cost, made by its text: the hashed key does not matter here.
    let hash = hash_bcrypt(KEY, BCRYPT_COST_MIN, [7; 16]).unwrap();
    let hash = hash.replace("$04$", &format!("${cost:02}$"));
    let stored = StoredHash::parse(&hash).unwrap();
    assert_eq!(stored.rounds(), 1 << cost);
    let Verification::Computing(mut job) = stored.verify(KEY) else {
        panic!("no bcrypt");
    };
    let mut slices = 1;
    while job.run(ROUNDS_PER_SLICE).is_none() {
        slices += 1;
    }
    slices
}

#[test]
fn a_bcrypt_takes_the_rounds_and_slices_that_the_page_says() {
    let mut costs = Vec::new();
    for row in markdown::table(PAGE, "| Cost | Rounds |") {
        let cost: u32 = row[0].parse().unwrap();
        let computed = [
            cost.to_string(),
            (1 << cost).to_string(),
            slices(cost).to_string(),
        ];
        println!("| {} |", computed.join(" | "));
        assert_eq!(row, computed);
        costs.push(cost);
    }
    assert_eq!(costs.first(), Some(&BCRYPT_COST_MIN));
    assert_eq!(costs.last(), Some(&BCRYPT_COST_MAX));
    let rounds = format!("A slice has {ROUNDS_PER_SLICE} rounds");
    assert!(PAGE.contains(&rounds), "{rounds}");
}

/// Keycloak's ids are UUIDs.
const OWNER: &str = "0b7a6e0e-93a5-4b8f-9f6e-2d3c4b5a6978";

/// The bytes that each kind of entry adds in shared data, beside the token itself.
fn entry_bytes() -> [(&'static str, usize); 4] {
    let key = p256::SecretKey::from_slice(&[7; 32]).unwrap();
    let pem = key.to_pkcs8_pem(p256::pkcs8::LineEnding::LF).unwrap();
    let signing_key = SigningKey::parse(&pem).unwrap();
    let config = json!({
        "keycloak_url": "https://login.example.com", "realm": "shop",
        "keycloak_upstream": "keycloak", "yield_upstream": "yield",
        "signing_key_property": "env.APIKEY_SIGNING_KEY",
    });
    let config = Config::from_json(config.to_string().as_bytes()).unwrap();
    let mut cache = Cache::new(&config, &signing_key);
    let mut limits = RateLimits::new(&config, &signing_key);
    let format = KeyFormat::new("sk_live_").unwrap();
    let digest = cache.digest(&format.generate(|bytes| bytes.fill(7)));
    let mut only = |store: &mut dyn FnMut(&mut Cache, &mut Shared)| {
        let mut shared = Shared::default();
        store(&mut cache, &mut shared);
        let sizes: Vec<usize> = shared.0.values().map(Vec::len).collect();
        assert_eq!(sizes.len(), 1, "one entry");
        sizes[0]
    };
    let later = NOW.plus_ms(60_000);
    let token = "e".repeat(1500);
    let with_token = only(&mut |cache, shared| {
        let token = CachedToken {
            authorization: format!("Bearer {token}").into(),
            owner_id: OWNER.into(),
            terms: Terms {
                name: Some("Nightly report".into()),
                ..Terms::default()
            }
            .into(),
        };
        cache.remember_token(&digest, token, later, NOW, NOW, shared);
    });
    let verified = only(&mut |cache, shared| {
        cache.remember_verified(&digest, "$2b$10$", later, NOW, shared);
    });
    let refused = only(&mut |cache, shared| {
        let refusal = CachedRefusal {
            refused: Refused::Invalid,
            owner_id: Some(OWNER.into()),
        };
        cache.remember_refused(&digest, refusal, NOW, NOW, shared);
    });
    let bucket = only(&mut |_, shared| {
        let limit = RateLimit::parse("100/60").unwrap();
        let taken = limits.take(&digest, "abc123def456", limit, NOW, shared);
        taken.unwrap();
    });
    [
        ("token", with_token - token.len()),
        ("verification", verified),
        ("refusal", refused),
        ("bucket", bucket),
    ]
}

#[test]
fn an_entry_takes_the_bytes_that_the_page_says() {
    let rows = markdown::table(PAGE, "| Entry | Bytes |");
    for ((kind, bytes), row) in entry_bytes().into_iter().zip(rows) {
        println!("| {kind} | {bytes} |");
        assert!(row[0].starts_with(kind), "{row:?}");
        assert_eq!(row[1], bytes.to_string(), "{kind}");
    }
}

#[test]
fn calls_follow_from_keys_nodes_and_time_as_the_page_says() {
    for row in markdown::table(PAGE, "| Keys in use | Nodes |") {
        let number = |at: usize| row[at].parse::<f64>().unwrap();
        let calls = 2.0 * number(0) * number(1) / number(2);
        println!("| {} | {calls:.1} |", row[..3].join(" | "));
        assert_eq!(row[3], format!("{calls:.1}"));
    }
}

#[test]
fn what_is_bounded_is_bounded_as_the_page_says() {
    let queue = format!("up to {QUEUE_MAX} wait");
    assert!(PAGE.contains(&queue), "{queue}");
    let bounds = format!("| {PENDING_MAX}, {QUEUE_MAX}, 4096 |");
    assert!(PAGE.contains(&bounds), "{bounds}");
}
