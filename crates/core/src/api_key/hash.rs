//! The stored hash of a key: made, and verified, in slices.
//!
//! A gateway's worker serves thousands of requests a second from one thread, and
//! a bcrypt of cost 12 would hold it for a third of a second. So a verification
//! is a job that runs a few rounds at a time ([`BcryptJob::run`]), and so is the hash
//! of a new key ([`HashJob::run`]); between two slices the worker serves others.

use std::fmt;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use rounds::Rounds;

mod rounds;

/// The lowest bcrypt cost there is.
pub const BCRYPT_COST_MIN: u32 = 4;
/// The highest cost that is verified: above it a record is refused, not computed,
/// so that a planted one cannot stall a worker.
pub const BCRYPT_COST_MAX: u32 = 14;
/// Rounds in one slice: 12 take 1.0 to 1.3 ms in V8 and Wasmtime on a slow core.
pub const ROUNDS_PER_SLICE: u32 = 12;

const SHA256_MARK: &str = "$sha256$";

// The last character of a bcrypt salt or digest has spare bits, which some
// writers leave set.
const BCRYPT_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::BCRYPT,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// How the hash of a new key is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// bcrypt with the configured cost.
    Bcrypt,
    /// SHA-256, as safe for keys of 190 random bits.
    Sha256,
}

/// A hash as a record holds it, read and in bounds.
#[derive(Clone, PartialEq, Eq)]
pub enum StoredHash {
    /// `$2a$`, `$2b$` or `$2y$`: for keys of at most 72 bytes they are the same.
    Bcrypt {
        /// 2^cost rounds; [`BCRYPT_COST_MIN`] to [`BCRYPT_COST_MAX`].
        cost: u32,
        /// The salt.
        salt: [u8; 16],
        /// The digest, bcrypt's 23 bytes.
        digest: [u8; 23],
    },
    /// `$sha256$<base64url>`: as safe for a key of 190 random bits, and free.
    Sha256([u8; 32]),
}

impl StoredHash {
    /// Reads the text of a record's hash.
    ///
    /// # Errors
    /// [`UnusableHash`] for another scheme, a broken text or a cost out of bounds.
    pub fn parse(text: &str) -> Result<Self, UnusableHash> {
        if let Some(encoded) = text.strip_prefix(SHA256_MARK) {
            let digest = URL_SAFE_NO_PAD
                .decode(encoded)
                .map_err(|_| UnusableHash::Malformed)?;
            return digest
                .try_into()
                .map(Self::Sha256)
                .map_err(|_| UnusableHash::Malformed);
        }
        let rest = ["$2a$", "$2b$", "$2y$"]
            .iter()
            .find_map(|mark| text.strip_prefix(mark))
            .ok_or(UnusableHash::Scheme)?;
        let (cost, encoded) = rest.split_once('$').ok_or(UnusableHash::Malformed)?;
        if cost.len() != 2 || !cost.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(UnusableHash::Malformed);
        }
        let cost: u32 = cost.parse().map_err(|_| UnusableHash::Malformed)?;
        if !(BCRYPT_COST_MIN..=BCRYPT_COST_MAX).contains(&cost) {
            return Err(UnusableHash::Cost(cost));
        }
        let (salt, digest) = encoded
            .split_at_checked(22)
            .ok_or(UnusableHash::Malformed)?;
        let decode = |part: &str| {
            BCRYPT_BASE64
                .decode(part)
                .map_err(|_| UnusableHash::Malformed)
        };
        Ok(Self::Bcrypt {
            cost,
            salt: decode(salt)?
                .try_into()
                .map_err(|_| UnusableHash::Malformed)?,
            digest: decode(digest)?
                .try_into()
                .map_err(|_| UnusableHash::Malformed)?,
        })
    }

    /// Rounds that a verification takes: 2^cost, 0 for SHA-256.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        match self {
            Self::Bcrypt { cost, .. } => 1 << cost,
            Self::Sha256(_) => 0,
        }
    }

    /// Starts the verification of a key against this hash.
    #[must_use]
    pub fn verify(&self, key: &[u8]) -> Verification {
        match self {
            Self::Sha256(expected) => {
                let computed: [u8; 32] = Sha256::digest(key).into();
                Verification::Decided(computed.ct_eq(expected).into())
            }
            Self::Bcrypt { cost, salt, digest } => {
                Verification::Computing(Box::new(BcryptJob::new(key, *cost, *salt, *digest)))
            }
        }
    }
}

