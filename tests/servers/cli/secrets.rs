//! Nothing secret leaves the tool but the key, where it was asked for; and the tool
//! says plainly when another server stands in Keycloak's place.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::world::{Realm, admin_password};

/// The secrets that must not be in any line for people: the password, tokens (every JWT
/// begins with `eyJ`), hashes and the private key.
fn assert_no_secret(realm: &Realm, text: &str) {
    let pem = fs::read_to_string(realm.file("key.pem")).unwrap_or_default();
    let private = pem.lines().nth(1).unwrap_or("no key file");
    for secret in [&admin_password(), "$2b$", "$sha256$", private] {
        assert!(!text.contains(secret), "{secret:?} in {text}");
    }
    // The middle of a signing key's public id may be the same by chance.
    let mut words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    assert!(
        !words.any(|word| word.starts_with("eyJ")),
        "a token in {text}"
    );
}

/// A text without the words that may be secret, for messages of failed tests.
pub(crate) fn redact(text: &str) -> String {
    let secret = |word: &str| {
        let marks = ["sk_live_", "eyJ", "$2b$", "$sha256$"];
        marks.iter().any(|mark| word.contains(mark)) || word.contains(&admin_password())
    };
    let shown = |word| if secret(word) { "(withheld)" } else { word };
    text.split_inclusive(char::is_whitespace)
        .map(shown)
        .collect()
}

#[test]
fn no_output_holds_a_secret_but_the_key_once() {
    let realm = Realm::new();
    for extra in [
        ["--dry-run"].as_slice(),
        &[],
        &["--client-id", "billing-service"],
    ] {
        let run = realm.setup(extra);
        assert_no_secret(&realm, &(run.stdout + &run.stderr));
    }
    let run = realm.create(&["--owner", "alice"]).succeeded();
    let key = run.json()["api_key"].as_str().unwrap().to_owned();
    assert_eq!(run.stdout.matches(&key).count(), 1);
    assert!(!run.stderr.contains("sk_live_"));
    assert_no_secret(&realm, &(run.stdout + &run.stderr));
    for extra in [
        ["--owner", "nobody"].as_slice(),
        &["--owner", "alice", "--max-keys-per-user", "1"],
        &["--owner", "alice", "--admin-realm", "nowhere"],
        &["--owner", "alice", "--admin-client-id", "nothing"],
    ] {
        let run = realm.create(extra);
        assert_eq!(run.status, 1, "{extra:?}");
        assert_no_secret(&realm, &(run.stdout + &run.stderr));
    }
}

#[test]
fn no_command_that_looks_at_keys_or_changes_them_tells_a_secret() {
    let realm = Realm::prepared();
    let quick = ["--hash-algorithm", "sha256"];
    let made = realm.create(&["--owner", "alice"]).succeeded().json();
    let id = made["key_id"].as_str().unwrap();
    let mut keys = vec![made["api_key"].as_str().unwrap().to_owned()];
    let rotated = realm
        .run("rotate", &[&[id], quick.as_slice()].concat())
        .succeeded();
    keys.push(rotated.stdout.trim().to_owned());
    assert!(!rotated.stderr.contains(&keys[1]));
    let file = realm.file("key.pem");
    for (command, extra) in [
        ("list", ["--owner", "alice"].as_slice()),
        ("list", &["--owner", "alice", "--output", "json"]),
        ("show", &[id]),
        ("show", &[id, "--output", "json"]),
        ("expiring", &["--days", "400"]),
        ("doctor", &["--signing-key-file", &file]),
        ("doctor", &["--output", "json", "--days", "400"]),
        ("reindex", &["--all", "--output", "json"]),
        ("rotate", &[id]),
        ("revoke", &[id]),
        ("revoke", &[id, "--owner", "nobody"]),
    ] {
        let run = realm.run(command, extra);
        let told = run.stdout + &run.stderr;
        assert_no_secret(&realm, &told);
        for key in &keys {
            assert!(!told.contains(key), "{command} {extra:?}: {told}");
        }
    }
}

#[test]
fn no_argument_of_a_running_tool_holds_a_secret() {
    let realm = Realm::prepared();
    // Cost 14 runs long enough to be looked at.
    let extra = ["--owner", "alice", "--name", "n", "--bcrypt-cost", "14"];
    let mut child = realm
        .command("create", &extra)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (arguments, children) = (
        format!("/proc/{}/cmdline", child.id()),
        format!("/proc/{0}/task/{0}/children", child.id()),
    );
    let mut looks = 0;
    while child.try_wait().unwrap().is_none() {
        let line = fs::read(&arguments).unwrap_or_default();
        // Empty while the process ends.
        if !line.is_empty() {
            let line = String::from_utf8_lossy(&line).into_owned();
            assert!(
                line.contains("--bcrypt-cost") || line.contains("cli"),
                "{line}"
            );
            assert_no_secret(&realm, &line);
            assert!(!line.contains("sk_live_"), "{line}");
            looks += 1;
        }
        let children = fs::read_to_string(&children).unwrap_or_default();
        assert_eq!(children.trim(), "", "the tool starts no other process");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success());
    assert!(looks > 3, "looked {looks} times");
}

#[test]
fn the_password_comes_from_a_file_or_standard_input_as_well() {
    let realm = Realm::prepared();
    let file = realm.file("password");
    fs::write(&file, format!("{}\nsecond line\n", admin_password())).unwrap();
    let dry_run = |extra: &[&str], input: &str| {
        let key = realm.file("key.pem");
        let fixed = ["--signing-key-file", key.as_str(), "--dry-run"];
        let mut child = realm
            .command("setup", &[&fixed, extra].concat())
            .env_remove("KEYCLOAK_ADMIN_PASSWORD")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // If nobody reads the pipe, it is closed before all is written.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    assert!(
        dry_run(&["--admin-password-file", &file], "")
            .status
            .success()
    );
    let input = format!("{}\n", admin_password());
    assert!(
        dry_run(&["--admin-password-file", "-"], &input)
            .status
            .success()
    );
    for (extra, words) in [
        ([].as_slice(), "set KEYCLOAK_ADMIN_PASSWORD"),
        (&["--admin-password-file", "-"], "password is empty"),
        (&["--admin-password-file", "/no/such/file"], "/no/such/file"),
    ] {
        let output = dry_run(extra, "");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr.contains(words), "{stderr}");
    }
}

/// Runs setup against a server that gives this answer to everything.
fn against(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(answer.as_bytes());
    });
    let output = Command::new(crate::tool::path())
        .args([
            "setup",
            "--realm",
            "demo",
            "--signing-key-file",
            "/nowhere/key.pem",
        ])
        .args(["--keycloak-url", &url])
        .env("KEYCLOAK_ADMIN_PASSWORD", "a-secret-password")
        .output()
        .unwrap();
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("a-secret-password"), "{stderr}");
    stderr
}

#[test]
fn answers_that_are_not_keycloaks_are_told_plainly() {
    let html = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
    assert!(against(html).contains("is this Keycloak?"));
    let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\n\
                    content-length: 0\r\nconnection: close\r\n\r\n";
    assert!(against(redirect).contains("a redirect"));
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{\"access";
    assert!(against(cut).contains("no answer from Keycloak"));
    let empty = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    assert!(against(empty).contains("no access_token"));
    assert!(against("").contains("check --keycloak-url"));
}
