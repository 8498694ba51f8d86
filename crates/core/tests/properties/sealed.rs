//! Entries of the shared cache: a sealed entry opens for its key and kind alone, and any other
//! bytes do not, down to one flipped bit.
//!
//! The first byte is the kind, the next two are times; the rest is the payload.

use apikeys_core::clock::UnixMillis;
use apikeys_core::store::sealed::{Entry, Kind, Sealer};

const KINDS: [Kind; 4] = [Kind::Token, Kind::Verified, Kind::Refused, Kind::Failures];
/// Every bit of an entry up to this long is flipped, and some of a longer one's.
const EXHAUSTIVE_BYTES: usize = 160;

pub fn holds(data: &[u8]) {
    let (sealer, digest) = (Sealer::new(&[1; 32]), [7; 32]);
    for kind in KINDS {
        assert!(
            sealer.open(kind, &digest, data).is_none(),
            "nobody sealed it"
        );
    }
    let [choice, cached, ends, payload @ ..] = data else {
        return;
    };
    let kind = KINDS[usize::from(*choice) % 3];
    let entry = Entry {
        cached_at: UnixMillis(u64::from(*cached) << (cached % 57)),
        ends_at: UnixMillis(u64::from(*ends) << (ends % 57)),
        payload,
    };
    let sealed = sealer.seal(kind, &digest, &entry);
    let opens = |sealed: &[u8]| sealer.open(kind, &digest, sealed).is_some();
    let fits = sealed.len() <= 32 * 1024;
    assert_eq!(opens(&sealed), fits);
    if !fits {
        return;
    }
    assert!(
        sealer.open(kind, &digest, &sealed) == Some(entry.clone()),
        "it reads back"
    );
    for other in KINDS.into_iter().filter(|other| *other != kind) {
        assert!(sealer.open(other, &digest, &sealed).is_none(), "{other:?}");
    }
    assert!(
        sealer.open(kind, &[8; 32], &sealed).is_none(),
        "another key"
    );
    assert!(
        Sealer::new(&[2; 32]).open(kind, &digest, &sealed).is_none(),
        "another gateway"
    );

    let bits = sealed.len() * 8;
    let step = if sealed.len() <= EXHAUSTIVE_BYTES {
        1
    } else {
        bits / 512 + 1
    };
    let first = if step == 1 {
        0
    } else {
        usize::from(*cached) % step
    };
    for bit in (first..bits).step_by(step) {
        let mut torn = sealed.clone();
        torn[bit / 8] ^= 1 << (bit % 8);
        assert!(!opens(&torn), "bit {bit}");
    }
    let other = sealer.seal(
        kind,
        &digest,
        &Entry {
            payload: &payload[payload.len() / 2..],
            ..entry
        },
    );
    let step = if step == 1 { 1 } else { sealed.len() / 64 + 1 };
    for cut in (0..sealed.len()).step_by(step) {
        assert!(
            !opens(&sealed[..cut]) && !opens(&sealed[cut + 1..]),
            "cut at {cut}"
        );
        let torn = [&sealed[..cut], other.get(cut..).unwrap_or_default()].concat();
        assert!(
            torn == sealed || torn == other || !opens(&torn),
            "torn at {cut}"
        );
    }
    assert!(!opens(&[sealed.as_slice(), &[*ends]].concat()), "longer");
}
