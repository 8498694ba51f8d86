//! Holds the rules of the house that no compiler and no lint knows.
//!
//! Cargo decides which crate may use which. Beyond that, this file keeps the core pure, and its
//! rooms in order. A rule that nobody checks is forgotten by the third change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use regex::Regex;
use test_kit::markdown;
use test_kit::markdown::{links, prose};
use test_kit::repository::{read, root};

/// Names that the core may not use, and why. It cannot name the SDK, a logger and a source of
/// randomness: its Cargo.toml has none.
const IMPURE: [(&str, &str); 11] = [
    ("std::time", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("Instant", "time is an argument"),
    ("now_utc", "time is an argument"),
    ("std::env", "what an environment holds is an argument"),
    ("std::fs", "the core does no I/O"),
    ("std::io", "the core does no I/O"),
    ("std::net", "the core does no I/O"),
    ("std::process", "the core does no I/O"),
    ("std::thread", "a machine is led by its caller"),
    ("print", "what is to be told is an output"),
];

/// The core's sources.
const CORE: &str = "crates/core/src/";

/// The folders whose files use each other in no circle: what ships.
const UNTIED: [&str; 2] = [CORE, "src/"];

/// The most entries of the project's folder, so that a newcomer finds the door.
const ENTRIES_MAX: usize = 20;

/// The rooms of the core, each of which may use only those before it. So a room can be read,
/// tested and taken out without those behind it.
const ROOMS: [&str; 21] = [
    "clock",
    "signing_key",
    "mac",
    "key_random",
    "trace",
    "build_info",
    "api_key",
    "config",
    "keycloak",
    "machine",
    "rejection",
    "store",
    "revocation",
    "cache",
    "calls",
    "usage",
    "exchange",
    "audit",
    "background",
    "metrics",
    "manage",
];

/// The lock files that cargo writes, with the address of the index in them, each with its least
/// number of packages.
const LOCKS: [(&str, usize); 3] = [
    ("Cargo.lock", 20),
    ("crates/bench/noop_filter/Cargo.lock", 5),
    ("crates/core/fuzz/Cargo.lock", 20),
];

#[test]
fn the_core_names_no_host_and_does_no_io() {
    let mut seen = 0;
    for path in tracked() {
        if !is_rust(&path) || !path.starts_with(CORE) {
            continue;
        }
        seen += 1;
        let text = read(&path);
        for (number, line) in text.lines().enumerate() {
            if let Some((name, why)) = IMPURE.iter().find(|(name, _)| names(code_of(line), name)) {
                panic!("{path}:{}: {name}: {why}\n    {line}", number + 1);
            }
        }
    }
    assert!(seen >= 20, "only {seen} files of the core were found");
}

#[test]
fn a_room_of_the_core_uses_those_before_it_alone() {
    let mut seen = BTreeSet::new();
    for path in tracked() {
        if !is_rust(&path) || !path.starts_with(CORE) || is_cut_off_tests(&path) {
            continue;
        }
        let room = path[CORE.len()..].split(['/', '.']).next().unwrap();
        if ["lib", "test_support"].contains(&room) {
            continue;
        }
        let place = |name: &str| ROOMS.iter().position(|known| *known == name);
        let here = place(room).unwrap_or_else(|| panic!("{path}: a room that ROOMS lacks"));
        seen.insert(room.to_owned());
        let text = read(&path);
        for (number, line) in shipped(&text).lines().enumerate() {
            for (at, _) in code_of(line).match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let other = rest
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next();
                let other = other.unwrap_or_default();
                let there = place(other).unwrap_or_else(|| panic!("{path}: crate::{other}"));
                assert!(
                    there <= here,
                    "{path}:{}: {room} uses {other}, which comes after it",
                    number + 1
                );
            }
        }
    }
    assert_eq!(seen.len(), ROOMS.len(), "each room is there: {seen:?}");
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    for folder in UNTIED {
        let mut files = BTreeMap::new();
        for path in tracked() {
            let Some(name) = path.strip_prefix(folder).filter(|_| is_rust(&path)) else {
                continue;
            };
            if !is_cut_off_tests(&path) && !path.contains("/tests/") {
                let module = name.trim_end_matches(".rs").trim_end_matches("/mod");
                let module = module.trim_start_matches("lib").replace('/', "::");
                files.insert(module, shipped(&read(&path)).to_owned());
            }
        }
        assert!(files.len() > 10, "{folder}: {} files", files.len());
        assert_eq!(circles(&files), Vec::<String>::new(), "{folder}");
    }
}

