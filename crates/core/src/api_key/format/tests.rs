//! How a key is read, found in other text, and made.

use super::*;

fn format() -> KeyFormat {
    KeyFormat::new("sk_live_").unwrap()
}

fn counting() -> impl FnMut(&mut [u8]) {
    let mut next = 0_u8;
    move |bytes| {
        for byte in bytes {
            *byte = next;
            next = next.wrapping_add(37);
        }
    }
}

#[test]
fn a_made_key_has_the_documented_shape_and_reads_back() {
    let key = format().generate(counting());
    let text = key.expose();
    assert_eq!(text.len(), 59);
    let rest = text.strip_prefix("sk_live_").unwrap();
    assert!(is_id(&rest[..12]) && &rest[12..13] == "_");
    assert!(rest[13..].bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert_eq!(rest[13..].len(), 38);
    assert_eq!(format().parse(text.as_bytes()), Ok(key.clone()));
    assert_eq!(key.id(), &rest[..12]);
}

#[test]
fn every_part_like_a_key_is_found_wherever_it_begins() {
    // With a mark at each place, without one, and two that overlap themselves.
    for prefix in ["sk_live_", "key", "_", "ab9", "a-a-", "zzz"] {
        let format = KeyFormat::new(prefix).unwrap();
        let key = format.generate(counting());
        let length = format.key_bytes();
        for more in 0..=2 * prefix.len() {
            let before = &prefix.repeat(2)[..more];
            let after = &prefix.repeat(2)[2 * prefix.len() - more..];
            let text = [before, key.expose(), after, key.expose()].concat();
            let windows = text.as_bytes().windows(length);
            let expected = windows.filter(|part| part.starts_with(prefix.as_bytes()));
            let expected: Vec<&[u8]> = expected.collect();
            let found: Vec<&[u8]> = format.parts_like_keys(text.as_bytes()).collect();
            assert_eq!(found, expected, "{text}");
            let is_key = |part: &&&[u8]| **part == key.expose().as_bytes();
            assert_eq!(found.iter().filter(is_key).count(), 2, "{text}");
        }
        let short = &key.expose().as_bytes()[..length - 1];
        assert_eq!(format.parts_like_keys(short).count(), 0);
        assert_eq!(format.parts_like_keys(b"").count(), 0);
    }
}

#[test]
fn the_checksum_is_crc_32_in_base62() {
    // The check value of CRC-32/ISO-HDLC, 0xCBF43926, in base62.
    assert_eq!(&checksum_of(&[b"123456789"]), b"3jZRME");
    let mut value = 0_u64;
    for digit in checksum_of(&[b"1234", b"56789"]) {
        value = value * 62 + BASE62.iter().position(|&c| c == digit).unwrap() as u64;
    }
    assert_eq!(value, 0xCBF4_3926);
}

#[test]
fn refuses_any_single_changed_character_by_checksum_or_shape() {
    let key = format().generate(counting());
    let text = key.expose().as_bytes();
    for at in 8..text.len() {
        for replacement in [b'a', b'Z', b'7', b'_'] {
            let mut changed = text.to_vec();
            if changed[at] == replacement {
                continue;
            }
            changed[at] = replacement;
            assert!(format().parse(&changed).is_err(), "position {at}");
        }
    }
    for length in [8, 21, 30, 58] {
        assert_eq!(format().parse(&text[..length]), Err(MalformedKey::Shape));
    }
    assert_eq!(
        format().parse(&[text, b"x"].concat()),
        Err(MalformedKey::Shape)
    );
}

#[test]
fn refuses_what_no_header_should_carry() {
    let cases: [(&[u8], MalformedKey); 6] = [
        (b"", MalformedKey::Shape),
        (b"sk_live_", MalformedKey::Shape),
        (b"two words", MalformedKey::Character),
        (b"one,two", MalformedKey::Character),
        (b"\xff\xfe", MalformedKey::Character),
        (&[b'a'; 73], MalformedKey::Length),
    ];
    for (text, reason) in cases {
        assert_eq!(format().parse(text), Err(reason), "{text:?}");
    }
}

#[test]
fn imported_keys_need_an_index_key_and_get_a_derived_id() {
    let foreign = b"legacy-0123456789";
    assert_eq!(format().parse(foreign), Err(MalformedKey::Shape));
    let importing = format().with_index_key(&[7; 32]);
    let key = importing.parse(foreign).unwrap();
    assert!(is_id(key.id()) && key.id().len() == IMPORTED_ID_LENGTH);
    assert_eq!(importing.parse(foreign).unwrap().id(), key.id());
    let other = format().with_index_key(&[8; 32]).parse(foreign).unwrap();
    assert_ne!(other.id(), key.id());
    assert_eq!(
        importing.parse(b"fifteen-chars-x"),
        Err(MalformedKey::Length)
    );
    assert!(importing.parse(b"sixteen-chars-xx").is_ok());
    assert!(importing.parse(&[b'a'; 72]).is_ok());
    let mut mistyped = format().generate(counting()).expose().as_bytes().to_vec();
    *mistyped.last_mut().unwrap() ^= 1;
    assert_eq!(importing.parse(&mistyped), Err(MalformedKey::Checksum));
}

#[test]
fn an_id_has_one_of_two_lengths_and_no_capitals() {
    for id in ["abc123def456", "abc123def456abc123def456"] {
        assert!(is_id(id), "{id}");
    }
    for text in [
        "",
        "abc123def45",
        "ABC123def456",
        "abc123def45_",
        "abc123def4567",
    ] {
        assert!(!is_id(text), "{text}");
    }
}

#[test]
fn a_derived_id_is_the_documented_one() {
    // Computed apart: the HMAC as a number in base36, 50 digits, its first 24.
    let importing = format().with_index_key(&[7; 32]);
    let key = importing.parse(b"legacy-0123456789").unwrap();
    assert_eq!(key.id(), "08a8fqnvnprs5dw9wbjqa3x3");
}

#[test]
fn as_many_characters_are_drawn_as_asked_for_however_many_bytes_are_unfair() {
    let mut fill = |bytes: &mut [u8]| {
        // The least byte that would favour some, and the last fair one.
        bytes.fill(252);
        bytes[..5].fill(251);
    };
    assert_eq!(draw(BASE36, 12, &mut fill), "z".repeat(12));
}

#[test]
fn every_character_is_equally_likely() {
    // All 256 byte values once: the 4 that 252 = 7 x 36 leaves over are skipped.
    let mut next = 0_u8;
    let mut fill = |bytes: &mut [u8]| {
        for byte in bytes {
            *byte = next;
            next = next.wrapping_add(1);
        }
    };
    let drawn = draw(BASE36, 252, &mut fill);
    for character in BASE36 {
        let count = drawn.bytes().filter(|byte| byte == character).count();
        assert_eq!(count, 7, "{}", char::from(*character));
    }
}

#[test]
fn debug_output_holds_no_secret() {
    let key = format().generate(counting());
    let shown = format!("{key:?} {:?}", format().with_index_key(&[9; 32]));
    assert!(shown.contains(key.id()));
    assert!(!shown.contains(&key.expose()[21..]) && !shown.contains("9, 9"));
}

#[test]
fn refuses_prefixes_that_would_not_fit_or_not_travel() {
    for prefix in ["", "sk live", "sk,", "ключ", "seventeen_letters"] {
        assert!(KeyFormat::new(prefix).is_err(), "{prefix}");
    }
}
