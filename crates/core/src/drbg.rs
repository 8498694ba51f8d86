//! Secret random bytes for new keys, which no host need give.
//!
//! Kong's random source is nginx's own, which is not cryptographic (and can give two
//! workers the same bytes), so ids, secrets and salts of keys come from an HMAC-DRBG
//! with SHA-256 (NIST SP 800-90A, 10.1.2), seeded anew for each key. That nobody can
//! guess them rests on a secret derived from the signing key and on a token fresh from
//! Keycloak; that they never repeat rests on a counter and on all else that goes in.

use std::fmt;

use zeroize::Zeroizing;

use crate::clock::UnixMillis;
use crate::mac::MacKey;
use crate::signing_key::SigningKey;

/// Tells what these bytes are for from all that is ever drawn in another way.
const PERSONALIZATION: &[u8] = b"apikey-jwt-exchange v1 new key";

/// Where a worker's new keys get their randomness from.
pub struct KeyRandom {
    secret: Zeroizing<[u8; 32]>,
    worker_seed: Vec<u8>,
    /// Seeds given: no two of a worker's are alike, whatever its host and clock do.
    given: u64,
}

impl KeyRandom {
    /// The source of a worker, whose seed tells it from its siblings.
    #[must_use]
    pub fn new(signing_key: &SigningKey, worker_seed: &[u8]) -> Self {
        Self {
            secret: Zeroizing::new(signing_key.derive(&[b"drbg"])),
            worker_seed: worker_seed.to_vec(),
            given: 0,
        }
    }

    /// The generator for one key. `entropy` is what nobody else has: the access token
    /// that was just fetched, whole, and the request's nonce.
    pub fn for_key(&mut self, entropy: &[&[u8]], now: UnixMillis) -> KeyDrbg {
        self.given += 1;
        let mut input = Zeroizing::new(Vec::with_capacity(4096));
        add_part(&mut input, self.secret.as_slice());
        for part in entropy {
            add_part(&mut input, part);
        }
        let mut nonce = Vec::with_capacity(128);
        add_part(&mut nonce, &self.worker_seed);
        add_part(&mut nonce, &self.given.to_be_bytes());
        add_part(&mut nonce, &now.0.to_be_bytes());
        KeyDrbg::new(&input, &nonce, PERSONALIZATION)
    }
}

impl fmt::Debug for KeyRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRandom")
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

/// Adds a part with its length before it, so that no two lists of parts are one text.
fn add_part(to: &mut Vec<u8>, part: &[u8]) {
    to.extend_from_slice(&(part.len() as u64).to_be_bytes());
    to.extend_from_slice(part);
}

/// A generator for the random bytes of one key: its id, its secret, its salt.
///
/// HMAC_DRBG of NIST SP 800-90A Rev. 1, 10.1.2, with SHA-256, without reseeding or
/// additional input. Written out here since no kept crate has it in the open.
pub struct KeyDrbg {
    /// `Key` of the standard.
    key: MacKey,
    /// `V` of the standard.
    value: Zeroizing<[u8; 32]>,
}

impl KeyDrbg {
    /// Instantiates it (10.1.2.3).
    fn new(entropy: &[u8], nonce: &[u8], personalization: &[u8]) -> Self {
        let mut drbg = Self {
            key: MacKey::new(&[0; 32]),
            value: Zeroizing::new([1; 32]),
        };
        drbg.update(&[entropy, nonce, personalization]);
        drbg
    }

    /// Fills the buffer with the next bytes (10.1.2.5). One request of the standard, which
    /// bounds it to 65,536 bytes; a key takes less than a thousand in all.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for block in bytes.chunks_mut(32) {
            *self.value = self.key.tag(&[self.value.as_slice()]);
            for (to, from) in block.iter_mut().zip(self.value.iter()) {
                *to = *from;
            }
        }
        self.update(&[]);
    }

    /// Updates key and value (10.1.2.2): in two rounds, in one where there is no data.
    fn update(&mut self, data: &[&[u8]]) {
        for round in 0..=u8::from(!data.is_empty()) {
            let round = [round];
            let parts = [&[self.value.as_slice(), &round], data].concat();
            self.key = MacKey::new(&Zeroizing::new(self.key.tag(&parts)));
            *self.value = self.key.tag(&[self.value.as_slice()]);
        }
    }
}

impl fmt::Debug for KeyDrbg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDrbg(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::api_key::format::KeyFormat;
    use crate::test_support::signing_key;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
    /// What a host gives whose random source and request ids are constant.
    const CONSTANT: &[u8] = &[7; 16];

    fn bytes_of(hex: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    #[test]
    fn agrees_with_the_vectors_of_nist() {
        // CAVP's HMAC_DRBG, SHA-256, without reseed, additional input or prediction
        // resistance: entropy input, nonce, personalization (- for none) and the second
        // 1,024 bits, which Python's hmac gives as well.
        let vectors = include_str!("../tests/fixtures/hmac_drbg_sha256.txt");
        assert_eq!(vectors.lines().count(), 8);
        for vector in vectors.lines() {
            let parts: Vec<Vec<u8>> = vector
                .split(' ')
                .map(|part| bytes_of(part.trim_matches('-')))
                .collect();
            let mut drbg = KeyDrbg::new(&parts[0], &parts[1], &parts[2]);
            let mut returned = vec![0; parts[3].len()];
            drbg.fill(&mut returned);
            drbg.fill(&mut returned);
            assert_eq!(returned, parts[3]);
        }
    }

    /// Makes keys from each worker in turn, with a token of its sign alone, and holds
    /// that no id and no secret repeats.
    fn make_keys(count: usize, workers: &mut [(KeyRandom, u8)]) {
        let format = KeyFormat::new("sk_live_").unwrap();
        let (mut ids, mut secrets) = (HashSet::new(), HashSet::new());
        let of_each = count / workers.len();
        for (random, sign) in workers {
            for _ in 0..of_each {
                let mut drbg = random.for_key(&[&[*sign; 16], CONSTANT], NOW);
                let key = format.generate(|bytes| drbg.fill(bytes));
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
            // The same bytes, cut elsewhere.
            drawn(&key, b"seed", 0, &[b"tokenn", b"once"], NOW),
            drawn(&key, b"seed", 0, &[token, b"nonce", b""], NOW),
        ];
        assert_eq!(draws.iter().collect::<HashSet<_>>().len(), draws.len());
        // All alike gives the same: it is these inputs that the keys differ by.
        assert_eq!(draws[0], drawn(&key, b"seed", 0, &[token, b"nonce"], NOW));
    }

    #[test]
    fn debug_output_holds_no_secret() {
        let mut random = KeyRandom::new(&signing_key(), b"seed");
        assert_eq!(format!("{random:?}"), "KeyRandom { given: 0, .. }");
        assert_eq!(format!("{:?}", random.for_key(&[], NOW)), "KeyDrbg(..)");
    }
}
