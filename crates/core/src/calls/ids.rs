//! Names of exchanges and of assertions.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::clock::UnixMillis;
use crate::mac::MacKey;
use crate::signing_key::SigningKey;

/// Names an exchange within its worker.
pub type ExchangeId = u64;

/// Names the exchanges of a worker, and makes the ids of assertions. Keycloak takes each id once.
///
/// Ids of assertions must differ, across workers and nodes too; they need not be unguessable, but
/// they are. On Kong a host's random source can give two workers the same bytes, so the worker's
/// seed, the request's own id, the time and a counter all go in.
#[derive(Debug)]
pub struct Ids {
    key: MacKey,
    seed: Vec<u8>,
    assertions: u64,
    exchanges: ExchangeId,
}

impl Ids {
    /// `seed` is any bytes that no other worker has had.
    #[must_use]
    pub fn new(signing_key: &SigningKey, seed: &[u8]) -> Self {
        Self {
            key: MacKey::new(&signing_key.derive(&[b"jti"])),
            seed: seed.to_vec(),
            assertions: 0,
            exchanges: 0,
        }
    }

    /// Names one more exchange within the worker.
    pub const fn exchange(&mut self) -> ExchangeId {
        self.exchanges += 1;
        self.exchanges
    }

    /// The bytes that no other worker has had.
    #[must_use]
    pub fn seed(&self) -> &[u8] {
        &self.seed
    }

    /// `<key id>.<22 characters>`: Keycloak's event log keeps it, and so tells
    /// which key was used.
    pub fn jti(&mut self, key_id: &str, request_nonce: &[u8], now: UnixMillis) -> String {
        self.assertions += 1;
        let tag = self.key.tag(&[
            &(self.seed.len() as u64).to_be_bytes(),
            &self.seed,
            &self.assertions.to_be_bytes(),
            &now.0.to_be_bytes(),
            request_nonce,
        ]);
        let (half, _) = tag.split_at(16);
        format!("{key_id}.{}", URL_SAFE_NO_PAD.encode(half))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::test_support::signing_key;

    #[test]
    fn assertion_ids_begin_with_the_key_and_never_repeat() {
        let now = UnixMillis(1_700_000_000_000);
        let mut seen = HashSet::new();
        for seed in [b"worker-1", b"worker-2"] {
            let mut source = Ids::new(&signing_key(), seed);
            for _ in 0..1000 {
                let jti = source.jti("abc123def456", b"", now);
                assert!(jti.starts_with("abc123def456.") && jti.len() == 35, "{jti}");
                assert!(seen.insert(jti));
            }
        }
        // Two workers with the same seed still differ by their requests' ids.
        let mut first = Ids::new(&signing_key(), b"same");
        let mut second = Ids::new(&signing_key(), b"same");
        assert_ne!(first.jti("a", b"r1", now), second.jti("a", b"r2", now));
    }
}