#[test]
fn a_circle_of_files_is_seen_in_groups_of_names_and_in_paths() {
    let files = [
        ("", "mod a; mod b; fn f() { a::g() }"),
        ("a", "use crate::{b::{c::One, Two}, d::Three};"),
        ("b", "mod c;"),
        ("b::c", "use super::Two; fn g() { super::super::a::g() }"),
        ("d", "// crate::a\nuse std::fmt;"),
    ];
    let files = files.map(|(module, text)| (module.to_owned(), text.to_owned()));
    assert_eq!(circles(&files.into()), ["a uses b::c", "b::c uses a"]);
}

/// The table of rooms has each, in the order that is held above, and the page stays one that
/// is read in a sitting.
#[test]
fn the_architecture_lists_the_rooms_in_their_order_and_stays_short() {
    let text = read("ARCHITECTURE.md");
    let rows = markdown::table(&text, "| Room (`crates/core/src/`) |");
    let rooms: Vec<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    assert_eq!(rooms, ROOMS);
    let lines = text.lines().count();
    assert!(lines <= 250, "ARCHITECTURE.md has {lines} lines");
}

#[test]
fn the_projects_folder_holds_no_more_than_one_takes_in() {
    let paths = tracked();
    let entries: BTreeSet<&str> = paths
        .iter()
        .filter_map(|path| path.split('/').next())
        .collect();
    let count = entries.len();
    assert!(count <= ENTRIES_MAX, "{count} entries: {entries:?}");
}

#[test]
fn every_module_begins_with_what_it_is() {
    for path in tracked() {
        if !is_rust(&path) || is_cut_off_tests(&path) {
            continue;
        }
        let text = read(&path);
        let first = text.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("//! ") && first.len() > 10,
            "{path}: begin with //! and one line that says what the module is"
        );
    }
}

#[test]
fn no_test_is_skipped_and_no_exception_lacks_its_reason() {
    let ignore = concat!("#[", "ignore");
    let allow = concat!("[", "allow(");
    for path in tracked() {
        if !is_rust(&path) {
            continue;
        }
        let text = read(&path);
        assert!(
            !text.contains(ignore),
            "{path}: a test is skipped in silence"
        );
        for (at, _) in text.match_indices(allow) {
            let end = text[at..].find(")]").expect("an attribute ends");
            assert!(
                text[at..at + end].contains("reason = "),
                "{path}: an exception to a lint without its reason: {}",
                &text[at..at + end]
            );
        }
    }
}

#[test]
fn nothing_names_this_machine_or_a_package_registry() {
    // In parts, so that this file does not name them either.
    let machine = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
    ];
    let registries = [
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("pythonhosted", ".org"),
        concat!("maven", ".org"),
        concat!("maven.apache", ".org"),
        concat!("npmjs", ".org"),
        concat!("deb.debian", ".org"),
        concat!("docker", ".io"),
        concat!("ghcr", ".io"),
        concat!("quay", ".io"),
    ];
    for path in tracked() {
        let Some(text) = read_text(&path) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let at = format!("{path}:{}", number + 1);
            for name in machine {
                // Not in the middle of a relative path, as in a URL of Keycloak's.
                let begins = |(at, _): (usize, &str)| {
                    !line[..at].ends_with(|before: char| before.is_ascii_alphanumeric())
                };
                assert!(
                    !line.match_indices(name).any(begins),
                    "{at}: a path of one machine\n    {line}"
                );
            }
            if LOCKS.iter().any(|(lock, _)| *lock == path) {
                continue;
            }
            for name in registries {
                assert!(
                    !line.contains(name),
                    "{at}: which registry is asked is the matter of whoever builds\n    {line}"
                );
            }
        }
    }
}

