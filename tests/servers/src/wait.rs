//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Looks until there is a result, and fails at the deadline with the last finding.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let seen = match look() {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(
            Instant::now() < deadline,
            "{what}: not within {limit:?}; seen last: {seen}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Seconds since 1970.
pub fn now_seconds() -> u64 {
    now_ms() / 1000
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
