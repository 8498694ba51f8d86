//! After all the others: the logs of the whole run hold no secret and no crash.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::log::Log;
use crate::secrets;
use crate::world::{Case, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("secrecy::no_log_holds_a_key_a_token_or_a_password", logs).needs(Need::Log),
        Case::new("secrecy::no_log_holds_a_hash", hashes).needs(Need::Log),
        Case::new("secrecy::the_gateways_never_crashed", crashes).needs(Need::Log),
    ]
}

/// Each log with its name.
fn all_logs(world: &World) -> Vec<(String, String)> {
    let files = fs::read_dir(world.folder()).expect("the run folder");
    let paths = files.map(|file| file.expect("a file").path());
    let paths = paths.filter(|path| path.extension().is_some_and(|kind| kind == "log"));
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read(&path).expect("a log");
        (name, String::from_utf8_lossy(&text).into_owned())
    };
    let mut logs: Vec<_> = paths.map(read).collect();
    if let Some(Log::Command(_)) = &world.log {
        logs.push(("the gateway's log".to_owned(), world.log().text()));
    }
    logs
}

fn logs(world: &World) {
    if let Some(stack) = &world.stack {
        let pem = fs::read_to_string(stack.run_dir.join("signing-key.pem")).expect("the key");
        super::configuration::register_key_body(&pem);
    }
    // The suite must have registered the secrets that it sent, or this trial shows
    // nothing.
    world.gateway.orders(&world.api_key).orders();
    assert!(secrets::count() >= 5, "only {} secrets", secrets::count());
    let forms = secrets::forms();
    let logs = all_logs(world);
    assert!(
        logs.iter()
            .any(|(_, text)| text.contains(r#""request_id":""#)),
        "no log of the filter"
    );
    let mut leaks = Vec::new();
    for (name, text) in &logs {
        let words = words_of(text);
        for form in &forms {
            if words.contains(form.as_str()) || text.contains(form.as_str()) {
                leaks.push(format!("{name}: a secret of {} bytes", form.len()));
            }
        }
        leaks.extend(unknown_secrets(name, &words));
    }
    assert!(leaks.is_empty(), "{leaks:?}");
    let bytes: usize = logs.iter().map(|(_, text)| text.len()).sum();
    println!(
        "\n    {} secrets looked for in {} logs, {bytes} bytes",
        secrets::count(),
        logs.len()
    );
}

fn words_of(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || "_-.$/+=".contains(c)))
        .filter(|word| word.len() >= 20)
        .collect()
}

/// Words that look like a key or a token and are not among the suite's own.
fn unknown_secrets(name: &str, words: &BTreeSet<&str>) -> Vec<String> {
    let looks_secret = |word: &&&str| {
        let is_token = word.contains("eyJ") && word.matches('.').count() >= 2;
        let is_key = word.contains("sk_live_") && word.len() > 30;
        is_token || is_key || word.contains("PRIVATE KEY")
    };
    let found = words.iter().filter(looks_secret);
    found
        .map(|word| format!("{name}: {} bytes like a secret", word.len()))
        .collect()
}

fn hashes(world: &World) {
    for (name, text) in all_logs(world) {
        for mark in ["$2a$", "$2b$", "$2y$", "$sha256$"] {
            assert!(!text.contains(mark), "{name} holds {mark}");
        }
    }
}

/// Words of a crash: the filter's, the module's, or a gateway's.
pub(super) const CRASHES: [&str; 8] = [
    "panicked at",
    "Uncaught RuntimeError",
    "wasm trap",
    "Caught Segmentation",
    "Caught Aborted",
    "assert failure",
    "exited on signal",
    "zero size buf in writer",
];

fn crashes(world: &World) {
    for (name, text) in all_logs(world) {
        for words in CRASHES {
            let line = text.lines().find(|line| line.contains(words));
            let line = line.map(secrets::redact);
            assert!(line.is_none(), "{name}: {line:?}");
        }
    }
}
