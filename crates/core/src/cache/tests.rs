//! The caches' own tests.

use std::sync::Arc;

use super::*;
use crate::store::slots::tests::Shared;
use crate::test_support::{config, signing_key};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const DIGEST: KeyDigest = [3; 32];

fn cache() -> Cache {
    Cache::new(&config(), &signing_key())
}

fn token() -> CachedToken {
    CachedToken {
        authorization: "Bearer a.b.c".into(),
        owner_id: "user-1".into(),
        terms: Arc::default(),
    }
}

fn refusal(refused: Refused) -> CachedRefusal {
    CachedRefusal {
        refused,
        owner_id: None,
    }
}

fn level(found: &Found) -> Option<Level> {
    match found {
        Found::Token(token, level, _) => {
            assert_eq!(
                (&*token.authorization, &*token.owner_id),
                ("Bearer a.b.c", "user-1")
            );
            Some(*level)
        }
        _ => None,
    }
}

#[test]
fn a_token_is_found_in_the_worker_and_by_another_worker_of_the_node() {
    let (mut one, mut other, mut shared) = (cache(), cache(), Shared::default());
    one.remember_token(&DIGEST, token(), NOW.plus_ms(60_000), NOW, NOW, &mut shared);
    assert_eq!(level(&one.find(&DIGEST, NOW, &mut shared)), Some(Level::L1));
    assert_eq!(
        level(&other.find(&DIGEST, NOW, &mut shared)),
        Some(Level::L2)
    );
    assert_eq!(
        level(&other.find(&DIGEST, NOW, &mut shared)),
        Some(Level::L1)
    );
    assert_eq!(level(&one.find(&[4; 32], NOW, &mut shared)), None);
}

#[test]
fn no_token_is_used_past_its_end_the_ttl_or_before_it_was_stored() {
    let (mut one, mut shared) = (cache(), Shared::default());
    one.remember_token(&DIGEST, token(), NOW.plus_ms(60_000), NOW, NOW, &mut shared);
    for (at, expected) in [
        (NOW.plus_ms(59_999), Some(Level::L1)),
        (NOW.plus_ms(60_000), None),
        (NOW.minus_ms(500), Some(Level::L1)),
        (NOW.minus_ms(5000), None),
    ] {
        assert_eq!(
            level(&one.find(&DIGEST, at, &mut shared)),
            expected,
            "{at:?}"
        );
        let in_shared = level(&cache().find(&DIGEST, at, &mut shared)).is_some();
        assert_eq!(in_shared, expected.is_some(), "{at:?}");
    }
    one.remember_token(
        &DIGEST,
        token(),
        NOW.plus_ms(900_000),
        NOW,
        NOW,
        &mut shared,
    );
    assert!(level(&one.find(&DIGEST, NOW.plus_ms(299_999), &mut shared)).is_some());
    assert!(level(&one.find(&DIGEST, NOW.plus_ms(300_000), &mut shared)).is_none());
    one.remember_token(&[5; 32], token(), NOW, NOW, NOW, &mut shared);
    assert!(level(&one.find(&[5; 32], NOW, &mut shared)).is_none());
}

#[test]
fn what_another_configuration_stored_is_a_miss() {
    let (mut one, mut shared) = (cache(), Shared::default());
    one.remember_token(&DIGEST, token(), NOW.plus_ms(60_000), NOW, NOW, &mut shared);
    let mut other = config();
    other.fingerprint = [9; 32];
    let mut other = Cache::new(&other, &signing_key());
    assert_eq!(level(&other.find(&DIGEST, NOW, &mut shared)), None);
}

#[test]
fn refusals_are_remembered_apart_and_end_a_token() {
    let (mut one, mut shared) = (cache(), Shared::default());
    one.remember_token(&DIGEST, token(), NOW.plus_ms(60_000), NOW, NOW, &mut shared);
    for at in 0..20_000_u32 {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&at.to_be_bytes());
        one.remember_refused(&digest, refusal(Refused::Unknown), NOW, NOW, &mut shared);
    }
    assert_eq!(level(&one.find(&DIGEST, NOW, &mut shared)), Some(Level::L1));
    assert_eq!((one.refused.len(), one.tokens.len()), (10_000, 1));
    one.remember_refused(&DIGEST, refusal(Refused::Invalid), NOW, NOW, &mut shared);
    let found = one.find(&DIGEST, NOW, &mut shared);
    assert!(
        matches!(found, Found::Refused(Refused::Invalid)),
        "{found:?}"
    );
    let later = one.find(&DIGEST, NOW.plus_ms(30_000), &mut Shared::default());
    assert!(matches!(later, Found::Nothing), "{later:?}");
}

#[test]
fn a_verification_counts_for_that_very_hash_on_the_whole_node() {
    let (mut one, mut shared) = (cache(), Shared::default());
    assert!(!one.is_verified(&DIGEST, "$2b$a", &mut shared));
    one.remember_verified(&DIGEST, "$2b$a", NOW.plus_ms(1), NOW, &mut shared);
    assert!(one.is_verified(&DIGEST, "$2b$a", &mut shared));
    assert!(cache().is_verified(&DIGEST, "$2b$a", &mut shared));
    assert!(!cache().is_verified(&DIGEST, "$2b$b", &mut shared));
    assert!(!cache().is_verified(&[4; 32], "$2b$a", &mut shared));
}

#[test]
fn a_verification_of_one_key_is_none_of_another() {
    let (mut one, mut shared) = (cache(), Shared::default());
    let proof = one.proof(&DIGEST, "$2b$a");
    let moved = Entry {
        cached_at: NOW,
        ends_at: NOW.plus_ms(1),
        payload: &proof[..],
    };
    let (slots, sealer) = (one.shared_verified.clone(), one.sealer.clone());
    slots.store(&mut shared, &sealer, &[4; 32], &moved, NOW);
    assert!(!one.is_verified(&[4; 32], "$2b$a", &mut shared));
}

#[test]
fn the_readers_ttl_counts_whatever_the_writers_was() {
    let (mut one, mut shared) = (cache(), Shared::default());
    one.remember_token(
        &DIGEST,
        token(),
        NOW.plus_ms(300_000),
        NOW,
        NOW,
        &mut shared,
    );
    let mut config = config();
    config.cache_ttl_ms = 10_000;
    for (ms, level_then) in [(10_000, None), (9_999, Some(Level::L2))] {
        let mut reader = Cache::new(&config, &signing_key());
        let found = reader.find(&DIGEST, NOW.plus_ms(ms), &mut shared);
        assert_eq!(level(&found), level_then, "{ms}");
    }
}

#[test]
fn a_token_ends_the_refusal_before_it() {
    let (mut one, none) = (cache(), Shared::default);
    one.remember_refused(&DIGEST, refusal(Refused::Invalid), NOW, NOW, &mut none());
    one.remember_token(&DIGEST, token(), NOW.plus_ms(9), NOW, NOW, &mut none());
    let later = one.find(&DIGEST, NOW.plus_ms(9), &mut none());
    assert!(matches!(later, Found::Nothing), "{later:?}");
}
