//! The text of a key: accepted exactly if a strict reader accepts it, and under the same id.
//!
//! The first byte chooses the prefix and whether keys are imported; the rest is the
//! text. `{sum}` at its end stands for the right checksum.

use apikeys_core::api_key::format::{KeyFormat, MalformedKey, is_id};

use super::contains;
use super::oracle::{checksum, may_be_imported, own_key};

const PREFIXES: [&str; 4] = ["sk_live_", "k", "a_very-long_pref", "0"];

pub fn holds(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    let prefix = PREFIXES[usize::from(choice) / 2 % PREFIXES.len()];
    let importing = choice % 2 == 1;
    let text = match rest.strip_suffix(b"{sum}") {
        Some(body) => [body, checksum(body).as_bytes()].concat(),
        None => rest.to_vec(),
    };
    let format = KeyFormat::new(prefix).unwrap();
    let format = if importing {
        format.with_index_key(&[7; 32])
    } else {
        format
    };
    let parsed = format.parse(&text);
    let own = own_key(&text, prefix);
    let imported = importing && may_be_imported(&text, prefix);
    match &parsed {
        Ok(key) => {
            assert_eq!(key.expose().as_bytes(), text);
            assert!(is_id(key.id()));
            match own {
                Some(id) => assert_eq!(key.id(), id),
                None => assert!(imported && key.id().len() == 24),
            }
            assert!(!format!("{key:?}").contains(key.expose()));
            assert_eq!(format.parse(key.expose().as_bytes()).as_ref(), Ok(key));
        }
        Err(reason) => {
            assert!(own.is_none() && !imported, "{reason}: {text:?}");
            // Words of the message may stand in the text; a key has a digit.
            let message = reason.to_string();
            let shown = text.len() >= 8 && contains(message.as_bytes(), &text);
            assert!(!shown || !text.iter().any(u8::is_ascii_digit), "{message}");
        }
    }
    assert!(format.has_prefix(&text) || own.is_none());
    assert!(own.is_none() || text.len() == format.key_bytes());
    if text.len() > 72 {
        assert_eq!(parsed, Err(MalformedKey::Length));
    }
    // One byte changed is never the same kind of key with the same id.
    if own.is_some() {
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] ^= 1;
            assert!(own_key(&changed, prefix).is_none());
            let same_id = format
                .parse(&changed)
                .is_ok_and(|key| Some(key.id()) == own);
            assert!(!same_id, "position {at}");
        }
    }
}
