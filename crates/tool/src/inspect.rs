//! `apikeys inspect` and `apikeys hash`: read a key's parts from the key alone, without
//! Keycloak.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use apikeys_core::api_key::format::{
    CHECKSUM_LENGTH, ID_LENGTH, KeyFormat, MalformedKey, SECRET_LENGTH,
};
use serde_json::{Value, json};

use crate::args::{HashAlgorithm, HashCommandArgs, InspectArgs};
use crate::{key_source, new_key, output};

/// Length in bytes of a key of this project behind its prefix.
const BEHIND_PREFIX: usize = ID_LENGTH + 1 + SECRET_LENGTH + CHECKSUM_LENGTH;

/// Shows the form of a key, and its id.
pub(crate) fn run(args: &InspectArgs) -> Result<ExitCode> {
    let format = new_key::format(&args.key_prefix)?;
    let index_key = key_source::read_index_key(&args.index_key)?;
    let key = key_source::read_key(&args.key)?;
    let format = match &index_key {
        Some(index_key) => format.with_index_key(index_key),
        None => format,
    };
    let seen = Seen::of(key.as_bytes(), &format);
    let text = match args.output.is_json() {
        true => format!("{:#}", seen.document()),
        false => seen.table(),
    };
    output::result(&text)?;
    Ok(match seen.problem {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    })
}

/// Prints the hash of a key, as Keycloak stores it.
pub(crate) fn hash(args: &HashCommandArgs) -> Result<()> {
    let key = key_source::read_key(&args.key)?;
    // Accepts any text that could be an imported key: such keys have no other bounds.
    let any = new_key::format("any-")?.with_index_key(&[0; 32]);
    any.parse(key.as_bytes()).map_err(not_a_key)?;
    let hash = new_key::hash_text(key.as_bytes(), &args.hash)?;
    if args.output.is_json() {
        let algorithm = match args.hash.hash_algorithm {
            HashAlgorithm::Bcrypt => "bcrypt",
            HashAlgorithm::Sha256 => "sha256",
        };
        let document = json!({ "hash": hash, "hash_algorithm": algorithm });
        return Ok(output::result(&format!("{document:#}"))?);
    }
    Ok(output::result(&hash)?)
}

/// The error for a text that is no key, with the bounds.
pub(crate) fn not_a_key(why: MalformedKey) -> anyhow::Error {
    match why {
        MalformedKey::Length => anyhow!("a key has 16 to 72 bytes"),
        MalformedKey::Character => {
            anyhow!("a key has visible ASCII characters alone, and no comma")
        }
        other => anyhow!("{other}"),
    }
}

/// The parts of a key that show without its secret.
#[derive(Debug)]
struct Seen<'a> {
    bytes: usize,
    /// `generated`, `imported`, or `unknown`.
    form: &'static str,
    prefix: Option<&'a str>,
    id: Option<String>,
    checksum_is_right: Option<bool>,
    /// Why gateways refuse it.
    problem: Option<String>,
}

impl<'a> Seen<'a> {
    fn of(key: &'a [u8], format: &KeyFormat) -> Self {
        let own = OwnShape::of(key);
        let is_ours = own
            .as_ref()
            .is_some_and(|own| own.prefix == format.prefix());
        let (form, id, problem) = match (&own, format.parse(key)) {
            (Some(own), Ok(_)) if is_ours => ("generated", Some(own.id.to_owned()), None),
            (Some(own), Err(_)) if is_ours => {
                let problem = "the checksum is wrong: it was mistyped, cut or made up";
                let id = Some(own.id.to_owned());
                ("generated", id, Some(problem.to_owned()))
            }
            // An index key is given; without it, no other text is a key.
            (_, Ok(key)) => ("imported", Some(key.id().to_owned()), None),
            (Some(other), Err(_)) => {
                let problem = format!(
                    "it begins with {:?}, and the gateway's key_prefix is {:?} (--key-prefix)",
                    other.prefix,
                    format.prefix()
                );
                ("generated", Some(other.id.to_owned()), Some(problem))
            }
            (None, Err(MalformedKey::Shape)) => {
                let problem = "it is not of the shape of a key that this project makes; for the id \
                               of an imported one, give --index-key-file";
                ("unknown", None, Some(problem.to_owned()))
            }
            (None, Err(why)) => ("unknown", None, Some(not_a_key(why).to_string())),
        };
        Self {
            bytes: key.len(),
            form,
            prefix: own.as_ref().map(|own| own.prefix),
            id,
            checksum_is_right: own.as_ref().map(|own| own.checksum_is_right),
            problem,
        }
    }

