//! From method and path to an operation.

use percent_encoding::percent_decode_str;

use super::problem::{Code, Problem};

/// The root of the management API, below any path of the gateway.
const BASE: &str = "/api/v1/";
/// The longest id of a key in a path: other tools may use other ids than ours.
const ID_LENGTH_MAX: usize = 64;

/// An operation of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Make a key.
    Create,
    /// List the owner's keys.
    List,
    /// Show one.
    Show(String),
    /// Change one.
    Update(String),
    /// End one.
    Revoke(String),
    /// End all of the owner's.
    RevokeAll,
    /// Replace one.
    Rotate(String),
    /// Exchange a key for a token.
    Validate,
    /// The description of the API.
    OpenApi,
    /// A browser asks whether its origin may call (CORS). Holds the methods of the path.
    Preflight(&'static str),
}

impl Operation {
    /// Whether the request must carry a body.
    #[must_use]
    pub const fn takes_a_body(&self) -> bool {
        matches!(
            self,
            Self::Create | Self::Update(_) | Self::Rotate(_) | Self::Validate
        )
    }

    /// The id of the key that it concerns, as it was sent.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        match self {
            Self::Show(id) | Self::Update(id) | Self::Revoke(id) | Self::Rotate(id) => Some(id),
            _ => None,
        }
    }

    /// Its name, for the log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::List => "list",
            Self::Show(_) => "show",
            Self::Update(_) => "update",
            Self::Revoke(_) => "revoke",
            Self::RevokeAll => "revoke_all",
            Self::Rotate(_) => "rotate",
            Self::Validate => "validate",
            Self::OpenApi => "openapi",
            Self::Preflight(_) => "preflight",
        }
    }
}

/// The parameters of the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The owner that an administrator acts for.
    pub user_id: Option<String>,
    /// How many keys a page holds.
    pub limit: usize,
    /// The last key of the page before.
    pub after: Option<String>,
}

/// Keys on a page, unless another number is asked for.
const PAGE: usize = 20;
/// Keys on a page at most.
const PAGE_MAX: usize = 100;

/// Finds the operation of a request.
///
/// # Errors The refusal: no such path, not this method, or not a query of this operation.
pub fn route(method: &str, path: &str) -> Result<(Operation, Query), Problem> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let Some((_, below)) = path.split_once(BASE) else {
        return Err(Code::NotFound.into());
    };
    let segments: Vec<&str> = below.split('/').collect();
    let operation = match segments.as_slice() {
        ["openapi.json"] => choose(method, &[("GET", Operation::OpenApi)], "GET")?,
        ["api-keys"] => choose(
            method,
            &[
                ("GET", Operation::List),
                ("POST", Operation::Create),
                ("DELETE", Operation::RevokeAll),
            ],
            "GET, POST, DELETE",
        )?,
        ["api-keys", "validate"] => choose(method, &[("POST", Operation::Validate)], "POST")?,
        ["api-keys", id] if is_key_id(id) => choose(
            method,
            &[
                ("GET", Operation::Show((*id).to_owned())),
                ("PATCH", Operation::Update((*id).to_owned())),
                ("DELETE", Operation::Revoke((*id).to_owned())),
            ],
            "GET, PATCH, DELETE",
        )?,
        ["api-keys", id, "rotate"] if is_key_id(id) => choose(
            method,
            &[("POST", Operation::Rotate((*id).to_owned()))],
            "POST",
        )?,
        _ => return Err(Code::NotFound.into()),
    };
    let query = read_query(query, &operation)?;
    Ok((operation, query))
}

fn choose(
    method: &str,
    choices: &[(&str, Operation)],
    allow: &'static str,
) -> Result<Operation, Problem> {
    if method == "OPTIONS" {
        return Ok(Operation::Preflight(allow));
    }
    let found = choices.iter().find(|(name, _)| *name == method);
    found
        .map(|(_, operation)| operation.clone())
        .ok_or_else(|| Code::MethodNotAllowed(allow).into())
}

