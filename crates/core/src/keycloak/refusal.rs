//! Keycloak's own words for a refusal.
//!
//! The admin interface explains a refusal in one of four forms:
//!
//! - `{"errors": [{"field", "errorMessage", "params"}, …]}`: several attributes of a user
//! - `{"field", "errorMessage", "params"}`: one attribute of a user
//! - `{"errorMessage"}`
//! - `{"error", "error_description"}`
//!
//! `params` can hold the value of an attribute (26.7.5: the e-mail address that is refused),
//! which may be private to a person. It is never read.

use serde_json::Value;

use super::loggable;

/// The most explanations that are kept of one answer: an owner can be refused for many
/// attributes.
const WORDS_MAX: usize = 5;
/// The longest name or message, in characters.
const TEXT_MAX: usize = 200;

/// A refusal of Keycloak's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The first explanations; none where the answer holds none.
    pub words: Vec<Words>,
}

/// One explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// The attribute that it is about.
    pub field: Option<String>,
    /// The message.
    pub message: String,
}

impl Refusal {
    /// Reads an answer; `body` is none where it is too large.
    #[must_use]
    pub fn read(status: u16, body: Option<&[u8]>) -> Self {
        let document: Value = body
            .and_then(|body| serde_json::from_slice(body).ok())
            .unwrap_or_default();
        let errors = match document.get("errors") {
            Some(Value::Array(errors)) => errors.as_slice(),
            _ => std::slice::from_ref(&document),
        };
        let words = errors.iter().filter_map(Words::read);
        let words = words.take(WORDS_MAX).collect();
        Self { status, words }
    }

    /// The attributes that it is about, each once.
    #[must_use]
    pub fn fields(&self) -> Vec<&str> {
        let mut fields: Vec<&str> = Vec::new();
        for field in self.words.iter().filter_map(|words| words.field.as_deref()) {
            if !fields.contains(&field) {
                fields.push(field);
            }
        }
        fields
    }

    /// The explanations as one line.
    #[must_use]
    pub fn told(&self) -> String {
        if self.words.is_empty() {
            return "no explanation in its answer".to_owned();
        }
        let words: Vec<String> = self.words.iter().map(Words::to_string).collect();
        words.join("; ")
    }

    /// The refusal as a log line may hold it.
    #[must_use]
    pub fn loggable(&self) -> String {
        let words = self.words.iter().map(|words| Words {
            field: words.field.as_deref().map(loggable),
            message: loggable(&words.message),
        });
        let logged = Self {
            words: words.collect(),
            ..*self
        };
        logged.to_string()
    }
}

impl Words {
    fn read(document: &Value) -> Option<Self> {
        let text = |name: &str| document.get(name).and_then(Value::as_str).map(printable);
        let message = match (
            text("errorMessage"),
            text("error"),
            text("error_description"),
        ) {
            (Some(message), _, _) => message,
            (None, Some(error), Some(description)) => format!("{error}: {description}"),
            (None, Some(error), None) => error,
            (None, None, _) => return None,
        };
        Some(Self {
            field: text("field"),
            message,
        })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keycloak answered {} ({})", self.status, self.told())
    }
}

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// A foreign text without control characters, and not too long.
fn printable(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> String {
        Refusal::read(400, Some(body.as_bytes())).to_string()
    }

    #[test]
    fn tells_keycloaks_words_in_each_of_its_forms() {
        for (body, words) in [
            (
                r#"{"errors":[{"field":"phone","errorMessage":"error-pattern-no-match","params":["phone","^[0-9]+$"]},
                    {"field":"dept","errorMessage":"error-user-attribute-required","params":["dept"]}]}"#,
                "phone: error-pattern-no-match; dept: error-user-attribute-required",
            ),
            (
                r#"{"field":"email","errorMessage":"error-invalid-email","params":["email","SECRET"]}"#,
                "email: error-invalid-email",
            ),
            (
                r#"{"errorMessage":"User is read only!"}"#,
                "User is read only!",
            ),
            (
                r#"{"error":"invalid_grant","error_description":"no"}"#,
                "invalid_grant: no",
            ),
            (r#"{"error":"Realm not found."}"#, "Realm not found."),
            ("{\"error\":\"a\\nb\\u001b[1m\"}", "ab[1m"),
            (r#"{"errorMessage":"gültig {0}"}"#, "gültig {0}"),
            ("<html>", "no explanation in its answer"),
            ("{}", "no explanation in its answer"),
            (r#"{"errors":[7,{}]}"#, "no explanation in its answer"),
        ] {
            assert_eq!(read(body), format!("Keycloak answered 400 ({words})"));
        }
        let unread = Refusal::read(413, None).to_string();
        assert!(unread.starts_with("Keycloak answered 413"), "{unread}");
    }

    #[test]
    fn names_each_attribute_once() {
        let body = r#"{"errors":[{"field":"a","errorMessage":"x"},{"errorMessage":"y"},
                       {"field":"b","errorMessage":"x"},{"field":"a","errorMessage":"z"}]}"#;
        let refusal = Refusal::read(400, Some(body.as_bytes()));
        assert_eq!(refusal.fields(), ["a", "b"]);
    }

    #[test]
    fn keeps_a_bounded_text_and_logs_nothing_that_could_be_a_token() {
        let long = "x ".repeat(5_000);
        let error = serde_json::json!({"field": long, "errorMessage": long});
        let many = serde_json::json!({ "errors": vec![error; 50] }).to_string();
        assert!(read(&many).len() < 2_500);
        let body = r#"{"field":"phone","errorMessage":"é eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9"}"#;
        let logged = Refusal::read(400, Some(body.as_bytes())).loggable();
        assert_eq!(logged, "Keycloak answered 400 (phone: (withheld))");
    }
}