#[test]
fn every_dependency_comes_from_the_public_index() {
    let index = format!(
        "source = \"registry+https://github.com/rust-lang/{}-index\"",
        concat!("crates", ".io")
    );
    for (path, more_than) in LOCKS {
        let lock = read(path);
        let sources = lock.lines().filter(|line| line.starts_with("source = "));
        let mut count = 0;
        for source in sources {
            assert_eq!(source, index, "{path}");
            count += 1;
        }
        assert!(count > more_than, "{path}");
    }
}

#[test]
fn every_make_target_that_is_documented_exists() {
    let targets: BTreeSet<String> = targets().into_iter().map(|(name, _)| name).collect();
    let mut documented = BTreeSet::new();
    for path in documents() {
        for code in code_spans(&read(&path)) {
            let words: Vec<&str> = code.split_whitespace().collect();
            for pair in words.windows(2) {
                let is_target = !pair[1].is_empty() && pair[1].bytes().all(is_target_byte);
                if pair[0] == "make" && is_target {
                    assert!(
                        targets.contains(pair[1]),
                        "{path}: `make {}` is no target of the Makefile",
                        pair[1]
                    );
                    documented.insert(pair[1].to_owned());
                }
            }
        }
    }
    for name in ["run", "stop", "up", "test"] {
        assert!(documented.contains(name), "`make {name}` is not documented");
    }
}

#[test]
fn every_make_target_says_what_it_does_and_is_phony() {
    let makefile = read("Makefile");
    let phony = makefile
        .lines()
        .find_map(|line| line.strip_prefix(".PHONY:"))
        .expect("a line .PHONY");
    let phony: Vec<&str> = phony.split_whitespace().collect();
    for (name, about) in targets() {
        assert!(about.len() > 10, "Makefile: {name} lacks its ## line");
        assert!(
            phony.contains(&name.as_str()),
            "Makefile: {name} is not in .PHONY"
        );
    }
}

#[test]
fn every_script_runs_and_stops_at_the_first_error() {
    let mut seen = 0;
    for path in tracked() {
        let text = match read_text(&path) {
            Some(text) if path.ends_with(".sh") || text.starts_with("#!/usr/bin/env bash") => text,
            _ => continue,
        };
        seen += 1;
        let mode = fs::metadata(root().join(&path))
            .unwrap()
            .permissions()
            .mode();
        // Other scripts source this file; nobody runs it.
        if text.starts_with("# shellcheck shell=bash") {
            assert_eq!(
                mode & 0o111,
                0,
                "{path} is sourced, and need not be executable"
            );
        } else {
            assert_ne!(mode & 0o111, 0, "{path}: chmod +x");
            assert!(
                text.starts_with("#!/usr/bin/env bash"),
                "{path}: #!/usr/bin/env bash"
            );
        }
        let strict = text.contains("set -euo pipefail") || text.contains("/lib.sh\"");
        assert!(
            strict,
            "{path}: set -euo pipefail, or source lib.sh, which does"
        );
    }
    assert!(seen >= 8, "only {seen} scripts were found");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for path in documents() {
        let text = read(&path);
        let folder = Path::new(&path).parent().unwrap();
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match target {
                "" => path.clone(),
                target => folder.join(target).to_string_lossy().into_owned(),
            };
            assert!(
                root().join(&target).exists(),
                "{path}: no file for ({link})"
            );
            if !anchor.is_empty() {
                let anchors: Vec<String> = headings(&read(&target));
                assert!(
                    anchors.iter().any(|known| known == anchor),
                    "{path}: no heading for ({link}) among {anchors:?}"
                );
            }
        }
    }
}

