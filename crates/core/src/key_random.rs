//! Secret random bytes for new keys, without a host's random source.
//!
//! Kong's random source is nginx's own, which is not cryptographic (and can give two workers the
//! same bytes), so ids, secrets and salts of keys come from HKDF-SHA256 (RFC 5869), begun anew
//! for each key. The bytes are unguessable because of a secret derived from the signing key and
//! of a token fresh from Keycloak. They never repeat because of a counter and of all other
//! inputs.

use std::fmt;

use hkdf::{Hkdf, HkdfExtract};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::signing_key::SigningKey;

/// Tells these bytes from all bytes derived for another purpose.
const PURPOSE: &[u8] = b"apikey-jwt-exchange v1 new key";
/// Bytes of one expansion: far below the limit of 8,160 (RFC 5869, 2.3).
const EXPANSION_BYTES: usize = 64;

/// The source of randomness for a worker's new keys.
pub struct KeyRandom {
    secret: Zeroizing<[u8; 32]>,
    worker_seed: Vec<u8>,
    /// The number of sources given: a worker's sources all differ, even if its host and clock
    /// repeat themselves.
    given: u64,
}

impl KeyRandom {
    /// The source of a worker; the seed tells it from its siblings.
    #[must_use]
    pub fn new(signing_key: &SigningKey, worker_seed: &[u8]) -> Self {
        Self {
            secret: Zeroizing::new(signing_key.derive(&[b"new key"])),
            worker_seed: worker_seed.to_vec(),
            given: 0,
        }
    }

    /// The bytes for one key. `entropy` is input that nobody else has: the access token that was
    /// just fetched, whole, and the request's nonce.
    pub fn for_key(&mut self, entropy: &[&[u8]], now: UnixMillis) -> KeyBytes {
        self.given += 1;
        let (given, now) = (self.given.to_be_bytes(), now.0.to_be_bytes());
        let own: [&[u8]; 3] = [&self.worker_seed, &given, &now];
        let mut extract = HkdfExtract::<Sha256>::new(Some(self.secret.as_slice()));
        for part in own.iter().chain(entropy) {
            // The length goes in first, so that no two lists of parts make the same text.
            extract.input_ikm(&(part.len() as u64).to_be_bytes());
            extract.input_ikm(part);
        }
        let (_, expand) = extract.finalize();
        KeyBytes {
            expand,
            expansions: 0,
        }
    }
}

impl fmt::Debug for KeyRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRandom")
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

/// The random bytes of one key: its id, its secret, its salt.
///
/// It lives for one call. So unlike a generator of NIST SP 800-90A it need not hide its earlier
/// bytes from an attacker who reads its state later.
pub struct KeyBytes {
    expand: Hkdf<Sha256>,
    expansions: u64,
}