impl fmt::Debug for StoredHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bcrypt { cost, .. } => write!(f, "Bcrypt {{ cost: {cost}, .. }}"),
            Self::Sha256(_) => f.write_str("Sha256(..)"),
        }
    }
}

/// The reason why a record's hash cannot be verified against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableHash {
    /// Neither `$2a$`, `$2b$`, `$2y$` nor `$sha256$`.
    #[error("unknown hash scheme")]
    Scheme,
    /// The scheme is known, but the rest does not have its form.
    #[error("malformed hash")]
    Malformed,
    /// A bcrypt cost out of bounds.
    #[error("bcrypt cost {0} is outside {BCRYPT_COST_MIN} to {BCRYPT_COST_MAX}")]
    Cost(u32),
}

/// The first result of a verification.
#[derive(Debug)]
pub enum Verification {
    /// Done at once: whether the key is the hashed one.
    Decided(bool),
    /// To be run in slices.
    Computing(Box<BcryptJob>),
}

/// A bcrypt verification under way.
pub struct BcryptJob {
    rounds: Rounds,
    expected: [u8; 23],
}

impl BcryptJob {
    fn new(key: &[u8], cost: u32, salt: [u8; 16], expected: [u8; 23]) -> Self {
        Self {
            rounds: Rounds::new(key, cost, salt),
            expected,
        }
    }

    /// Runs at most `rounds` more rounds; after the last, says whether the key is the hashed one.
    /// After that it must not be run again.
    pub fn run(&mut self, rounds: u32) -> Option<bool> {
        let digest = self.rounds.run(rounds)?;
        Some(digest.ct_eq(&self.expected).into())
    }
}

impl fmt::Debug for BcryptJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BcryptJob")
            .field("rounds", &self.rounds)
            .finish_non_exhaustive()
    }
}

/// The first result of hashing a new key.
#[derive(Debug)]
pub enum NewHash {
    /// Done at once: the hash for the record.
    Done(String),
    /// To be run in slices.
    Computing(Box<HashJob>),
}

impl NewHash {
    /// Starts the hash of a new key. The salt must be cryptographically random; SHA-256 takes
    /// none. A cost out of bounds, which no configuration has, is brought within them, so that
    /// each hash made here can be verified.
    #[must_use]
    pub fn start(key: &[u8], algorithm: HashAlgorithm, cost: u32, salt: [u8; 16]) -> Self {
        match algorithm {
            HashAlgorithm::Sha256 => Self::Done(hash_sha256(key)),
            HashAlgorithm::Bcrypt => {
                let cost = cost.clamp(BCRYPT_COST_MIN, BCRYPT_COST_MAX);
                let rounds = Rounds::new(key, cost, salt);
                Self::Computing(Box::new(HashJob { rounds, cost }))
            }
        }
    }
}

/// The bcrypt hash of a new key under way.
#[derive(Debug)]
pub struct HashJob {
    rounds: Rounds,
    cost: u32,
}

impl HashJob {
    /// Runs at most `rounds` more rounds; after the last, gives `$2b$<cost>$…`. After that it
    /// must not be run again.
    pub fn run(&mut self, rounds: u32) -> Option<String> {
        let digest = self.rounds.run(rounds)?;
        let mut text = format!("$2b${:02}$", self.cost);
        BCRYPT_BASE64.encode_string(self.rounds.salt, &mut text);
        BCRYPT_BASE64.encode_string(digest, &mut text);
        Some(text)
    }
}

