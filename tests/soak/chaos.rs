//! What goes wrong: keys die in each way there is, and Keycloak suffers.

use std::process::Command;
use std::thread;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::keycloak::Admin;
use crate::report::{Outage, Report};
use crate::stack::Stack;
use crate::truth::Truth;
use crate::wait::{self, now_ms};

/// The outages, in turn.
const OUTAGES: [&str; 3] = ["paused", "killed", "without its database"];
/// Calm between two outages.
const CALM_MS: u64 = 25_000;
/// Between two deaths of keys.
const DEATHS_MS: u64 = 2_500;

pub(crate) struct Chaos<'a> {
    stack: &'a Stack,
    admin: &'a Admin,
    truth: &'a Truth,
    report: &'a Report,
    random: ChaCha8Rng,
}

impl<'a> Chaos<'a> {
    pub(crate) fn new(
        stack: &'a Stack,
        admin: &'a Admin,
        truth: &'a Truth,
        report: &'a Report,
        seed: u64,
    ) -> Self {
        let random = ChaCha8Rng::seed_from_u64(!seed);
        Self {
            stack,
            admin,
            truth,
            report,
            random,
        }
    }

    /// Until the end, and a while before it calm, so that recovery is seen.
    pub(crate) fn run(&mut self, end_ms: u64) {
        let last_ms = end_ms.saturating_sub(CALM_MS);
        let mut outages = OUTAGES.iter().cycle();
        let mut next_outage = now_ms() + CALM_MS;
        while now_ms() < last_ms {
            if now_ms() >= next_outage {
                let kind = outages.next().expect("a cycle has no end");
                self.outage(kind);
                next_outage = now_ms() + CALM_MS;
            }
            self.death();
            thread::sleep(Duration::from_millis(DEATHS_MS));
        }
    }

    /// One key dies; an owner with a new one takes its place.
    fn death(&mut self) {
        let Some(at) = self.truth.living(&mut self.random) else {
            return;
        };
        let owner = self.truth.get(at).owner_id;
        let (admin, path) = (self.admin, format!("users/{owner}"));
        let dying_at = now_ms();
        let ways = ["key removed", "disabled", "deleted", "unlinked"];
        let cause = ways[self.random.random_range(0..ways.len())];
        self.truth.change(at, |key| {
            key.dying_at = Some(dying_at);
            key.cause = cause;
        });
        match cause {
            "key removed" => admin.edit_user(&owner, |user| user["attributes"] = json!({})),
            "disabled" => admin.edit_user(&owner, |user| user["enabled"] = json!(false)),
            "deleted" => drop(admin.must("DELETE", &path, None)),
            _ => {
                let link = format!("{path}/federated-identity/api-keys");
                admin.must("DELETE", &link, None);
            }
        }
        self.truth.change(at, |key| key.dead_at = Some(now_ms()));
        self.truth.add(admin, false, &mut self.random);
    }

    fn outage(&mut self, kind: &'static str) {
        let from = now_ms();
        match kind {
            "paused" => {
                self.signal("STOP");
                thread::sleep(Duration::from_millis(self.random.random_range(3000..9000)));
                self.signal("CONT");
            }
            "killed" => {
                self.signal("KILL");
                thread::sleep(Duration::from_millis(self.random.random_range(500..4000)));
                self.script("keycloak.sh", "start");
            }
            _ => {
                self.script("postgres.sh", "stop");
                thread::sleep(Duration::from_millis(self.random.random_range(2000..6000)));
                self.script("postgres.sh", "start");
            }
        }
        wait::until("Keycloak is back", Duration::from_secs(120), || {
            is_well(self.admin)
        });
        self.report.outage(Outage {
            kind,
            from,
            until: now_ms(),
        });
    }

    /// Signals the process group of Keycloak.
    fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.stack.run_dir.join("keycloak.pid"));
        let group = format!("-{}", pid.expect("Keycloak's pid").trim());
        let status = Command::new("kill")
            .args(["-s", signal, "--", &group])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal}");
    }

    fn script(&self, name: &str, argument: &str) {
        let output = self.stack.script(name, &[argument]).output().expect(name);
        assert!(
            output.status.success(),
            "{name} {argument}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Whether the realm's users can be asked for, so that its database answers too.
fn is_well(admin: &Admin) -> Result<(), String> {
    admin.is_up()?;
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        admin.call("GET", "users?max=1", None).status
    }));
    match asked {
        Ok(200) => Ok(()),
        Ok(status) => Err(format!("status {status}")),
        Err(_) => Err("no answer".to_owned()),
    }
}