    fn document(&self) -> Value {
        json!({
            "form": self.form,
            "bytes": self.bytes,
            "prefix": self.prefix,
            "key_id": self.id,
            "checksum": self.checksum(),
            "problem": self.problem,
        })
    }

    fn table(&self) -> String {
        let bytes = self.bytes.to_string();
        let mut rows = vec![("form", self.form), ("bytes", &bytes)];
        rows.extend(self.prefix.map(|prefix| ("prefix", prefix)));
        rows.extend(self.id.as_deref().map(|id| ("key id", id)));
        rows.extend(self.checksum().map(|checksum| ("checksum", checksum)));
        let verdict = match &self.problem {
            None => "it can be a key; whether it is one, Keycloak knows: apikeys show KEY_ID",
            Some(problem) => problem,
        };
        rows.push(("", verdict));
        output::table(&rows)
    }

    fn checksum(&self) -> Option<&'static str> {
        self.checksum_is_right.map(|is_right| match is_right {
            true => "right",
            false => "wrong",
        })
    }
}

/// A text of the shape of keys made here, under any prefix.
struct OwnShape<'a> {
    prefix: &'a str,
    id: &'a str,
    checksum_is_right: bool,
}

impl<'a> OwnShape<'a> {
    fn of(key: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(key).ok()?;
        let (prefix, rest) = text.split_at_checked(text.len().checked_sub(BEHIND_PREFIX)?)?;
        let (id, _) = rest.split_at_checked(ID_LENGTH)?;
        let checksum_is_right = match KeyFormat::new(prefix).ok()?.parse(key) {
            Ok(_) => true,
            Err(MalformedKey::Checksum) => false,
            Err(_) => return None,
        };
        Some(Self {
            prefix,
            id,
            checksum_is_right,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(prefix: &str) -> KeyFormat {
        KeyFormat::new(prefix).unwrap()
    }

    fn key() -> apikeys_core::api_key::format::ApiKey {
        let mut count = 0_u8;
        format("sk_live_").generate(|bytes| {
            for byte in bytes {
                count = count.wrapping_add(7);
                *byte = count;
            }
        })
    }

    #[test]
    fn a_key_of_ours_is_told_with_its_id_and_its_checksum() {
        let key = key();
        let seen = Seen::of(key.expose().as_bytes(), &format("sk_live_"));
        assert_eq!(
            seen.document(),
            json!({"form": "generated", "bytes": 59, "prefix": "sk_live_", "key_id": key.id(),
                   "checksum": "right", "problem": null})
        );
        assert!(!seen.table().contains(key.expose()));
    }

    #[test]
    fn a_mistyped_key_keeps_its_id_and_a_cut_one_has_none() {
        let key = key();
        let mut text = key.expose().to_owned();
        let last = text.pop().unwrap();
        text.push(if last == '0' { '1' } else { '0' });
        let seen = Seen::of(text.as_bytes(), &format("sk_live_"));
        assert_eq!(seen.id.as_deref(), Some(key.id()));
        assert_eq!(seen.checksum(), Some("wrong"));
        assert!(seen.problem.unwrap().contains("mistyped"));
        let cut = Seen::of(&text.as_bytes()[..58], &format("sk_live_"));
        assert_eq!((cut.form, cut.id), ("unknown", None));
        assert!(cut.problem.unwrap().contains("--index-key-file"));
    }

    #[test]
    fn a_key_of_another_prefix_is_told_to_be_one() {
        let key = key();
        let seen = Seen::of(key.expose().as_bytes(), &format("sk_test_"));
        assert_eq!(seen.id.as_deref(), Some(key.id()));
        assert!(seen.problem.unwrap().contains("\"sk_live_\""));
    }

    #[test]
    fn an_imported_key_has_the_id_that_the_gateway_derives() {
        let format = format("sk_live_").with_index_key(&[7; 32]);
        let text = b"an-old-key-of-another-system";
        let seen = Seen::of(text, &format);
        assert_eq!(seen.form, "imported");
        assert_eq!(seen.id.as_deref(), Some(format.parse(text).unwrap().id()));
        assert_eq!((seen.prefix, seen.problem), (None, None));
        for (text, words) in [
            (b"short".as_slice(), "16 to 72"),
            (b"with a space in the middle", "visible"),
            (&[b'a'; 73], "16 to 72"),
        ] {
            let seen = Seen::of(text, &format);
            assert_eq!((seen.form, seen.id), ("unknown", None));
            assert!(seen.problem.unwrap().contains(words));
        }
    }
}
