//! The rules for single fields: type and bounds, with a message that names the field.

use serde_json::Value;

/// A configuration that cannot be used. Its text holds no value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// The field at fault; `configuration` for the object as a whole.
    pub field: String,
    /// The fault and its remedy.
    pub problem: String,
}

pub(super) fn error<T>(field: &str, problem: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError {
        field: field.to_owned(),
        problem: problem.into(),
    })
}

/// A rule as data.
#[cfg(not(target_family = "wasm"))]
#[derive(Debug)]
#[allow(missing_docs, reason = "the rules below say it")]
pub enum Kind {
    Boolean {
        default: bool,
    },
    Integer {
        least: u64,
        most: u64,
        step: u64,
        default: u64,
    },
    /// The first is the default.
    Choice(Vec<&'static str>),
    Text {
        most: usize,
        default: Option<&'static str>,
        required: bool,
    },
    List {
        most: usize,
        default: &'static [&'static str],
    },
}

/// A rule for reading a field's value. The rows of [`super::table`] are made of these.
pub(super) trait Rule {
    /// The value after reading.
    type Read;

    fn read(&self, given: Option<&Value>, field: &str) -> Result<Self::Read, ConfigError>;

    /// The same rule for the schema and the pages.
    #[cfg(not(target_family = "wasm"))]
    fn kind(&self) -> Kind;
}

/// True or false.
pub(super) struct Boolean {
    pub(super) default: bool,
}

impl Rule for Boolean {
    type Read = bool;

    fn read(&self, given: Option<&Value>, field: &str) -> Result<bool, ConfigError> {
        match given {
            None | Some(Value::Null) => Ok(self.default),
            Some(Value::Bool(given)) => Ok(*given),
            Some(_) => error(field, "must be true or false"),
        }
    }

    #[cfg(not(target_family = "wasm"))]
    fn kind(&self) -> Kind {
        Kind::Boolean {
            default: self.default,
        }
    }
}

/// A whole number within bounds. `300.0` is one as well: Envoy writes the numbers
/// of a `Struct` as doubles.
pub(super) struct Integer {
    pub(super) least: u64,
    pub(super) most: u64,
    /// The number is a multiple of this.
    pub(super) step: u64,
    pub(super) default: u64,
}

/// An [`Integer`] of any value within bounds.
pub(super) const fn integer(least: u64, most: u64, default: u64) -> Integer {
    Integer {
        least,
        most,
        step: 1,
        default,
    }
}

impl Rule for Integer {
    type Read = u64;

    fn read(&self, given: Option<&Value>, field: &str) -> Result<u64, ConfigError> {
        let given = match given {
            None | Some(Value::Null) => return Ok(self.default),
            Some(Value::Number(number)) => number.as_u64().or_else(|| {
                let float = number.as_f64()?;
                // Exact in this range, so the cast loses nothing.
                (float.fract() == 0.0 && (0.0..=1e15).contains(&float)).then_some(float as u64)
            }),
            Some(_) => None,
        };
        let allowed = |given: &u64| {
            (self.least..=self.most).contains(given) && given.is_multiple_of(self.step)
        };
        if let Some(given) = given.filter(allowed) {
            return Ok(given);
        }
        let Self {
            least, most, step, ..
        } = self;
        let mut problem = format!("must be a whole number from {least} to {most}");
        if *step > 1 {
            problem.push_str(&format!(" and a multiple of {step}"));
        }
        error(field, problem)
    }

    #[cfg(not(target_family = "wasm"))]
    fn kind(&self) -> Kind {
        Kind::Integer {
            least: self.least,
            most: self.most,
            step: self.step,
            default: self.default,
        }
    }
}

/// One of the named choices; the first is the default.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy> Rule for Choice<T> {
    type Read = T;

    fn read(&self, given: Option<&Value>, field: &str) -> Result<T, ConfigError> {
        let chosen = match given {
            None | Some(Value::Null) => self.0.first(),
            Some(given) => self.0.iter().find(|(name, _)| given.as_str() == Some(name)),
        };
        if let Some((_, chosen)) = chosen {
            return Ok(*chosen);
        }
        let names: Vec<String> = self
            .0
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        error(field, format!("must be {}", names.join(" or ")))
    }

    #[cfg(not(target_family = "wasm"))]
    fn kind(&self) -> Kind {
        Kind::Choice(self.0.iter().map(|(name, _)| *name).collect())
    }
}

