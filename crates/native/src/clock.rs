//! The clocks of this process.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use apikeys_core::clock::UnixMillis;

/// The wall clock. If it is set to before 1970, returns a far future instant: no token is valid then.
#[expect(clippy::disallowed_methods, reason = "the shell reads the clock")]
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    let ms = since.and_then(|since| u64::try_from(since.as_millis()).ok());
    UnixMillis(ms.unwrap_or(u64::MAX / 4))
}

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the shell reads the clock")]
pub fn instant() -> Instant {
    Instant::now()
}

/// Microseconds since an instant.
pub fn since_us(then: Instant) -> u64 {
    let took = instant().saturating_duration_since(then).as_micros();
    u64::try_from(took).unwrap_or(u64::MAX)
}
