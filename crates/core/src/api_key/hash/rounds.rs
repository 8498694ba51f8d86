//! bcrypt's rounds over one key and salt, a few at a time.
//!
//! They are bcrypt's own (Provos and Mazières, "A Future-Adaptable Password Scheme",
//! 1999), held against the `bcrypt` crate in the tests of the module above.

use std::fmt;

use blowfish::Blowfish;
use zeroize::Zeroizing;

use super::super::format::KEY_BYTES_MAX;

/// bcrypt's rounds over one key and salt.
pub(super) struct Rounds {
    state: Blowfish,
    /// The key with bcrypt's final NUL, cut to 72 bytes.
    key: Zeroizing<Vec<u8>>,
    pub(super) salt: [u8; 16],
    pub(super) left: u32,
}

impl Rounds {
    pub(super) fn new(key: &[u8], cost: u32, salt: [u8; 16]) -> Self {
        let mut terminated = Zeroizing::new(Vec::with_capacity(key.len() + 1));
        terminated.extend_from_slice(key);
        terminated.push(0);
        terminated.truncate(KEY_BYTES_MAX);
        let mut state = Blowfish::bc_init_state();
        state.salted_expand_key(&salt, &terminated);
        Self {
            state,
            key: terminated,
            salt,
            left: 1 << cost,
        }
    }

    /// Runs at most `rounds` more; once all are done gives the digest.
    pub(super) fn run(&mut self, rounds: u32) -> Option<[u8; 23]> {
        let now = rounds.min(self.left);
        for _ in 0..now {
            self.state.bc_expand_key(&self.key);
            self.state.bc_expand_key(&self.salt);
        }
        self.left -= now;
        (self.left == 0).then(|| self.digest())
    }

    /// Encrypts bcrypt's constant text 64 times under the final key schedule.
    fn digest(&self) -> [u8; 23] {
        // "OrpheanBeholderScryDoubt", as six big-endian words.
        let mut words: [u32; 6] = [
            0x4f72_7068,
            0x6561_6e42,
            0x6568_6f6c,
            0x6465_7253,
            0x6372_7944,
            0x6f75_6274,
        ];
        let (pairs, _) = words.as_chunks_mut::<2>();
        for pair in pairs {
            for _ in 0..64 {
                *pair = self.state.bc_encrypt(*pair);
            }
        }
        let mut digest = [0_u8; 23];
        let bytes = words.iter().flat_map(|word| word.to_be_bytes());
        for (to, from) in digest.iter_mut().zip(bytes) {
            *to = from;
        }
        digest
    }
}

impl fmt::Debug for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rounds")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