/// A text that is not empty and has at most so many bytes, if the field is there.
pub(super) struct Text {
    pub(super) most: usize,
}

impl Rule for Text {
    type Read = Option<String>;

    fn read(&self, given: Option<&Value>, field: &str) -> Result<Option<String>, ConfigError> {
        let most = self.most;
        match given {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if (1..=most).contains(&text.len()) => Ok(Some(text.clone())),
            Some(_) => error(
                field,
                format!("must be a text, not empty, of at most {most} characters"),
            ),
        }
    }

    #[cfg(not(target_family = "wasm"))]
    fn kind(&self) -> Kind {
        Kind::Text {
            most: self.most,
            default: None,
            required: false,
        }
    }
}

/// A [`Text`] that must be there.
pub(super) struct Required {
    pub(super) most: usize,
}

impl Rule for Required {
    type Read = String;

    fn read(&self, given: Option<&Value>, field: &str) -> Result<String, ConfigError> {
        match (Text { most: self.most }).read(given, field)? {
            Some(text) => Ok(text),
            None => error(field, "is required"),
        }
    }

    #[cfg(not(target_family = "wasm"))]
    fn kind(&self) -> Kind {
        Kind::Text {
            most: self.most,
            default: None,
            required: true,
        }
    }
}

/// A [`Text`] of printable characters, with a default.
pub(super) struct Name {
    pub(super) most: usize,
    pub(super) default: &'static str,
}

impl Rule for Name {
    type Read = String;

    fn read(&self, given: Option<&Value>, field: &str) -> Result<String, ConfigError> {
        let Some(name) = (Text { most: self.most }).read(given, field)? else {
            return Ok(self.default.to_owned());
        };
        if name.chars().any(char::is_control) {
            return error(field, "must have printable characters alone");
        }
        Ok(name)
    }

    #[cfg(not(target_family = "wasm"))]
    fn kind(&self) -> Kind {
        Kind::Text {
            most: self.most,
            default: Some(self.default),
            required: false,
        }
    }
}

/// A list of at least one text and at most so many, each once.
pub(super) struct List {
    pub(super) most: usize,
    /// Whether a text may stand in the list.
    pub(super) allows: fn(&str) -> bool,
    /// The message for any other value.
    pub(super) problem: &'static str,
    pub(super) default: &'static [&'static str],
}

impl Rule for List {
    type Read = Vec<String>;

    fn read(&self, given: Option<&Value>, field: &str) -> Result<Vec<String>, ConfigError> {
        let Some(given) = given else {
            return Ok(self.default.iter().map(|&text| text.to_owned()).collect());
        };
        let given = given.as_array().map(Vec::as_slice).unwrap_or_default();
        if !(1..=self.most).contains(&given.len()) {
            return error(field, self.problem);
        }
        let mut listed: Vec<String> = Vec::with_capacity(given.len());
        for text in given {
            let text = text.as_str().unwrap_or_default();
            if !(self.allows)(text) || listed.iter().any(|known| known == text) {
                return error(field, self.problem);
            }
            listed.push(text.to_owned());
        }
        Ok(listed)
    }

    #[cfg(not(target_family = "wasm"))]
    fn kind(&self) -> Kind {
        Kind::List {
            most: self.most,
            default: self.default,
        }
    }
}

/// Whether a text is a header's name in lower case (RFC 9110, 5.1), and short.
pub(super) fn is_header_name(name: &str) -> bool {
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+.^_|~-".contains(&b);
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

/// Whether a text is an origin as browsers write it (RFC 6454, 6.2): scheme, host in
/// lower case and perhaps a port.
pub(super) fn is_origin(text: &str) -> bool {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or_default();
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b);
    (1..=255).contains(&host.len()) && host.bytes().all(allowed)
}