impl KeyBytes {
    /// Fills the buffer with the next bytes. Each expansion has a number, so none repeats.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for block in bytes.chunks_mut(EXPANSION_BYTES) {
            self.expansions += 1;
            let info: [&[u8]; 2] = [PURPOSE, &self.expansions.to_be_bytes()];
            // Fails only for a longer block.
            let _ = self.expand.expand_multi_info(&info, block);
        }
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBytes(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::api_key::format::KeyFormat;
    use crate::test_support::signing_key;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
    /// The output of a host with a constant random source and constant request ids.
    const CONSTANT: &[u8] = &[7; 16];

    #[test]
    fn the_bytes_are_those_of_hkdf_over_all_inputs() {
        // Computed apart, with Python's hmac, for a secret of zeros.
        let mut random = KeyRandom::new(&signing_key(), b"seed");
        random.secret = Zeroizing::new([0; 32]);
        let mut bytes = [0; 80];
        random.for_key(&[b"token", b"nonce"], NOW).fill(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "39e2d829bee3c81488c6c6d388812b2a821647f7ab39e4258d4205151aa926f97870be62b2655509\
             e34c391354758c578f761bdc94d36028122da4bdc7d8b8baac26328f677fc7c25229b87b5b01c218"
        );
    }

    #[test]
    fn every_buffer_is_filled_whole_and_no_block_repeats() {
        let drawn = |lengths: &[usize]| {
            let mut bytes_of_key =
                KeyRandom::new(&signing_key(), b"seed").for_key(&[b"token"], NOW);
            let mut blocks = Vec::new();
            for &length in lengths {
                let mut bytes = vec![0; length];
                bytes_of_key.fill(&mut bytes);
                blocks.extend(bytes.chunks_exact(16).map(<[u8]>::to_vec));
            }
            blocks
        };
        for lengths in [vec![20_000], vec![64; 300], vec![16, 48, 64, 80, 16]] {
            let blocks = drawn(&lengths);
            assert!(!blocks.contains(&vec![0; 16]), "{lengths:?}");
            assert_eq!(blocks.iter().collect::<HashSet<_>>().len(), blocks.len());
        }
    }

    /// Makes keys from each worker in turn, with a token of one repeated byte, and asserts that no
    /// id and no secret repeats.
    fn make_keys(count: usize, workers: &mut [(KeyRandom, u8)]) {
        let format = KeyFormat::new("sk_live_").unwrap();
        let (mut ids, mut secrets) = (HashSet::new(), HashSet::new());
        let of_each = count / workers.len();
        for (random, sign) in workers {
            for _ in 0..of_each {
                let mut bytes_of_key = random.for_key(&[&[*sign; 16], CONSTANT], NOW);
                let key = format.generate(|bytes| bytes_of_key.fill(bytes));
                assert!(ids.insert(key.id().to_owned()), "an id repeats");
                assert!(secrets.insert(key.expose()[21..53].to_owned()));
            }
        }
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn a_hundred_thousand_keys_of_a_worker_do_not_repeat_while_all_around_stands_still() {
        let random = KeyRandom::new(&signing_key(), CONSTANT);
        make_keys(100_000, &mut [(random, b't')]);
    }

    #[test]
    fn workers_with_different_seeds_make_different_keys() {
        let seeds: [&[u8]; 2] = [b"worker 1", b"worker 2"];
        let worker = |seed| (KeyRandom::new(&signing_key(), seed), b't');
        make_keys(10_000, &mut seeds.map(worker));
    }

    #[test]
    fn workers_with_one_seed_make_different_keys_by_their_tokens() {
        let worker = |sign| (KeyRandom::new(&signing_key(), CONSTANT), sign);
        make_keys(10_000, &mut [b'a', b'b'].map(worker));
    }

    #[test]
    fn each_of_the_inputs_alone_changes_what_comes() {
        // Made for this test, used nowhere else.
        let other_key = SigningKey::parse(
            "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgb8e3G8Er88s+ukNPMbPxuAAIVBbE0CfqLYjUCdgNlaeh\
             RANCAAQ0Z2Gu0n1CgnaNgxT8WvjMUgFFgmKTMQNQ03TNrgYHPWppD7O/apa6q3b5rWxBMAjYhQNIe0M/pMv1E1mC2jqb",
        )
        .unwrap();
        let drawn = |key: &SigningKey, seed: &[u8], before: usize, parts: &[&[u8]], now| {
            let mut random = KeyRandom::new(key, seed);
            for _ in 0..before {
                random.for_key(parts, now);
            }
            let mut bytes = [0; 32];
            random.for_key(parts, now).fill(&mut bytes);
            bytes
        };
        let key = signing_key();
        let token: &[u8] = b"token";
        let draws = [
            drawn(&key, b"seed", 0, &[token, b"nonce"], NOW),
            drawn(&other_key, b"seed", 0, &[token, b"nonce"], NOW),
            drawn(&key, b"seee", 0, &[token, b"nonce"], NOW),
            drawn(&key, b"seed", 1, &[token, b"nonce"], NOW),
            drawn(&key, b"seed", 0, &[b"tokem", b"nonce"], NOW),
            drawn(&key, b"seed", 0, &[token, b"noncf"], NOW),
            drawn(&key, b"seed", 0, &[token, b"nonce"], NOW.plus_ms(1)),
            // The same bytes, split at another place.
            drawn(&key, b"seed", 0, &[b"tokenn", b"once"], NOW),
            drawn(&key, b"seed", 0, &[token, b"nonce", b""], NOW),
        ];
        assert_eq!(draws.iter().collect::<HashSet<_>>().len(), draws.len());
        // The same inputs give the same bytes: only these inputs make keys differ.
        assert_eq!(draws[0], drawn(&key, b"seed", 0, &[token, b"nonce"], NOW));
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let mut random = KeyRandom::new(&signing_key(), b"seed");
        assert_eq!(format!("{random:?}"), "KeyRandom { given: 0, .. }");
        assert_eq!(format!("{:?}", random.for_key(&[], NOW)), "KeyBytes(..)");
    }
}