/// Whether a source defines a function; a scenario of the kit has its rig for a parameter.
fn defines(source: &str, name: &str) -> bool {
    ["(", "<R: Rig>("]
        .iter()
        .any(|parameters| source.contains(&format!("fn {name}{parameters}")))
}

#[test]
fn every_test_that_an_invariant_names_exists() {
    let mut sources = String::new();
    for path in tracked() {
        if is_rust(&path) {
            sources.push_str(&read(&path));
        }
    }
    let architecture = read("ARCHITECTURE.md");
    let rows: Vec<&str> = architecture
        .lines()
        .skip_while(|line| !line.starts_with("| # | Invariant |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert_eq!(rows.len(), 14, "the invariants of the design and two more");
    for row in rows {
        let tests = row.split('|').nth(4).unwrap();
        let named = inline_code(tests);
        assert!(!named.is_empty(), "an invariant without a test: {row}");
        for name in named {
            // A file or a command instead of a test.
            if name.contains(['/', ' ']) {
                continue;
            }
            assert!(
                defines(&sources, &name),
                "ARCHITECTURE.md: there is no test {name}"
            );
        }
    }
}

#[test]
fn every_file_that_a_document_names_exists() {
    // A path in code marks, with a folder of ours before it.
    let folders = [
        "src/", "crates/", "tests/", "kong/", "deploy/", "scripts/", "docs/",
    ];
    for path in documents() {
        for span in inline_code(&read(&path)) {
            let file = span.split("::").next().unwrap();
            let of_ours = folders.iter().any(|folder| span.starts_with(folder));
            if of_ours && !span.contains(['*', ' ', '{', '<']) {
                assert!(root().join(file).exists(), "{path}: there is no {span}");
            } else if path == "ARCHITECTURE.md" && file.contains('/') && file.ends_with(".rs") {
                let in_core = root().join(CORE).join(file);
                assert!(in_core.exists(), "{path}: there is no {span} in the core");
            }
        }
    }
}

#[test]
fn every_test_that_a_document_names_by_its_file_exists() {
    let mut seen = 0;
    for path in documents() {
        for span in inline_code(&read(&path)) {
            let Some((file, name)) = span.split_once(".rs::") else {
                continue;
            };
            seen += 1;
            let source = read(&format!("{file}.rs"));
            // A trial of the end-to-end suite is named by a text.
            assert!(
                defines(&source, name) || source.contains(&format!("{name}\"")),
                "{path}: there is no {span}"
            );
        }
    }
    assert!(seen > 100, "only {seen} tests were found in documents");
}

#[test]
fn every_claim_of_the_threat_model_names_a_test() {
    let text = read("docs/security.md");
    let mut claims = 0;
    let mut of_claims = false;
    for line in text.lines() {
        if !line.starts_with('|') {
            of_claims = false;
        } else if line.ends_with("| Tests |") {
            of_claims = true;
        } else if of_claims && !line.starts_with("|---") {
            let tests = line.trim_end_matches('|').rsplit('|').next().unwrap();
            assert!(tests.contains(".rs::"), "a claim without a test: {line}");
            claims += 1;
        }
    }
    assert!(claims > 50, "only {claims} claims were found");
}

/// Except a callback that sees no key and no token, and says so.
#[test]
fn every_callback_of_a_context_wipes_the_stack_that_it_used() {
    let mut seen = 0;
    for path in tracked() {
        if !path.starts_with("src/") {
            continue;
        }
        let text = read(&path);
        let mut before = "";
        for (at, line) in text.lines().enumerate() {
            if line.starts_with("    fn on_") {
                seen += 1;
                let body = text.lines().nth(at + 1).unwrap_or_default().trim_start();
                assert!(
                    body.starts_with("wiping(")
                        || body.starts_with("wiping_head(")
                        || before.contains("// Not wiped: "),
                    "{path}:{}: {line} does not wipe",
                    at + 1
                );
            }
            before = line;
        }
    }
    assert!(seen > 6, "only {seen} callbacks were found");
}

#[test]
fn make_test_all_runs_every_step_and_every_test_that_there_is() {
    let script = read("scripts/test.sh");
    let between = |from: &str, to: &str| -> String {
        let (_, rest) = script.split_once(from).expect(from);
        rest.split_once(to).expect(to).0.to_owned()
    };
    let tiers: Vec<String> = ["QUICK=(", "REST=("]
        .iter()
        .flat_map(|tier| {
            let steps = between(tier, ")");
            let steps = steps.split_whitespace().map(str::to_owned);
            steps.collect::<Vec<_>>()
        })
        .collect();
    let cases = between("case $1 in\n", "  esac");
    let known: Vec<&str> = cases
        .lines()
        .filter(|line| line.starts_with("    ") && !line.starts_with("     "))
        .filter_map(|line| line.trim().split_once(')'))
        .flat_map(|(names, _)| names.split(" | "))
        .filter(|name| *name != "*" && !name.starts_with('#'))
        .collect();
    assert!(known.len() > 15, "{known:?}");
    for step in &known {
        let times = tiers.iter().filter(|name| name == step).count();
        assert_eq!(times, 1, "{step} is in one tier");
    }
    assert_eq!(tiers.len(), known.len(), "{tiers:?}");
    assert!(script.contains(r#"all) steps+=("${QUICK[@]}" "${REST[@]}")"#));
    // Suites that `cargo test` alone does not run are named by a step; all others are in `unit`.
    let scripts = ["scripts/test.sh", "scripts/soak.sh"].map(read).concat();
    let manifest = read("tests/servers/Cargo.toml");
    let mut seen = 0;
    for target in manifest.split("[[test]]\n").skip(1) {
        let name = target.split('"').nth(1).expect("a name");
        if target.lines().any(|line| line == "test = false") {
            seen += 1;
            let run = format!("--package suites --test {name}");
            assert!(scripts.contains(&run), "no step runs {name}");
        }
    }
    assert!(seen >= 4, "{seen} targets");
    let excluded = "cargo test --locked --workspace --exclude host-model ;;";
    assert!(
        scripts.contains(excluded) && scripts.contains("cargo test --locked --package host-model")
    );
}

// --- readers -----------------------------------------------------------------

/// None for a file that is no text.
fn read_text(path: &str) -> Option<String> {
    String::from_utf8(fs::read(root().join(path)).unwrap()).ok()
}

/// The project's files: those that git knows, or all files where this is no checkout (an
/// unpacked archive, the build of an image).
fn tracked() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output();
    let mut paths: Vec<String> = match listed {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            let text = String::from_utf8(output.stdout).unwrap();
            text.split_terminator('\0').map(str::to_owned).collect()
        }
        _ => walked(),
    };
    paths.retain(|path| root().join(path).is_file());
    paths.sort();
    assert!(paths.iter().any(|path| path == "src/lib.rs"));
    paths
}

fn walked() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(root()).unwrap();
            let relative = relative.to_string_lossy().into_owned();
            if [".git", ".run", "target", "dist"].contains(&relative.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if !relative.ends_with(".wasm") {
                found.push(relative);
            }
        }
    }
    found
}