/// Hashes a key with bcrypt, as `$2b$<cost>$…`, in one go: for tools, never for a
/// gateway's worker. The salt must be cryptographically random.
///
/// # Errors
/// [`UnusableHash::Cost`] when the cost is out of bounds.
pub fn hash_bcrypt(key: &[u8], cost: u32, salt: [u8; 16]) -> Result<String, UnusableHash> {
    if !(BCRYPT_COST_MIN..=BCRYPT_COST_MAX).contains(&cost) {
        return Err(UnusableHash::Cost(cost));
    }
    bcrypt::hash_with_salt(key, cost, salt)
        .map(|parts| parts.format_for_version(bcrypt::Version::TwoB))
        .map_err(|_| UnusableHash::Malformed)
}

/// Hashes a key with SHA-256, as `$sha256$<base64url>`.
#[must_use]
pub fn hash_sha256(key: &[u8]) -> String {
    format!(
        "{SHA256_MARK}{}",
        URL_SAFE_NO_PAD.encode(Sha256::digest(key))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify_in_slices(key: &[u8], stored: &str, rounds: u32) -> bool {
        match StoredHash::parse(stored).unwrap().verify(key) {
            Verification::Decided(decided) => decided,
            Verification::Computing(mut job) => loop {
                if let Some(decided) = job.run(rounds) {
                    return decided;
                }
            },
        }
    }

    #[test]
    fn agrees_with_known_vectors() {
        // From the test suites of jBCrypt and crypt_blowfish.
        let vectors = [
            (
                "a",
                "$2a$08$cfcvVd2aQ8CMvoMpP2EBfeodLEkkFJ9umNEfPD18.hUF62qqlC/V.",
            ),
            (
                "abc",
                "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i",
            ),
            (
                "U*U",
                "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            ),
            (
                "U*U*",
                "$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK",
            ),
        ];
        for (key, stored) in vectors {
            assert!(
                verify_in_slices(key.as_bytes(), stored, ROUNDS_PER_SLICE),
                "{stored}"
            );
            assert!(
                !verify_in_slices(b"other", stored, ROUNDS_PER_SLICE),
                "{stored}"
            );
        }
    }

    #[test]
    fn slices_agree_with_the_bcrypt_crate_for_all_lengths_costs_and_prefixes() {
        let mut compared = 0;
        for length in (0..=72).step_by(3).chain([1, 55, 59, 71]) {
            let key: Vec<u8> = (0..length).map(|at| b'!' + (at * 7 % 90) as u8).collect();
            let cost = 4 + length as u32 % 3;
            let mut salt = [0_u8; 16];
            for (at, byte) in salt.iter_mut().enumerate() {
                *byte = (at * 31 + length * 17) as u8;
            }
            let parts = bcrypt::hash_with_salt(&key, cost, salt).unwrap();
            for version in [
                bcrypt::Version::TwoA,
                bcrypt::Version::TwoB,
                bcrypt::Version::TwoY,
            ] {
                let stored = parts.format_for_version(version);
                let rounds = 1 + (length as u32 * 5) % 40;
                assert!(verify_in_slices(&key, &stored, rounds), "{length} {stored}");
                let mut other = key.clone();
                other.truncate(71);
                other.push(b'#');
                let equal = bcrypt::verify(&other, &stored).unwrap();
                assert_eq!(verify_in_slices(&other, &stored, rounds), equal);
                compared += 1;
            }
        }
        assert!(compared >= 80);
    }

    #[test]
    fn high_costs_agree_as_well() {
        for cost in [10, 12] {
            let stored = hash_bcrypt(b"key", cost, [3; 16]).unwrap();
            assert!(verify_in_slices(b"key", &stored, ROUNDS_PER_SLICE));
            assert!(!verify_in_slices(b"kez", &stored, ROUNDS_PER_SLICE));
        }
    }

    #[test]
    fn a_slice_runs_no_more_rounds_than_asked() {
        let stored = StoredHash::parse(&hash_bcrypt(b"key", 4, [1; 16]).unwrap()).unwrap();
        let Verification::Computing(mut job) = stored.verify(b"key") else {
            panic!("bcrypt")
        };
        assert_eq!((job.run(14), job.rounds.left), (None, 2));
        assert_eq!((job.run(14), job.rounds.left), (Some(true), 0));
    }

    #[test]
    fn a_new_hash_is_the_bcrypt_crates_whatever_the_slices() {
        for (length, cost) in [(16, 4), (59, 5), (71, 6), (72, 4), (59, 10)] {
            let key: Vec<u8> = (0..length).map(|at| b'!' + (at * 5 % 90) as u8).collect();
            let salt = std::array::from_fn(|at| (at * 29 + length) as u8);
            let parts = bcrypt::hash_with_salt(&key, cost, salt).unwrap();
            let expected = parts.format_for_version(bcrypt::Version::TwoB);
            let algorithm = HashAlgorithm::Bcrypt;
            let NewHash::Computing(mut job) = NewHash::start(&key, algorithm, cost, salt) else {
                panic!("bcrypt")
            };
            let mut slices = 1;
            let text = loop {
                match job.run(ROUNDS_PER_SLICE) {
                    Some(text) => break text,
                    None => slices += 1,
                }
            };
            assert_eq!(text, expected);
            assert_eq!(slices, (1_u32 << cost).div_ceil(ROUNDS_PER_SLICE));
            assert!(verify_in_slices(&key, &text, ROUNDS_PER_SLICE));
        }
    }

    #[test]
    fn a_new_hash_has_a_cost_that_is_verified() {
        for (cost, taken) in [(0, "$2b$04$"), (u32::MAX, "$2b$14$")] {
            let algorithm = HashAlgorithm::Bcrypt;
            let NewHash::Computing(mut job) = NewHash::start(b"key", algorithm, cost, [1; 16])
            else {
                panic!("bcrypt")
            };
            // The beginning of the text does not depend on the rounds, so only the last one runs.
            job.rounds.left = 1;
            assert!(job.run(1).unwrap().starts_with(taken));
        }
    }

    #[test]
    fn a_new_sha256_is_done_at_once() {
        let new = NewHash::start(b"key", HashAlgorithm::Sha256, 10, [0; 16]);
        assert!(matches!(new, NewHash::Done(text) if text == hash_sha256(b"key")));
    }

    #[test]
    fn debug_output_of_a_job_holds_its_progress_alone() {
        let job = NewHash::start(b"SECRET", HashAlgorithm::Bcrypt, 4, [0; 16]);
        let shown = "Computing(HashJob { rounds: Rounds { left: 16, .. }, cost: 4 })";
        assert_eq!(format!("{job:?}"), shown);
        let job = BcryptJob::new(b"SECRET", 4, [0; 16], [0; 23]);
        let shown = "BcryptJob { rounds: Rounds { left: 16, .. }, .. }";
        assert_eq!(format!("{job:?}"), shown);
    }

    #[test]
    fn sha256_is_decided_at_once() {
        let stored = hash_sha256(b"key");
        assert!(verify_in_slices(b"key", &stored, 1));
        assert!(!verify_in_slices(b"kez", &stored, 1));
    }

    #[test]
    fn refuses_what_it_cannot_verify() {
        let good = hash_bcrypt(b"key", 4, [0; 16]).unwrap();
        let cases = [
            (good.replace("$2b$", "$2x$"), UnusableHash::Scheme),
            (good.replace("$04$", "$15$"), UnusableHash::Cost(15)),
            (good.replace("$04$", "$03$"), UnusableHash::Cost(3)),
            (good.replace("$04$", "$31$"), UnusableHash::Cost(31)),
            (good.replace("$04$", "$4$"), UnusableHash::Malformed),
            (good.replace("$04$", "$+4$"), UnusableHash::Malformed),
            (good[..59].to_owned(), UnusableHash::Malformed),
            (format!("{good}."), UnusableHash::Malformed),
            ("$sha256$AAAA".to_owned(), UnusableHash::Malformed),
            ("$argon2id$v=19$m=1".to_owned(), UnusableHash::Scheme),
            (String::new(), UnusableHash::Scheme),
        ];
        for (text, reason) in cases {
            assert_eq!(StoredHash::parse(&text), Err(reason), "{text}");
        }
        assert_eq!(
            hash_bcrypt(b"key", 15, [0; 16]),
            Err(UnusableHash::Cost(15))
        );
    }
}
