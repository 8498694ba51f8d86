//! `apikeys inspect`, `hash` and `completions`, which need no server.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use apikeys_core::api_key::format::KeyFormat;
use apikeys_core::api_key::hash::{StoredHash, Verification};
use serde_json::Value;

use crate::world::{Run, random_name};

const OLD_KEY: &str = "an-old-key-of-another-system";

fn run(arguments: &[&str], input: &str, variables: &[(&str, &str)]) -> Run {
    let mut child = Command::new(crate::tool::path())
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // If nobody reads the pipe, it is closed before all is written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    Run::of(child.wait_with_output().unwrap())
}

fn new_key() -> (String, String) {
    let key = KeyFormat::new("sk_live_")
        .unwrap()
        .generate(|bytes| getrandom::fill(bytes).unwrap());
    (key.expose().to_owned(), key.id().to_owned())
}

#[test]
fn a_key_is_read_from_standard_input_a_file_or_a_variable() {
    let (key, id) = new_key();
    let file = std::env::temp_dir().join(format!("apikeys-{}", random_name()));
    fs::write(&file, format!("{key}\n")).unwrap();
    let path = file.to_str().unwrap();
    for run in [
        run(&["inspect", "--output", "json"], &key, &[]),
        run(
            &["inspect", "--output", "json", "--key-file", path],
            "",
            &[],
        ),
        run(
            &["inspect", "--output", "json", "--key-variable", "THE_KEY"],
            "",
            &[("THE_KEY", &key)],
        ),
    ] {
        let run = run.succeeded();
        let seen: Value = run.json();
        assert_eq!(
            (&seen["key_id"], &seen["checksum"]),
            (&id.as_str().into(), &"right".into())
        );
        assert!(!format!("{}{}", run.stdout, run.stderr).contains(&key));
    }
    fs::remove_file(&file).unwrap();
    let text = run(&["inspect"], &key, &[]).succeeded().stdout;
    assert!(
        text.contains("checksum  right") && !text.contains(&key),
        "{text}"
    );
}

#[test]
fn a_key_that_no_gateway_takes_is_told_why_and_not_repeated() {
    let (key, id) = new_key();
    let reversed = key.chars().rev().collect::<String>();
    let swapped = format!(
        "{}{}",
        &key[..58],
        if key.ends_with('0') { '1' } else { '0' }
    );
    for (text, words) in [
        (swapped.as_str(), "mistyped"),
        (&key[..40], "--index-key-file"),
        (&reversed, "--index-key-file"),
        ("short", "--index-key-file"),
        ("with a space in its middle", "no comma"),
    ] {
        let run = run(&["inspect"], text, &[]);
        assert_eq!(run.status, 1);
        assert!(run.stdout.contains(words), "{}", run.stdout);
        assert!(!format!("{}{}", run.stdout, run.stderr).contains(text));
    }
    assert!(run(&["inspect"], &swapped, &[]).stdout.contains(&id));
    for text in ["", "\n", "two\nlines"] {
        run(&["inspect"], text, &[]).refused_with("the key");
    }
    run(&["inspect", "--key-variable", "NOT_SET"], "", &[]).refused_with("NOT_SET");
}

#[test]
fn an_imported_keys_id_is_the_gateways_and_its_index_key_is_kept_private() {
    let format = KeyFormat::new("sk_live_").unwrap().with_index_key(&[7; 32]);
    let id = format.parse(OLD_KEY.as_bytes()).unwrap().id().to_owned();
    let index_key = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";
    let inspect = ["inspect", "--output", "json"];
    let by_variable = run(&inspect, OLD_KEY, &[("API_KEY_INDEX_KEY", index_key)]).succeeded();
    assert_eq!(by_variable.json()["key_id"], id);
    assert_eq!(by_variable.json()["form"], "imported");
    let file = std::env::temp_dir().join(format!("apikeys-{}", random_name()));
    fs::write(&file, index_key).unwrap();
    let path = file.to_str().unwrap();
    let by_file = [&inspect, ["--index-key-file", path].as_slice()].concat();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    run(&by_file, OLD_KEY, &[]).refused_with("chmod 600");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(run(&by_file, OLD_KEY, &[]).succeeded().json()["key_id"], id);
    fs::remove_file(&file).unwrap();
    let bad = run(&inspect, OLD_KEY, &[("API_KEY_INDEX_KEY", "U0VDUkVU")]);
    assert!(!bad.stderr.contains("U0VDUkVU"));
    bad.refused_with("32 bytes");
}

#[test]
fn a_key_as_an_argument_is_refused_and_not_repeated() {
    let (key, _) = new_key();
    let by_name = format!("--key={key}");
    for arguments in [
        ["inspect", &key].as_slice(),
        &["hash", &key],
        &["inspect", &by_name],
        &["hash", "--key", &key],
    ] {
        let run = run(arguments, "", &[]);
        assert_eq!((run.status, run.stdout.as_str()), (2, ""));
        assert!(
            run.stderr.contains("never given as an argument"),
            "{}",
            run.stderr
        );
        assert!(!run.stderr.contains(&key), "{}", run.stderr);
    }
}

#[test]
fn a_hash_is_one_that_the_gateway_verifies() {
    for algorithm in [["--hash-algorithm", "sha256"], ["--bcrypt-cost", "4"]] {
        let made = run(&[&["hash"], algorithm.as_slice()].concat(), OLD_KEY, &[]).succeeded();
        let right = match StoredHash::parse(made.stdout.trim())
            .unwrap()
            .verify(OLD_KEY.as_bytes())
        {
            Verification::Decided(right) => right,
            Verification::Computing(mut job) => job.run(u32::MAX).unwrap(),
        };
        assert!(right);
        let long = "x".repeat(73);
        for no_key in ["fifteen-letters", "a comma, in its middle", &long] {
            let refused = run(&["hash"], no_key, &[]);
            assert!(!refused.stderr.contains(no_key));
            refused.refused_with("a key has");
        }
    }
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completions", shell], "", &[]).succeeded().stdout;
        for command in ["setup", "create", "rotate", "completions"] {
            assert!(script.contains(command), "{shell} {command}");
        }
    }
}
