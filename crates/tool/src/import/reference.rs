//! Tells an unresolved reference from a key. A file may have been taken before a template or
//! a tool filled its keys in, and everybody with the file knows such a reference.
//!
//! A key is any visible text, so each form below is one that a real key hardly has: marks in
//! pairs with only a name between them. Where a mark has no pair, or may stand anywhere in
//! the text, the name must be in letters of one case. A handful of a hundred thousand random
//! keys look like a reference: a test counts them.

/// The marks around a variable's name, anywhere in a text.
const AROUND_A_VARIABLE: [(&str, &str); 3] = [("${", "}"), ("$(", ")"), ("#{", "}")];
/// The marks around an expression of names, anywhere in a text.
const AROUND_NAMES: [(&str, &str); 4] = [("{{", "}}"), ("((", "))"), ("[[", "]]"), ("<%", "%>")];
/// The marks around a text that is otherwise a name.
const AROUND_ALL: [(&str, &str); 7] = [
    ("${", "}"),
    ("$(", ")"),
    ("#{", "}"),
    ("%", "%"),
    ("<", ">"),
    ("@", "@"),
    ("__", "__"),
];

/// Whether the text is, or contains, a reference.
pub(super) fn is_reference(text: &str) -> bool {
    is_address(text)
        || text.strip_prefix('$').is_some_and(is_name_of_one_case)
        || AROUND_ALL
            .iter()
            .filter_map(|(begin, end)| text.strip_prefix(begin)?.strip_suffix(end))
            .any(is_name)
        || AROUND_A_VARIABLE
            .iter()
            .any(|marks| within(text, marks).any(is_variable))
        || AROUND_NAMES
            .iter()
            .any(|marks| within(text, marks).any(is_of_names))
}

/// The texts between each opening mark and the next closing mark.
fn within<'a>(text: &'a str, marks: &(&str, &str)) -> impl Iterator<Item = &'a str> {
    let (begin, end) = *marks;
    let after = text.match_indices(begin);
    after.filter_map(move |(at, _)| {
        let rest = text.get(at + begin.len()..)?;
        Some(rest.split_once(end)?.0).filter(|inside| !inside.is_empty())
    })
}

/// `scheme://…`, and Kong's `{vault://…}`.
fn is_address(text: &str) -> bool {
    let scheme = text.strip_prefix('{').unwrap_or(text).split_once("://");
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    scheme.is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(allowed)
    })
}

fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(allowed)
}

/// Whether the text has only names, and the signs between names in an expression.
fn is_of_names(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b" _-.=|\"'$/".contains(&byte);
    text.bytes().all(allowed)
}

/// Whether the text is a variable's name, alone or with a default: `NAME:-default`.
fn is_variable(text: &str) -> bool {
    let at = text.find([':', '-', '+', '?', '=']).unwrap_or(text.len());
    let (name, rest) = text.split_at(at);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:+?=".contains(&byte);
    name.len() > 2 && is_name_of_one_case(name) && rest.bytes().all(allowed)
}

fn is_name_of_one_case(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let begins = |first: char| first.is_ascii_alphabetic() || first == '_';
    text.starts_with(begins)
        && text.bytes().all(allowed)
        && !(text.contains(|c: char| c.is_ascii_lowercase())
            && text.contains(|c: char| c.is_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha12Rng;

    #[test]
    fn of_keys_at_random_hardly_one_looks_like_a_reference() {
        let mut random = ChaCha12Rng::seed_from_u64(20);
        let visible: Vec<char> = ('!'..='~').filter(|c| *c != ',').collect();
        let mistaken = (0..100_000)
            .filter(|nth| {
                let length = 16 + nth % 57;
                let text = (0..length).map(|_| visible[random.random_range(0..visible.len())]);
                is_reference(&text.collect::<String>())
            })
            .count();
        assert!(mistaken <= 20, "{mistaken} of 100000");
    }
}
