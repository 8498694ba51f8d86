//! Readers of single fields: type and bounds, with a message that names the field.

use serde_json::Value;

/// A configuration that cannot be used. Its text holds no value of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// The field at fault; `configuration` for the object as a whole.
    pub field: String,
    /// What is wrong and what to write instead.
    pub problem: String,
}

pub(super) fn error<T>(field: &str, problem: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError {
        field: field.to_owned(),
        problem: problem.into(),
    })
}

/// The longest text of most fields.
const TEXT_MAX: usize = 255;
/// The fields that may be longer.
const LONGER_TEXTS: [(&str, usize); 6] = [
    ("keycloak_url", 2048),
    ("keycloak_upstream", 263),
    ("management_signing_key", 16_384),
    ("scope", 1024),
    ("signing_key", 16_384),
    ("yield_upstream", 263),
];

/// A text that is not empty and not too long, if the field is there.
pub(super) fn text(value: Option<&Value>, field: &str) -> Result<Option<String>, ConfigError> {
    let longer = LONGER_TEXTS.iter().find(|(name, _)| *name == field);
    let max = longer.map_or(TEXT_MAX, |(_, max)| *max);
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if (1..=max).contains(&text.len()) => Ok(Some(text.clone())),
        Some(_) => error(
            field,
            format!("must be a text, not empty, of at most {max} characters"),
        ),
    }
}

/// A text of printable characters, with a default.
pub(super) fn name_or(
    value: Option<&Value>,
    field: &str,
    default: &str,
) -> Result<String, ConfigError> {
    let name = text_or(value, field, default)?;
    if name.chars().any(char::is_control) {
        return error(field, "must have printable characters alone");
    }
    Ok(name)
}

pub(super) fn text_or(
    value: Option<&Value>,
    field: &str,
    default: &str,
) -> Result<String, ConfigError> {
    Ok(text(value, field)?.unwrap_or_else(|| default.to_owned()))
}

pub(super) fn required(value: Option<&Value>, field: &str) -> Result<String, ConfigError> {
    match text(value, field)? {
        Some(text) => Ok(text),
        None => error(field, "is required"),
    }
}

pub(super) fn boolean(
    value: Option<&Value>,
    field: &str,
    default: bool,
) -> Result<bool, ConfigError> {
    match value {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(given)) => Ok(*given),
        Some(_) => error(field, "must be true or false"),
    }
}

/// A whole number within bounds. `300.0` is one as well: Envoy writes the numbers
/// of a `Struct` as doubles.
pub(super) fn integer(
    value: Option<&Value>,
    field: &str,
    bounds: std::ops::RangeInclusive<u64>,
    default: u64,
) -> Result<u64, ConfigError> {
    let given = match value {
        None | Some(Value::Null) => return Ok(default),
        Some(Value::Number(number)) => number.as_u64().or_else(|| {
            let float = number.as_f64()?;
            // Exact in this range, so the cast loses nothing.
            (float.fract() == 0.0 && (0.0..=1e15).contains(&float)).then_some(float as u64)
        }),
        Some(_) => None,
    };
    match given.filter(|given| bounds.contains(given)) {
        Some(given) => Ok(given),
        None => error(
            field,
            format!(
                "must be a whole number from {} to {}",
                bounds.start(),
                bounds.end()
            ),
        ),
    }
}

pub(super) fn small(
    value: Option<&Value>,
    field: &str,
    bounds: std::ops::RangeInclusive<u64>,
    default: u64,
) -> Result<u32, ConfigError> {
    Ok(u32::try_from(integer(value, field, bounds, default)?).unwrap_or(u32::MAX))
}

/// A number of seconds within bounds, as milliseconds. Bounds and default are in seconds.
pub(super) fn milliseconds(
    value: Option<&Value>,
    field: &str,
    bounds: std::ops::RangeInclusive<u64>,
    default: u64,
) -> Result<u64, ConfigError> {
    Ok(1000 * integer(value, field, bounds, default)?)
}

/// One of the named choices; the first is the default.
pub(super) fn one_of<T: Copy>(
    value: Option<&Value>,
    field: &str,
    choices: &[(&str, T)],
) -> Result<T, ConfigError> {
    let chosen = match value {
        None | Some(Value::Null) => choices.first(),
        Some(value) => choices
            .iter()
            .find(|(name, _)| value.as_str() == Some(name)),
    };
    if let Some((_, chosen)) = chosen {
        return Ok(*chosen);
    }
    let names: Vec<String> = choices
        .iter()
        .map(|(name, _)| format!("\"{name}\""))
        .collect();
    error(field, format!("must be {}", names.join(" or ")))
}