fn is_key_id(text: &str) -> bool {
    (1..=ID_LENGTH_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn read_query(text: &str, operation: &Operation) -> Result<Query, Problem> {
    let mut query = Query {
        user_id: None,
        limit: PAGE,
        after: None,
    };
    let invalid = |detail: &'static str| Err(Problem::new(Code::InvalidRequest, detail));
    let mut seen: Vec<&str> = Vec::new();
    let mut all = false;
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Ok(value) = percent_decode_str(value).decode_utf8() else {
            return invalid("A parameter of the query is not UTF-8.");
        };
        if seen.contains(&name) {
            return invalid("A parameter of the query is there twice.");
        }
        seen.push(name);
        let of_an_owner = !matches!(
            operation,
            Operation::Validate | Operation::OpenApi | Operation::Preflight(_)
        );
        match name {
            "user_id" if of_an_owner => {
                if !crate::keycloak::users::is_user_id(&value) {
                    return invalid("user_id must be Keycloak's id of a user.");
                }
                query.user_id = Some(value.into_owned());
            }
            "limit" if *operation == Operation::List => {
                let digits = value.bytes().all(|b| b.is_ascii_digit());
                match value.parse() {
                    Ok(limit) if digits && (1..=PAGE_MAX).contains(&limit) => query.limit = limit,
                    _ => return invalid("limit must be a whole number from 1 to 100."),
                }
            }
            "all" if *operation == Operation::RevokeAll => all = value == "true",
            "after" if *operation == Operation::List => {
                if !is_key_id(&value) {
                    return invalid("after must be the id of a key.");
                }
                query.after = Some(value.into_owned());
            }
            _ if matches!(operation, Operation::Preflight(_)) => {}
            _ => {
                return invalid(
                    "The query has a parameter that this path does not take; there are user_id, \
                     for the list limit and after, and for the end of all keys all.",
                );
            }
        }
    }
    // A client that has lost a key's id by mistake asks for this path.
    if *operation == Operation::RevokeAll && !all {
        return invalid("To end all keys of the owner takes all=true; to end one, its id.");
    }
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(method: &str, path: &str) -> Result<Operation, Code> {
        match route(method, path) {
            Ok((operation, _)) => Ok(operation),
            Err(problem) => Err(problem.code),
        }
    }

    #[test]
    fn each_operation_has_its_method_and_path() {
        let id = "abc123def456";
        for (method, path, expected) in [
            ("POST", "/api/v1/api-keys", Operation::Create),
            ("GET", "/api/v1/api-keys", Operation::List),
            ("GET", "/gw/api/v1/api-keys?limit=3", Operation::List),
            (
                "GET",
                "/api/v1/api-keys/abc123def456",
                Operation::Show(id.into()),
            ),
            (
                "DELETE",
                "/api/v1/api-keys/abc123def456?user_id=u-1",
                Operation::Revoke(id.into()),
            ),
            (
                "PATCH",
                "/api/v1/api-keys/abc123def456",
                Operation::Update(id.into()),
            ),
            (
                "POST",
                "/api/v1/api-keys/abc123def456/rotate",
                Operation::Rotate(id.into()),
            ),
            ("POST", "/api/v1/api-keys/validate", Operation::Validate),
            (
                "DELETE",
                "/api/v1/api-keys?all=true&user_id=u-1",
                Operation::RevokeAll,
            ),
            ("GET", "/api/v1/openapi.json", Operation::OpenApi),
            (
                "OPTIONS",
                "/api/v1/api-keys",
                Operation::Preflight("GET, POST, DELETE"),
            ),
            (
                "OPTIONS",
                "/api/v1/api-keys/validate",
                Operation::Preflight("POST"),
            ),
        ] {
            assert_eq!(operation(method, path), Ok(expected), "{method} {path}");
        }
    }

    #[test]
    fn other_methods_are_told_what_is_allowed_and_other_paths_nothing() {
        for (method, path, allow) in [
            ("PUT", "/api/v1/api-keys", "GET, POST, DELETE"),
            ("HEAD", "/api/v1/api-keys", "GET, POST, DELETE"),
            ("PUT", "/api/v1/api-keys/abc", "GET, PATCH, DELETE"),
            ("PATCH", "/api/v1/api-keys", "GET, POST, DELETE"),
            ("GET", "/api/v1/api-keys/abc/rotate", "POST"),
            ("GET", "/api/v1/api-keys/validate", "POST"),
            ("POST", "/api/v1/openapi.json", "GET"),
            ("get", "/api/v1/api-keys", "GET, POST, DELETE"),
        ] {
            assert_eq!(
                operation(method, path),
                Err(Code::MethodNotAllowed(allow)),
                "{method} {path}"
            );
        }
        for path in [
            "/",
            "",
            "*",
            "/api/v1/",
            "/api/v1/api-keys/",
            "/api/v1/api-keys/a%2Fb",
            "/api/v1/api-keys/a.b",
            "/api/v1/api-keys/abc/rotate/",
            "/api/v1/api-keys/abc/other",
            "/api/v2/api-keys",
            "/orders",
        ] {
            assert_eq!(operation("GET", path), Err(Code::NotFound), "{path}");
        }
        let long = format!("/api/v1/api-keys/{}", "a".repeat(65));
        assert_eq!(operation("GET", &long), Err(Code::NotFound));
    }

    #[test]
    fn a_query_is_read_and_an_odd_one_is_refused() {
        let query = |text: &str| {
            route("GET", &format!("/api/v1/api-keys?{text}"))
                .map(|(_, query)| query)
                .map_err(|problem| problem.code)
        };
        assert_eq!(
            query("user_id=f%3A1-a%3Abob&limit=7&after=abc"),
            Ok(Query {
                user_id: Some("f:1-a:bob".into()),
                limit: 7,
                after: Some("abc".into())
            })
        );
        assert_eq!(query("").unwrap().limit, 20);
        for odd in [
            "limit=0",
            "limit=101",
            "limit=x",
            "limit=1&limit=2",
            "user_id=",
            "user_id=a/../b",
            "user_id=..",
            "user_id=%ff",
            "after=a/b",
            "other=1",
        ] {
            assert_eq!(query(odd), Err(Code::InvalidRequest), "{odd}");
        }
        let show = route("GET", "/api/v1/api-keys/abc?limit=1");
        assert!(show.is_err());
        assert!(route("POST", "/api/v1/api-keys/validate?user_id=u-1").is_err());
    }
}
