//! Eight writers at one owner: by two gateways, by the tool and by the core's machine.
//! Halfway another writer is killed while it holds the owner's lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use apikeys_core::manage::change::{BREAK_GROUP, LOCK_PROVIDER, STALE_MS};
use serde_json::{Value, json};

use crate::judge::Judge;
use crate::ledger::Ledger;
use crate::portal::Caller;
use crate::stall::Stall;
use crate::tool;
use crate::wait;
use crate::world::{World, number};
use crate::writer::{ByGateway, ByMachine, ByTool, Told, Writer};

/// The limit of the stack's gateways, and the tool's default.
pub(crate) const KEYS_MAX: usize = 5;

pub(crate) fn meets(world: &'static World) {
    let half = Duration::from_millis(number("WRITES_SECONDS", 60) * 500);
    let caller = Caller::new_user(&world.keycloak, &world.gateways[0]);
    let owner_id = caller.id.clone();
    world.keycloak.edit_user(&owner_id, |user| {
        user["attributes"] = json!({"phone": ["1", "2"], "department": ["sales"]});
    });
    let ledger = Ledger::default();
    let mut judge = Judge::new(&world.keycloak, &ledger, &owner_id, KEYS_MAX);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // The writers end on every way out.
        let _ending = Ending(&over);
        for (number, writer) in writers(world, &caller).into_iter().enumerate() {
            let (ledger, over) = (&ledger, &over);
            scope.spawn(move || write(writer, number as u64, ledger, over));
        }
        look_for(&mut judge, half);
        let before = ledger.changes();
        let killed = kill_a_holder(world, &owner_id);
        taken_over(world, &owner_id, &killed, &mut judge);
        let between = ledger.changes();
        look_for(&mut judge, half);
        println!(
            "\n    {before} changes, a holder killed, {} more; looked at {} times, {} keys at most",
            ledger.changes() - between,
            judge.looks,
            judge.most
        );
    });
    judge.settle().unwrap();
    let told = ledger.read();
    for ((kind, what), count) in &told.counts {
        println!("    {kind:>9} {what:>7} {count:>5}");
    }
    // Each kind has made changes, and the limit was met.
    for kind in ["gateway 1", "gateway 2", "tool", "machine"] {
        let made = told.counts.get(&(kind, "made")).copied().unwrap_or(0);
        assert!(made >= 5, "{kind}: {made} changes");
    }
    assert_eq!(judge.most, KEYS_MAX, "the limit was never met");
    let links = world.keycloak.get(&links(&owner_id));
    assert!(lock_of(&links).is_none(), "a lock is left behind");
    let groups = world
        .keycloak
        .get(&format!("groups?search={}", BREAK_GROUP.trim()));
    assert_eq!(groups, json!([]), "a claim is left behind");
    end_all(world, &caller);
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn writers(world: &'static World, caller: &Caller) -> Vec<Box<dyn Writer>> {
    let mut writers: Vec<Box<dyn Writer>> = Vec::new();
    for (kind, at, count) in [("gateway 1", 0, 3), ("gateway 2", 1, 2)] {
        for _ in 0..count {
            let caller = Caller {
                gateway: world.gateways[at].clone(),
                ..caller.clone()
            };
            writers.push(Box::new(ByGateway { kind, caller }));
        }
    }
    for _ in 0..2 {
        let owner_id = caller.id.clone();
        writers.push(Box::new(ByTool { world, owner_id }));
    }
    let owner_id = caller.id.clone();
    writers.push(Box::new(ByMachine { world, owner_id }));
    writers
}

/// Creates, rotates and revokes, any key, until told to stop.
fn write(mut writer: Box<dyn Writer>, number: u64, ledger: &Ledger, over: &AtomicBool) {
    let kind = writer.kind();
    let mut dice = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while !over.load(Ordering::Relaxed) {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let told = ledger.read();
        let there: Vec<&String> = told.made.difference(&told.gone).collect();
        let target = there.get(dice as usize % there.len().max(1));
        let what = match (dice >> 32) % 10 {
            0..5 => {
                let told = writer.create();
                if let Told::Made(id) = &told {
                    ledger.made(id);
                }
                word(&told)
            }
            number => {
                let Some(id) = target else { continue };
                ledger.ending(id);
                let what = if number < 7 {
                    let told = writer.rotate(id);
                    if let Told::Made(new) = &told {
                        ledger.made(new);
                    }
                    word(&told)
                } else {
                    word(&writer.revoke(id))
                };
                if what == "made" {
                    ledger.gone(id);
                }
                what
            }
        };
        ledger.count(kind, what);
    }
}

