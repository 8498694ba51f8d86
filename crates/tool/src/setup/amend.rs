//! Sets single fields of an object, and records the differences.

use std::fmt;

use serde_json::{Value, json};

/// The required value of one field.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) path: Vec<&'static str>,
    pub(crate) value: Value,
    /// Description of the old and of the new value, when the values say little.
    pub(crate) is: Option<String>,
    pub(crate) becomes: Option<String>,
    pub(crate) why: &'static str,
}

impl Setting {
    pub(crate) fn new(path: &[&'static str], value: Value, why: &'static str) -> Self {
        Self {
            path: path.to_vec(),
            value,
            is: None,
            becomes: None,
            why,
        }
    }
}

/// Changes the fields of an object that differ from their settings, and no others.
pub(crate) fn amend(object: &mut Value, settings: &[Setting]) -> Vec<Change> {
    let mut changes = Vec::new();
    for setting in settings {
        let is = lookup(object, &setting.path);
        if is == Some(&setting.value) {
            continue;
        }
        changes.push(Change {
            field: setting.path.last().copied().unwrap_or_default().to_owned(),
            is: setting.is.clone().unwrap_or_else(|| shown(is)),
            becomes: setting
                .becomes
                .clone()
                .unwrap_or_else(|| shown(Some(&setting.value))),
            why: setting.why,
        });
        set(object, &setting.path, &setting.value);
    }
    changes
}

pub(crate) fn lookup<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |at, name| at.get(name))
}

pub(crate) fn set(object: &mut Value, path: &[&str], value: &Value) {
    if !object.is_object() {
        *object = json!({});
    }
    if let (Some(members), Some((name, rest))) = (object.as_object_mut(), path.split_first()) {
        let member = members.entry(*name).or_insert(Value::Null);
        match rest {
            [] => *member = value.clone(),
            rest => set(member, rest, value),
        }
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "not set".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// One difference: the field, its old value, its new value and the reason.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) field: String,
    pub(crate) is: String,
    pub(crate) becomes: String,
    pub(crate) why: &'static str,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} -> {} ({})",
            self.field, self.is, self.becomes, self.why
        )
    }
}