fn documents() -> Vec<String> {
    let mut paths = tracked();
    paths.retain(|path| path.ends_with(".md"));
    assert!(paths.iter().any(|path| path == "README.md"));
    paths
}

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

/// A module's own tests in a file of their own: the module's comment covers them.
fn is_cut_off_tests(path: &str) -> bool {
    path.starts_with("crates/") && (path.ends_with("/tests.rs") || path.ends_with("_tests.rs"))
}

/// A line without its comment. A `//` in a text cuts it short too, which hides no name
/// that matters: a call never stands behind one.
fn code_of(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Whether a line names this, as a whole word if it is a word.
fn names(code: &str, name: &str) -> bool {
    let in_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        let printed = name == "print";
        !before.is_some_and(|c| in_word(c) && !(printed && c == 'e'))
            && match name {
                // println!, eprint! and the like.
                "print" => code[at..].starts_with("println!") || code[at..].starts_with("print!"),
                _ => name.ends_with(':') || !after.is_some_and(in_word),
            }
    })
}

/// A file without its tests, which stand at its end.
fn shipped(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or_default()
}

/// The uses that lead back, among files by their modules.
fn circles(files: &BTreeMap<String, String>) -> Vec<String> {
    let uses = |module: &String| used(module, files);
    let uses: BTreeMap<_, _> = files.keys().map(|module| (module, uses(module))).collect();
    let leads_back = |from: &String, to: &String| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
        while let Some(next) = left.pop() {
            if seen.insert(next) {
                left.extend(&uses[next]);
            }
        }
        seen.contains(to)
    };
    let all = uses
        .iter()
        .flat_map(|(from, used)| used.iter().map(move |to| (*from, to)));
    all.filter(|(from, to)| leads_back(to, from))
        .map(|(from, to)| format!("{from} uses {to}"))
        .collect()
}

