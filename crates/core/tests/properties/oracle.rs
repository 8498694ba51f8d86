//! A strict reader of keys, records and owners: written anew, after the documents, so that a
//! fault in ours would have to be in this one too.

use apikeys_core::api_key::format::KeyFormat;
use serde_json::Value;

pub const PREFIX: &str = "sk_live_";

/// A key that is always the same for the same number.
pub fn key(number: u8) -> String {
    let mut next = number.wrapping_mul(67);
    let key = KeyFormat::new(PREFIX).unwrap().generate(|bytes| {
        for byte in bytes {
            *byte = next % 248;
            next = next.wrapping_mul(5).wrapping_add(number | 1);
        }
    });
    key.expose().to_owned()
}

/// CRC-32 (ISO-HDLC), bit by bit.
pub fn crc_32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
        }
    }
    !crc
}

/// The six base62 digits that a key ends with.
pub fn checksum(body: &[u8]) -> String {
    let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc_32(body);
    let mut sum = Vec::new();
    for _ in 0..6 {
        sum.push(digits[rest as usize % 62]);
        rest /= 62;
    }
    sum.reverse();
    String::from_utf8(sum).unwrap()
}

/// Whether the text has the shape of a key made here; the checksum is not looked at.
pub fn is_shaped(text: &[u8], prefix: &str) -> bool {
    let Some(rest) = text.strip_prefix(prefix.as_bytes()) else {
        return false;
    };
    rest.len() == 51
        && rest[..12]
            .iter()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z'))
        && rest[12] == b'_'
        && rest[13..].iter().all(u8::is_ascii_alphanumeric)
}

/// The id of a key made here, if the text is one.
pub fn own_key<'a>(text: &'a [u8], prefix: &str) -> Option<&'a str> {
    let (body, sum) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let whole = is_shaped(text, prefix) && sum == checksum(body).as_bytes();
    whole.then(|| std::str::from_utf8(&text[prefix.len()..prefix.len() + 12]).unwrap())
}

/// Whether the text can be an imported key.
pub fn may_be_imported(text: &[u8], prefix: &str) -> bool {
    (16..=72).contains(&text.len())
        && text.iter().all(|b| (0x21..=0x7e).contains(b) && *b != b',')
        && !is_shaped(text, prefix)
}

/// A record that may be used: its hash's text, its end in milliseconds, its scopes.
pub type Record = (String, u64, Option<String>);

/// The record of this id among these attributes, if it is there once and is whole.
pub fn record(attributes: &Value, id: &str) -> Option<Record> {
    let values = |name: &str| -> Vec<&str> {
        let listed = attributes.get(name).and_then(Value::as_array);
        listed
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    };
    let start = format!("key:{id}:");
    let keys = values("apiKeys");
    let mut hashes = keys.iter().filter_map(|value| value.strip_prefix(&start));
    let (Some(hash), None) = (hashes.next(), hashes.next()) else {
        return None;
    };
    let index = format!(
        "{id}{}",
        ".".repeat(288_usize.saturating_sub(id.chars().count()))
    );
    if !values("apiKeyIndex").contains(&index.as_str()) || !is_hash(hash) {
        return None;
    }
    let field = |name: &str| values(&format!("apiKey_{id}_{name}"));
    let end = instant(one(&field("expiresAt"))??)?;
    let grace = match one(&field("graceUntil"))? {
        Some(text) => instant(text)?,
        None => end,
    };
    let scopes = one(&field("scopes"))?;
    if scopes.is_some_and(|scopes| !are_scopes(scopes)) {
        return None;
    }
    Some((hash.to_owned(), end.min(grace), scopes.map(str::to_owned)))
}

/// The outer none: more than one value.
fn one<'a>(values: &[&'a str]) -> Option<Option<&'a str>> {
    (values.len() < 2).then(|| values.first().copied())
}

fn are_scopes(text: &str) -> bool {
    let visible = |b: u8| (0x21..=0x7e).contains(&b) && b != b'"' && b != b'\\';
    let scope = |scope: &str| !scope.is_empty() && scope.bytes().all(visible);
    text.len() <= 1024 && text.split(' ').all(scope)
}

/// Whether a stored hash is whole, of a known scheme, and not too costly to verify.
pub fn is_hash(text: &str) -> bool {
    if let Some(digest) = text.strip_prefix("$sha256$") {
        // 32 bytes are 43 characters, and the last has four bits that count.
        let zero_spare_bits = b"AEIMQUYcgkosw048";
        return digest.len() == 43
            && digest
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && digest
                .bytes()
                .last()
                .is_some_and(|b| zero_spare_bits.contains(&b));
    }
    let parts: Vec<&str> = text.split('$').collect();
    let [nothing, version, cost, rest] = parts.as_slice() else {
        return false;
    };
    nothing.is_empty()
        && matches!(*version, "2a" | "2b" | "2y")
        && (4..=14).any(|known| *cost == format!("{known:02}"))
        && rest.len() == 53
        && rest
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/')
}

/// An RFC 3339 instant at or after 1970, in milliseconds. A leap second, which the last
/// day of a month in UTC can have, counts as the millisecond before it ends.
pub fn instant(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> { digits(bytes.get(from..to)?) };
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    let marked = marks.iter().all(|(at, mark)| bytes.get(*at) == Some(mark));
    // RFC 3339, 5.6, lets applications choose another separator than T.
    if !marked || bytes.get(10)?.is_ascii_digit() {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let (milliseconds, offset) = fraction(bytes.get(19..)?)?;
    let days = days_since_1970(year, month, day)?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days * 86_400 + hour * 3600 + (minute - offset_minutes(offset)?) * 60;
    if second < 60 {
        return Some(u64::try_from(seconds + second).ok()? * 1000 + milliseconds);
    }
    let after = seconds + 60;
    let is_first = |day: i64| {
        let months = (1970..=10_000).flat_map(|year| (1..=12).map(move |month| (year, month)));
        let firsts = months.filter_map(|(year, month)| days_since_1970(year, month, 1));
        firsts.take_while(|first| *first <= day).last() == Some(day)
    };
    let valid = after % 86_400 == 0 && is_first(after / 86_400);
    valid.then(|| u64::try_from(after).ok().map(|after| after * 1000 - 1))?
}

fn digits(text: &[u8]) -> Option<i64> {
    let all = text.iter().all(u8::is_ascii_digit);
    all.then(|| {
        text.iter()
            .fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
    })
}

/// Milliseconds of `.123456`, if it is there, and the rest of the text.
fn fraction(text: &[u8]) -> Option<(u64, &[u8])> {
    let Some(rest) = text.strip_prefix(b".") else {
        return Some((0, text));
    };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (fraction, offset) = rest.split_at(count);
    let first_three = fraction.iter().copied().chain(*b"000").take(3);
    let milliseconds = first_three.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    (count > 0).then_some((milliseconds, offset))
}

fn offset_minutes(text: &[u8]) -> Option<i64> {
    match text {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            let offset = (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 };
            (hours < 24 && minutes < 60).then_some(offset)
        }
        _ => None,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = 28 + i64::from(is_leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let before = usize::try_from(month - 1).ok()?;
    if !(1..=*lengths.get(before)?).contains(&day) || year < 1969 {
        return None;
    }
    let years: i64 = (1970..year)
        .map(|year| 365 + i64::from(is_leap(year)))
        .sum();
    let months: i64 = lengths.iter().take(before).sum();
    Some(years - 365 * i64::from(year == 1969) + months + day - 1)
}
