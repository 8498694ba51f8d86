//! The log of revocations over shared data that lies: under any bytes in its place, a worker
//! that knew of a revocation goes on to know of it, and one that cannot read the log serves no
//! entry from before.
//!
//! The first byte says where the rest is put: in one copy, the other, or both.

use apikeys_core::clock::UnixMillis;
use apikeys_core::revocation::Revocations;
use apikeys_core::signing_key::SigningKey;

use super::store::Shared;

// Made for tests, used nowhere else.
const SIGNING_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg53C48x8+QE4ZxcdCcxlyCnLV+M8sg0pb\
    H91S4P2ZT2GhRANCAARztE3UlgHHa978qferI/VOamSBp0DyhC9PxPKuIP3RtmK1JtiNd9Q3OD/oPT3DjRszw97Lp6VQXMRn7iqhhhHE";

const START: UnixMillis = UnixMillis(1_800_000_000_000);

pub fn holds(data: &[u8]) {
    let Some((place, value)) = data.split_first() else {
        return;
    };
    let key = SigningKey::parse(SIGNING_KEY).unwrap();
    let worker = || Revocations::new("https://login.example.com/realms/demo", &key, true);
    let (mut one, mut other, mut shared) = (worker(), worker(), Shared::default());
    one.look(START, &mut shared);
    other.look(START, &mut shared);
    one.revoke_owner("alice", START.plus_ms(1000), &mut shared)
        .unwrap();
    other.look(START.plus_ms(1200), &mut shared);
    let mut names: Vec<String> = shared.0.keys().cloned().collect();
    names.sort();
    let spoiled = match place % 3 {
        2 => &names[..],
        at => &names[usize::from(at)..=usize::from(at)],
    };
    for name in spoiled {
        shared.0.insert(name.clone(), value.to_vec());
    }
    for at in 2..6 {
        other.look(START.plus_ms(1000 + 200 * at), &mut shared);
        assert!(other.kills("alice", START.plus_ms(1000)), "it was known");
    }
    let lost = spoiled.len() == 2;
    assert_eq!(
        other.kills("bob", START.plus_ms(1000)),
        lost,
        "everybody, if it is lost"
    );
    let mut third = worker();
    third.look(START.plus_ms(3000), &mut shared);
    assert!(third.kills("alice", START.plus_ms(1000)), "told to others");
}
