//! A release: each blob of its OCI image matches its digest, and the filter is in it; its
//! changelog has the form that it claims.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use sha2::{Digest, Sha256};

const WASM: &[u8] = b"\0asm\x01\0\0\0 and more";

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dist-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn layout(folder: &Path, wasm: &[u8], output: &str) -> Output {
    fs::write(folder.join("filter.wasm"), wasm).unwrap();
    Command::new("python3")
        .arg(format!(
            "{}/scripts/oci_layout.py",
            env!("CARGO_MANIFEST_DIR")
        ))
        .args(["filter.wasm", "filter", "1.2.3", "0123abc", output])
        .current_dir(folder)
        .output()
        .expect("python3")
}

/// Unpacks a tar into a folder of its own.
fn unpacked(folder: &Path, tar: &str, into: &str) -> PathBuf {
    let target = folder.join(into);
    fs::create_dir_all(&target).unwrap();
    let status = Command::new("tar")
        .args(["-xf", tar, "-C", into])
        .current_dir(folder)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "tar -xf {tar}");
    target
}

fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The blob that a descriptor names; its size and digest must match.
fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let named = descriptor["digest"].as_str().unwrap();
    let hex = named.strip_prefix("sha256:").unwrap();
    let bytes = fs::read(layout.join("blobs/sha256").join(hex)).unwrap();
    assert_eq!(digest(&bytes), hex);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

#[test]
fn the_image_holds_the_filter_under_the_name_that_is_looked_for() {
    let folder = folder("holds");
    let made = layout(&folder, WASM, "image.tar");
    assert!(made.status.success(), "{made:?}");
    let image = unpacked(&folder, "image.tar", "image");
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(image.join(name)).unwrap()).unwrap()
    };
    assert_eq!(read("oci-layout")["imageLayoutVersion"], "1.0.0");
    let index = read("index.json");
    let manifest: Value = serde_json::from_slice(&blob(&image, &index["manifests"][0])).unwrap();
    let annotations = &manifest["annotations"];
    assert_eq!(annotations["org.opencontainers.image.version"], "1.2.3");
    assert_eq!(annotations["org.opencontainers.image.revision"], "0123abc");
    let config: Value = serde_json::from_slice(&blob(&image, &manifest["config"])).unwrap();
    assert_eq!(config["os"], "wasi");
    let layer = blob(&image, &manifest["layers"][0]);
    fs::write(folder.join("layer.tar.gz"), layer).unwrap();
    let root = unpacked(&folder, "layer.tar.gz", "root");
    assert_eq!(fs::read(root.join("plugin.wasm")).unwrap(), WASM);
    let gunzip = Command::new("gzip")
        .args(["-dc", "layer.tar.gz"])
        .current_dir(&folder)
        .output()
        .unwrap();
    let named = format!("sha256:{}", digest(&gunzip.stdout));
    assert_eq!(config["rootfs"]["diff_ids"][0], named.as_str());
}

#[test]
fn the_same_filter_gives_the_same_image() {
    let folder = folder("same");
    for output in ["one.tar", "two.tar"] {
        assert!(layout(&folder, WASM, output).status.success());
    }
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    assert_eq!(read("one.tar"), read("two.tar"));
    let other = [WASM, b"!"].concat();
    assert!(layout(&folder, &other, "three.tar").status.success());
    assert_ne!(read("one.tar"), read("three.tar"));
}

#[test]
fn what_is_no_wasm_is_no_image() {
    let folder = folder("none");
    let refused = layout(&folder, b"<html>", "image.tar");
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("is no Wasm module"), "{said}");
    assert!(!folder.join("image.tar").exists());
}

#[test]
fn the_changelog_has_the_form_that_it_names() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/CHANGELOG.md")).unwrap();
    let kinds = [
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    ];
    let mut versions = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(version) = line.strip_prefix("## ") {
            versions.push(version);
            seen.clear();
        } else if let Some(kind) = line.strip_prefix("### ") {
            assert!(kinds.contains(&kind), "{kind} is no kind of change");
            assert!(!seen.contains(&kind), "{kind} twice in {versions:?}");
            seen.push(kind);
        }
    }
    assert_eq!(versions.first(), Some(&"[Unreleased]"));
    for version in &versions[1..] {
        // As `[1.2.3] - 2026-01-28`.
        let (name, date) = version.split_once(" - ").unwrap_or_default();
        assert!(name.starts_with('[') && name.ends_with(']'), "{version}");
        let digits = |part: &str, length| {
            part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit())
        };
        let parts: Vec<&str> = date.split('-').collect();
        assert!(
            matches!(parts[..], [y, m, d] if digits(y, 4) && digits(m, 2) && digits(d, 2)),
            "{version}"
        );
    }
}
