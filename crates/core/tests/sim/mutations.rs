//! Breakages of the core, each of one invariant, for the proof that its checker sees it.
//!
//! The core that ships has no switch for tests. `scripts/sim.sh proofs` copies the sources, and this
//! module gives the copy a switch at each place of the list, so all mutations are compiled at once.
//! `proofs.rs`, which the copy alone compiles, turns on one at a time.

mod list;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

pub use list::MUTATIONS;

/// A way to break the core.
pub struct Mutation {
    pub name: &'static str,
    /// The number of the invariant that it breaks; 0: a good key is served.
    pub invariant: u8,
    pub edits: &'static [Edit],
}

/// A place of a mutation. Both snippets are expressions, or both statements with a `;` at the end.
pub struct Edit {
    /// Its path below the core's `src`.
    pub file: &'static str,
    /// Occurs once in the file.
    pub original: &'static str,
    pub mutated: &'static str,
}

impl Edit {
    /// Both snippets, with the switch between them.
    fn switched(&self, name: &str) -> String {
        let (original, mutated) = (self.original, self.mutated);
        let either =
            format!("if crate::mutation::is(\"{name}\") {{ {mutated} }} else {{ {original} }}");
        if original.ends_with(';') {
            either
        } else {
            format!("({either})")
        }
    }
}

/// The text of a file, with a switch at each place of the mutations.
///
/// # Errors
/// A mutation with a snippet that does not occur exactly once.
fn switched(file: &str, text: &str, mutations: &[Mutation]) -> Result<String, String> {
    let mut places = Vec::new();
    for Mutation { name, edits, .. } in mutations {
        for edit in edits.iter().filter(|edit| edit.file == file) {
            let found: Vec<_> = text.match_indices(edit.original).collect();
            let [(at, _)] = found[..] else {
                return Err(format!(
                    "mutation {name} no longer fits {file}: its snippet occurs {} times, not once: {}",
                    found.len(),
                    edit.original
                ));
            };
            places.push((at, *name, edit));
        }
    }
    // From the end on, so that the places before stay where they are.
    places.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
    let mut text = text.to_owned();
    for (at, name, edit) in places {
        text.replace_range(at..at + edit.original.len(), &edit.switched(name));
    }
    Ok(text)
}

/// Also writes the files with their switches, where `scripts/sim.sh proofs` names a copy of the core.
#[test]
fn every_mutation_fits_the_core() {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR"));
    let copy = crate::setting("SIM_MUTATED").map(PathBuf::from);
    let edits = MUTATIONS.iter().flat_map(|mutation| mutation.edits);
    for file in edits.map(|edit| edit.file).collect::<BTreeSet<_>>() {
        let path = Path::new("src").join(file);
        let text = fs::read_to_string(ours.join(&path)).unwrap_or_else(|error| {
            panic!("mutations no longer fit {file}: {error}");
        });
        let text = switched(file, &text, MUTATIONS).unwrap_or_else(|error| panic!("{error}"));
        if let Some(copy) = &copy {
            fs::write(copy.join(&path), text).unwrap();
        }
    }
}

#[test]
fn a_snippet_that_does_not_occur_once_is_an_error_that_names_its_mutation() {
    const BROKEN: [Mutation; 1] = [Mutation {
        name: "Broken",
        invariant: 1,
        edits: &[Edit {
            file: "a.rs",
            original: "a < b",
            mutated: "true",
        }],
    }];
    assert_eq!(
        switched("a.rs", "let c = a < b;", &BROKEN).unwrap(),
        "let c = (if crate::mutation::is(\"Broken\") { true } else { a < b });"
    );
    for (text, times) in [("a > b", "0"), ("a < b && a < b", "2")] {
        let error = switched("a.rs", text, &BROKEN).unwrap_err();
        let begin =
            format!("mutation Broken no longer fits a.rs: its snippet occurs {times} times");
        assert!(error.starts_with(&begin), "{error}");
    }
}

#[test]
fn every_invariant_has_a_mutation_and_every_mutation_a_name() {
    for number in 0..=14 {
        let breaks = |mutation: &Mutation| mutation.invariant == number;
        assert!(MUTATIONS.iter().any(breaks), "invariant {number} has none");
    }
    let names: BTreeSet<_> = MUTATIONS.iter().map(|mutation| mutation.name).collect();
    assert_eq!(names.len(), MUTATIONS.len(), "{names:?}");
}
