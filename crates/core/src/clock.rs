//! Instants and lengths of time, as plain numbers.
//!
//! The core never reads a clock: each entry point takes the instant as an argument, so that a
//! test or a simulation decides the time. An instant is milliseconds since the Unix epoch, as
//! both hosts give it.

use std::fmt;

/// An instant, in milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The instant `milliseconds` later; stops at the end of the range.
    #[must_use]
    pub const fn plus_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// The instant `milliseconds` earlier; stops at the epoch.
    #[must_use]
    pub const fn minus_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_sub(milliseconds))
    }

    /// Milliseconds from `earlier` to here; 0 when `earlier` is in fact later,
    /// as after a clock step.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds since the epoch, rounded down (JWT's `NumericDate`, RFC 7519, 2).
    #[must_use]
    pub const fn as_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// The instant of a `NumericDate`.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Reads an RFC 3339 date and time with any offset; digits beyond milliseconds are cut off.
    ///
    /// # Errors
    /// [`NotRfc3339`] when the text is anything else, or lies before 1970.
    pub fn parse_rfc3339(text: &str) -> Result<Self, NotRfc3339> {
        // RFC 3339, 5.6, leaves the separator open; the library takes a digit for one as well.
        if text.as_bytes().get(10).is_none_or(u8::is_ascii_digit) {
            return Err(NotRfc3339);
        }
        let parsed =
            time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
                .map_err(|_| NotRfc3339)?;
        let milliseconds = parsed.unix_timestamp_nanos() / 1_000_000;
        u64::try_from(milliseconds)
            .map(Self)
            .map_err(|_| NotRfc3339)
    }

    /// Writes the instant as RFC 3339 in UTC with whole seconds, as in
    /// `2026-01-28T00:00:00Z`. An instant past the year 9999 is written as the
    /// last second of it.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let last = 253_402_300_799;
        let seconds = i64::try_from(self.as_seconds()).unwrap_or(last).min(last);
        time::OffsetDateTime::from_unix_timestamp(seconds)
            .ok()
            .and_then(|at| {
                at.format(&time::format_description::well_known::Rfc3339)
                    .ok()
            })
            .unwrap_or_default()
    }

    /// The same with milliseconds: `2026-01-28T00:00:00.000Z`.
    #[must_use]
    pub fn to_rfc3339_ms(self) -> String {
        let text = self.to_rfc3339();
        format!("{}.{:03}Z", text.trim_end_matches('Z'), self.0 % 1000)
    }
}

impl fmt::Debug for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// The text is no RFC 3339 date and time at or after 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 date and time such as 2026-01-28T00:00:00Z")]
pub struct NotRfc3339;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_the_forms_other_tools_write() {
        let at = UnixMillis::parse_rfc3339("2026-01-28T00:00:00Z").unwrap();
        assert_eq!(at.as_seconds(), 1_769_558_400);
        assert_eq!(at.to_rfc3339(), "2026-01-28T00:00:00Z");
        assert_eq!(at.plus_ms(7).to_rfc3339_ms(), "2026-01-28T00:00:00.007Z");
        for same in [
            "2026-01-28T01:00:00+01:00",
            "2026-01-28T00:00:00.000999+00:00",
        ] {
            assert_eq!(UnixMillis::parse_rfc3339(same), Ok(at), "{same}");
        }
        for wrong in [
            "",
            "2026-01-28",
            "2026-01-28T00:00:00",
            "2026-01-28400:00:00Z",
            "1969-12-31T23:59:59Z",
            "soon",
        ] {
            assert_eq!(UnixMillis::parse_rfc3339(wrong), Err(NotRfc3339), "{wrong}");
        }
    }

    #[test]
    fn a_clock_step_backwards_gives_zero_not_an_overflow() {
        assert_eq!(UnixMillis(5).since_ms(UnixMillis(9)), 0);
        assert_eq!(UnixMillis(5).minus_ms(9), UnixMillis(0));
        assert_eq!(UnixMillis(u64::MAX).plus_ms(1), UnixMillis(u64::MAX));
        assert_eq!(UnixMillis(u64::MAX).to_rfc3339(), "9999-12-31T23:59:59Z");
    }
}