/// The files that a file uses. A path leads to the last of its names that is a file; a group of
/// names `{…}` continues the path before it.
fn used(module: &str, files: &BTreeMap<String, String>) -> BTreeSet<String> {
    let code: Vec<&str> = files[module].lines().map(code_of).collect();
    let signs = Regex::new(r"\w+|::|\S").unwrap();
    let code = code.join("\n");
    let signs: Vec<&str> = signs.find_iter(&code).map(|sign| sign.as_str()).collect();
    let (mut groups, mut path) = (vec![], vec![]);
    let mut found = BTreeSet::new();
    for pair in signs.windows(2) {
        match pair {
            ["{", _] => groups.push(std::mem::take(&mut path)),
            ["}", _] => drop(groups.pop()),
            [name, next] if name.contains(|c: char| c.is_alphanumeric() || c == '_') => {
                if path.is_empty() {
                    path = groups.last().cloned().unwrap_or_default();
                }
                path.push(*name);
                if *next != "::" {
                    found.extend(file_of(module, &path, files));
                    path.clear();
                }
            }
            _ => {}
        }
    }
    found.remove(module);
    found
}

/// The file that a path leads to; a name alone leads to none.
fn file_of(module: &str, path: &[&str], files: &BTreeMap<String, String>) -> Option<String> {
    let mut at = match path {
        ["crate", ..] => String::new(),
        [_, _, ..] => module.to_owned(),
        _ => return None,
    };
    let mut is_of_ours = false;
    for name in path {
        let below = format!("{at}::{name}");
        match *name {
            "crate" | "self" => is_of_ours = true,
            "super" => {
                is_of_ours = true;
                at = at
                    .rsplit_once("::")
                    .map_or("", |(above, _)| above)
                    .to_owned();
            }
            _ if files.contains_key(below.trim_start_matches("::")) => {
                is_of_ours = true;
                at = below.trim_start_matches("::").to_owned();
            }
            _ => break,
        }
    }
    is_of_ours.then_some(at)
}

/// The targets of the Makefile with the text behind their `##`.
fn targets() -> Vec<(String, String)> {
    let found: Vec<(String, String)> = read("Makefile")
        .lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let is_target = !name.is_empty() && name.bytes().all(is_target_byte);
            (is_target && !rest.starts_with('=')).then(|| {
                let about = rest.split_once("##").map_or("", |(_, about)| about.trim());
                (name.to_owned(), about.to_owned())
            })
        })
        .collect();
    assert!(found.len() >= 5, "the Makefile's targets were not found");
    found
}

fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte == b'-'
}

/// Each line of a fenced block and each piece of inline code.
fn code_spans(text: &str) -> Vec<String> {
    let mut spans = inline_code(text);
    let mut fenced = false;
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            spans.push(line.to_owned());
        }
    }
    spans
}

fn inline_code(text: &str) -> Vec<String> {
    prose(text)
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

/// The anchors that headings get.
fn headings(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
        found.push(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    found
}
