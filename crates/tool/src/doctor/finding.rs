//! One finding of `doctor`: a fault, and how to repair it.

use serde_json::{Value, json};

use crate::admin_error::printable;

/// The severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Everything works, and something should be looked at.
    Warning,
    /// Keys do not work, or more works than should.
    Error,
}

/// A fault in the realm.
#[derive(Debug, PartialEq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// The object of the realm, the owner or the key.
    pub(crate) subject: String,
    pub(crate) problem: String,
    /// How to repair it.
    pub(crate) advice: String,
}

impl Finding {
    pub(crate) fn error(subject: &str, problem: impl Into<String>, advice: &str) -> Self {
        Self::new(Level::Error, subject, problem.into(), advice)
    }

    pub(crate) fn warning(subject: &str, problem: impl Into<String>, advice: &str) -> Self {
        Self::new(Level::Warning, subject, problem.into(), advice)
    }

    fn new(level: Level, subject: &str, problem: String, advice: &str) -> Self {
        Self {
            level,
            subject: printable(subject),
            problem: printable(&problem),
            advice: printable(advice),
        }
    }

    pub(crate) fn text(&self) -> String {
        let level = match self.level {
            Level::Warning => "warning",
            Level::Error => "ERROR",
        };
        let advice = match self.advice.as_str() {
            "" => String::new(),
            advice => format!("\n         do: {advice}"),
        };
        format!("{level:<7}  {}: {}{advice}", self.subject, self.problem)
    }

    pub(crate) fn document(&self) -> Value {
        let level = match self.level {
            Level::Warning => "warning",
            Level::Error => "error",
        };
        json!({
            "level": level, "subject": self.subject, "problem": self.problem,
            "advice": self.advice,
        })
    }
}
