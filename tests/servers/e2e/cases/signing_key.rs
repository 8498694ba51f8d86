//! The signing key is replaced under load, by the commands of the runbook.
//!
//! In a realm of the trial's own: in the stack's, other gateways sign with the key that
//! goes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::configuration::register_key_body;
use crate::client::Target;
use crate::gateway::{Gateway, Spec};
use crate::keycloak::Admin;
use crate::owner::{Key, Owner, Record, unique_name};
use crate::page::{self, Step};
use crate::secrets::redact;
use crate::wait;
use crate::world::{Case, Need, World};

const OLD: &str = "signing-key.pem";
const NEXT: &str = "next-signing-key.pem";
/// Instead of a quarter of an hour, the tool's default wait.
const UNUSED_FOR_SECONDS: u64 = 3;

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new("signing_key::a_rotation_refuses_no_request", rotation).needs(Need::OwnGateway)]
}

/// A realm with its signing keys, and the tool for it.
struct Site<'a> {
    world: &'a World,
    realm: String,
    admin: Admin,
    folder: PathBuf,
}

impl<'a> Site<'a> {
    fn new(world: &'a World) -> Self {
        let realm = unique_name("rotation");
        let folder = world.folder().join(&realm);
        fs::create_dir_all(&folder).expect("a folder");
        let site = Self {
            admin: world
                .keycloak
                .new_realm(&json!({ "realm": realm, "enabled": true })),
            world,
            realm,
            folder,
        };
        site.tool(&["setup", "--signing-key-file", OLD]);
        register_key_body(&site.pem(OLD));
        site
    }

    fn pem(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).expect(file)
    }

    /// A command in the site's folder that finds the tool, and the tool its realm.
    fn command(&self, program: &str) -> Command {
        let tool = crate::tool::path().parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(program);
        command
            .current_dir(&self.folder)
            .env("PATH", format!("{}:{path}", tool.display()))
            .envs(self.admin.variables())
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn tool(&self, arguments: &[&str]) -> String {
        let output = self.command("apikeys").args(arguments).output().unwrap();
        let faults = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}", redact(&faults));
        String::from_utf8(output.stdout).unwrap()
    }

    fn run(&self, steps: &[Step]) {
        page::run(
            steps,
            &self.folder,
            self.command("bash"),
            crate::secrets::redact,
        );
    }

    /// A gateway that signs with the key of this file, and forgets tokens quickly.
    fn gateway(&self, file: &str) -> Gateway<'a> {
        let spec = Spec::default()
            .field("realm", self.realm.as_str())
            .field("cache_ttl_seconds", 10)
            .signing_key(&self.pem(file))
            .serving(self.world.echo())
            .workers(2);
        self.world.start_gateway(&spec)
    }

    /// The time of the last sign-in with each key; `true` is the new key.
    fn signed_in(&self) -> BTreeMap<bool, u64> {
        let told = self.tool(&[
            "signing-key",
            "activate",
            "--signing-key-file",
            NEXT,
            "--output",
            "json",
        ]);
        let told: Value = serde_json::from_str(&told).unwrap();
        let keys = told["signed_in"].as_array().expect("a list").iter();
        keys.map(|key| {
            let at = OffsetDateTime::parse(key["last_at"].as_str().unwrap(), &Rfc3339);
            let at = at.expect("a time").unix_timestamp();
            (key["is_given_key"] == true, u64::try_from(at).unwrap())
        })
        .collect()
    }
}

/// Requests that never stop, to the gateway that serves at the moment.
struct Load {
    target: RwLock<Target>,
    keys: Vec<Key>,
    over: AtomicBool,
}

impl Load {
    /// Sends until the load is over; every answer must be good. Returns their number.
    fn send(&self, first: usize) -> usize {
        let mut sent = 0;
        while !self.over.load(Ordering::Relaxed) {
            let key = &self.keys[(first + sent) % self.keys.len()];
            // Held until the answer has arrived: a gateway ends after its requests.
            exchanged(&self.target.read().unwrap(), key);
            sent += 1;
        }
        sent
    }
}

#[track_caller]
fn exchanged(target: &Target, key: &Key) {
    let answer = target.orders(&key.text);
    assert_eq!(answer.status, 200, "{}", answer.describe());
    let seen = answer.json();
    let header = seen["headers"]["authorization"].as_str().expect("a header");
    crate::secrets::register(header.trim_start_matches("Bearer "));
}

fn rotation(world: &World) {
    let site = Site::new(world);
    let new_key = || {
        let key = Key::random();
        Owner::with(&site.admin, &[Record::sha256(&key)]);
        key
    };
    let page = include_str!("../../../../docs/runbooks/signing-key.md");
    let mut steps = page::steps(page);
    let answered = steps.iter().filter(|step| step.expected.is_some());
    assert!(answered.count() >= 5, "the page's answers are found");
    let is_retire = |step: &Step| step.command.contains("signing-key retire");
    let too_early = steps.iter().position(is_retire).expect("a refusal");
    let after = steps.split_off(too_early + 1);

    // The page puts the new key in its place.
    let kept = format!("{OLD}.kept");
    fs::copy(site.folder.join(OLD), site.folder.join(&kept)).expect("a copy");

    let old = site.gateway(OLD);
    let keys: Vec<Key> = (0..6).map(|_| new_key()).collect();
    let load = Load {
        target: RwLock::new(old.target.clone()),
        keys,
        over: AtomicBool::new(false),
    };
    // First uses at each stage: their exchange needs both assertions.
    let cold = |gateway: &Gateway<'_>| exchanged(&gateway.target, &new_key());
    cold(&old);
    let sent = thread::scope(|scope| {
        let _ends = EndsWith(&load.over);
        let load = &load;
        let threads: Vec<_> = (0..3)
            .map(|at| scope.spawn(move || load.send(at)))
            .collect();
        site.run(&steps);
        register_key_body(&site.pem(NEXT));
        cold(&old);
        let new = site.gateway(NEXT);
        cold(&new);
        cold(&old);
        *load.target.write().unwrap() = new.target.clone();
        old.stop();
        wait::until("the old key is not in use", Duration::from_secs(60), || {
            let seen = site.signed_in();
            let idle = seen
                .get(&false)
                .map(|at| wait::now_seconds().saturating_sub(*at));
            let is_idle = idle.is_none_or(|idle| idle > UNUSED_FOR_SECONDS + 1);
            (is_idle && seen.contains_key(&true))
                .then_some(())
                .ok_or(format!("{seen:?}"))
        });
        site.run(&with_short_wait(after));
        for _ in 0..3 {
            cold(&new);
        }
        load.over.store(true, Ordering::Relaxed);
        let sent = threads.into_iter().map(|thread| thread.join());
        sent.map(|sent| sent.expect("every answer is good"))
            .sum::<usize>()
    });
    assert!(sent > 100, "{sent} requests");
    let retired = site.gateway(&kept);
    retired.target.orders(&new_key().text).unavailable();
    fs::remove_dir_all(&site.folder).expect("it holds keys");
}

/// Ends the load on every way out of a trial; otherwise the trial would wait for it for
/// ever.
struct EndsWith<'a>(&'a AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The page's commands, without the reader's long wait.
fn with_short_wait(steps: Vec<Step>) -> Vec<Step> {
    let shorter = |mut step: Step| {
        if step.command.contains("signing-key retire") {
            step.command += &format!(" --unused-for {UNUSED_FOR_SECONDS}s");
        }
        step
    };
    steps.into_iter().map(shorter).collect()
}