fn word<T>(told: &Told<T>) -> &'static str {
    match told {
        Told::Made(_) => "made",
        Told::Refused => "refused",
        Told::Busy => "busy",
    }
}

fn look_for(judge: &mut Judge<'_>, time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        judge.look().unwrap();
    }
}

fn links(owner_id: &str) -> String {
    format!("users/{owner_id}/federated-identity")
}

/// The holder of the owner's lock.
fn lock_of(links: &Value) -> Option<String> {
    let links = links.as_array().expect("links");
    let lock = links
        .iter()
        .find(|link| link["identityProvider"] == LOCK_PROVIDER)?;
    Some(lock["userId"].as_str().expect("a holder").to_owned())
}

/// Kills a run of the tool with SIGKILL while it holds the lock; returns the holder.
fn kill_a_holder(world: &World, owner_id: &str) -> String {
    let stall = Stall::start(world.keycloak.url());
    let url = format!("http://{}", stall.address);
    let arguments = [
        "create",
        "--owner",
        owner_id,
        "--name",
        "Killed",
        "--hash-algorithm",
        "sha256",
        // The limit must not end it before its write, which never reaches Keycloak.
        "--max-keys-per-user",
        "50",
    ];
    let start = || {
        tool::command(world, &url, &arguments)
            .spawn()
            .expect("the tool")
    };
    let mut victim = start();
    let until = Instant::now() + Duration::from_secs(90);
    // If a run gives up, because the others hold the lock, another run follows.
    while stall
        .stuck
        .recv_timeout(Duration::from_millis(100))
        .is_err()
    {
        assert!(Instant::now() < until, "it never comes to its write");
        if victim.try_wait().expect("its state").is_some() {
            victim = start();
        }
    }
    let holder = lock_of(&world.keycloak.get(&links(owner_id))).expect("it holds the lock");
    victim.kill().expect("a signal");
    victim.wait().expect("it ends");
    holder
}

/// The lock of a killed holder goes to another writer in the end, but not before its
/// time.
fn taken_over(world: &World, owner_id: &str, killed: &str, judge: &mut Judge<'_>) {
    let began = Instant::now();
    let limit = Duration::from_millis(STALE_MS) + Duration::from_secs(45);
    wait::until("the dead holder's lock is broken", limit, || {
        judge.look().unwrap();
        let holder = lock_of(&world.keycloak.get(&links(owner_id)));
        match holder {
            Some(holder) if holder == killed => Err(holder),
            _ => Ok(()),
        }
    });
    let took = began.elapsed();
    // The holder took the lock a little before it was killed.
    let early = Duration::from_millis(STALE_MS) - Duration::from_secs(15);
    assert!(took >= early, "a live lock was broken after {took:?}");
    println!("\n    the lock of the killed holder was taken over after {took:.1?}");
}

/// The link goes with the last key, and everything else stays.
fn end_all(world: &World, caller: &Caller) {
    for key in caller.keys() {
        let id = key["key_id"].as_str().expect("an id");
        let answer = caller.delete(&format!("/{id}"));
        assert_eq!(answer.status, 204, "{}", answer.describe());
    }
    assert_eq!(world.keycloak.get(&links(&caller.id)), json!([]));
    let user = world.keycloak.get(&format!("users/{}", caller.id));
    assert_eq!(
        user["attributes"],
        json!({"phone": ["1", "2"], "department": ["sales"]})
    );
    assert_eq!(
        user["email"],
        json!(format!("{}@example.com", caller.username))
    );
    assert_eq!(user["firstName"], json!("Test"));
}
