//! The faults of a soak: keys die in each way there is, and Keycloak suffers.

use std::process::Command;
use std::thread::{self, Scope};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::client::Target;
use crate::judge::{Cause, Death, Outage};
use crate::keycloak::Admin;
use crate::load;
use crate::record::Record;
use crate::stack::Stack;
use crate::wait::{self, now_ms, now_seconds};
use crate::{RECOVERY_MS, TTL_SECONDS};

const PAUSED: &str = "paused";
const KILLED: &str = "killed";
const RESTARTED: &str = "restarted";
const STOPPED: &str = "without its database server";
const DROPPED: &str = "without its database, dropped and restored";

/// The outages, in turn.
pub(crate) const OUTAGES: [&str; 5] = [PAUSED, STOPPED, KILLED, DROPPED, RESTARTED];
/// The deaths that an administrator causes; expiring keys are made now and then.
const DEATHS: [Cause; 4] = [
    Cause::Removed,
    Cause::Disabled,
    Cause::Deleted,
    Cause::Unlinked,
];
/// All causes of death in a run.
pub(crate) const CAUSES: [Cause; 5] = [
    Cause::Removed,
    Cause::Disabled,
    Cause::Deleted,
    Cause::Unlinked,
    Cause::Expired,
];
/// The time between two outages: the recovery, and a while with a healthy Keycloak.
const CALM_MS: u64 = RECOVERY_MS + 6000;
/// The longest extension of a run that has not had each outage yet.
const EXTRA_MS: u64 = 120_000;
/// The time between two deaths of keys.
const DEATHS_MS: u64 = 1200;
/// Living keys that the load sends.
const LIVING_MIN: usize = 30;
/// One key in so many ends by itself, this many seconds after it was made.
const EXPIRING_ONE_IN: u32 = 4;
const EXPIRING_SECONDS: u64 = 45;

/// Ends keys and disturbs Keycloak.
pub(crate) struct Chaos<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) admin: &'a Admin,
    pub(crate) record: &'a Record,
    pub(crate) target: &'a Target,
    random: ChaCha8Rng,
}

impl<'a> Chaos<'a> {
    pub(crate) fn new(
        stack: &'a Stack,
        admin: &'a Admin,
        record: &'a Record,
        target: &'a Target,
        seed: u64,
    ) -> Self {
        let mut chaos = Self {
            stack,
            admin,
            record,
            target,
            random: ChaCha8Rng::seed_from_u64(!seed),
        };
        for number in 0..LIVING_MIN + 10 {
            // Some end before their first use.
            let ends_at = (number < 4).then(|| now_seconds() - 60);
            chaos.record.add(chaos.admin, ends_at, &mut chaos.random);
        }
        chaos
    }

    /// Runs until the end, and on a slow machine until each outage has happened; then
    /// stays calm for a while, so that recovery is seen.
    pub(crate) fn run<'scope>(&mut self, end_ms: u64, scope: &'scope Scope<'scope, '_>)
    where
        'a: 'scope,
    {
        let last_ms = end_ms.saturating_sub(CALM_MS);
        let mut next_outage = now_ms() + CALM_MS;
        let mut outages = 0;
        while now_ms() < last_ms || (outages < OUTAGES.len() && now_ms() < last_ms + EXTRA_MS) {
            if now_ms() >= next_outage {
                let kind = OUTAGES[outages % OUTAGES.len()];
                outages += 1;
                // Two deaths that the gateway learns of late, if at all.
                self.death(scope);
                self.death(scope);
                self.outage(kind);
                next_outage = now_ms() + CALM_MS;
            }
            self.death(scope);
            self.birth();
            thread::sleep(Duration::from_millis(DEATHS_MS));
        }
        thread::sleep(Duration::from_millis(CALM_MS));
    }

    /// A new owner and key.
    fn birth(&mut self) {
        let expires = self.random.random_range(0..EXPIRING_ONE_IN) == 0;
        let ends_at = expires.then(|| now_seconds() + EXPIRING_SECONDS);
        self.record.add(self.admin, ends_at, &mut self.random);
    }

    /// Ends one key that is in use, and watches it.
    fn death<'scope>(&mut self, scope: &'scope Scope<'scope, '_>)
    where
        'a: 'scope,
    {
        let is_meant = |key: &crate::record::Known| key.in_use && key.is_to_last();
        let Some(at) = self.record.any(&mut self.random, is_meant) else {
            return;
        };
        let (admin, owner) = (self.admin, self.record.get(at).owner_id);
        let path = format!("users/{owner}");
        let cause = DEATHS[self.random.random_range(0..DEATHS.len())];
        let death = Death {
            cause,
            dying_at: now_ms(),
            dead_at: None,
        };
        self.record.change(at, |key| key.death = Some(death));
        let (target, record) = (self.target, self.record);
        scope.spawn(move || load::watch(at, target, record, TTL_SECONDS * 1000 + 1500));
        match cause {
            Cause::Removed => admin.edit_user(&owner, |user| user["attributes"] = json!({})),
            Cause::Disabled => admin.edit_user(&owner, |user| user["enabled"] = json!(false)),
            Cause::Deleted => drop(admin.must("DELETE", &path, None)),
            Cause::Unlinked | Cause::Expired => {
                let link = format!("{path}/federated-identity/api-keys");
                admin.must("DELETE", &link, None);
            }
        }
        let dead_at = Some(now_ms());
        self.record
            .change(at, |key| key.death = Some(Death { dead_at, ..death }));
    }

    fn outage(&mut self, kind: &'static str) {
        let from = now_ms();
        let range = match kind {
            // Sometimes longer than the TTL, so that no token is left in the cache.
            PAUSED => 4000..TTL_SECONDS * 1000 + 3000,
            KILLED | RESTARTED => 500..4000,
            _ => 2000..6000,
        };
        let lasts = Duration::from_millis(self.random.random_range(range));
        match kind {
            PAUSED => {
                self.signal("STOP");
                thread::sleep(lasts);
                self.signal("CONT");
            }
            KILLED => {
                self.signal("KILL");
                thread::sleep(lasts);
                self.script("keycloak.sh", "start");
            }
            RESTARTED => {
                self.script("keycloak.sh", "stop");
                thread::sleep(lasts);
                self.script("keycloak.sh", "start");
            }
            STOPPED => {
                self.script("postgres.sh", "stop");
                thread::sleep(lasts);
                self.script("postgres.sh", "start");
            }
            _ => {
                self.script("postgres.sh", "drop");
                thread::sleep(lasts);
                self.script("postgres.sh", "restore");
            }
        }
        wait::until("Keycloak is back", Duration::from_secs(120), || {
            is_well(self.admin)
        });
        let until = now_ms();
        self.record.outage(Outage { kind, from, until });
        println!(
            "    Keycloak {kind}: well again after {} ms",
            until.saturating_sub(from)
        );
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

/// Whether the realm lists its users, which needs its database too.
fn is_well(admin: &Admin) -> Result<(), String> {
    admin.is_up()?;
    load::QUIET.set(true);
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        admin.call("GET", "users?max=1", None).status
    }));
    load::QUIET.set(false);
    match asked {
        Ok(200) => Ok(()),
        Ok(status) => Err(format!("status {status}")),
        Err(_) => Err("no answer".to_owned()),
    }
}
