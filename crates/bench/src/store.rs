//! The store as it grows: a look-up among one thousand to one million keys, and the same
//! look-up in a store without an index.
//!
//! Sizes cannot take turns, since the store only grows, and minutes lie between them. So each
//! size also times, in turn with the look-ups, a call that does not depend on the number of
//! keys: a client by its name. A change in that call's time is the machine's doing, and is
//! divided out.

use std::time::Instant;

use apikeys_core::api_key::hash::hash_bcrypt;
use apikeys_core::config::Config;
use apikeys_core::keycloak::users::lookup_call;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::database::{Database, StoredKey, owner_id};
use crate::keycloak::Admin;
use crate::owner::Key;
use crate::report::{Curve, Report, median};

const SIZES: [u64; 5] = [1_000, 10_000, 100_000, 300_000, 1_000_000];
/// The default of `max_keys_per_user`.
const KEYS_OF_AN_OWNER: u64 = 5;
const ROUNDS: usize = 5;
/// Look-ups in a round, each of another key.
const LOOK_UPS: usize = 60;
/// Rounds before any counts: a JVM gets faster until it has compiled its code, which would
/// flatter the later measurements. They end after so many rounds without a gain.
const SETTLED_ROUNDS: usize = 5;
const UNCOUNTED_ROUNDS_MAX: usize = 60;
/// Searches by a short value: each reads all values.
const SHORT_SEARCHES: usize = 5;
/// The owners that a scan reads, and the position of the key's owner.
const SCANNED_OWNERS: u64 = 1_000;
/// Apart from the owners of the other realm.
const FIRST_SCANNED: u64 = 0xf000_0000;
const PAGE: u64 = 100;

pub(crate) fn measure(bench: &Bench, report: &mut Report) {
    let database = Database::from_environment();
    let mut store = Store {
        admin: &bench.admin,
        realm: bench.stack.demo_env()["REALM"].clone(),
        keys: 0,
        dice: ChaCha8Rng::seed_from_u64(1),
    };
    let mut measured = Vec::new();
    let mut filling = 0.0;
    for size in SIZES {
        let began = Instant::now();
        bench.lull.during(|| store.fill(&database, size));
        filling += began.elapsed().as_secs_f64();
        if measured.is_empty() {
            store.settle();
        }
        let figures = store.measure();
        println!(
            "    {size} keys, after {filling:.0} s of filling: a look-up {:.1} ms, a user by id \
             {:.1} ms",
            median(&figures.look_ups.concat()),
            median(&figures.by_id)
        );
        measured.push((size, figures));
    }
    tell(&measured, report);
    scan(bench, &database, report);
}

/// The figures of one size, in milliseconds.
struct Figures {
    /// Round by round.
    look_ups: Vec<Vec<f64>>,
    by_id: Vec<f64>,
    /// A client by its name, round by round.
    clients: Vec<Vec<f64>>,
    short: Vec<f64>,
}

fn tell(measured: &[(u64, Figures)], report: &mut Report) {
    let mut lines = [vec![], vec![], vec![], vec![]];
    for (size, figures) in measured {
        let name = |what: &str| format!("{what}_at_{size}_keys_ms");
        let all = figures.look_ups.concat();
        report.fact(&name("lookup"), &all);
        report.fact(&name("lookup_p99"), &[percentile(&all, 0.99)]);
        report.fact(&name("user_by_id"), &figures.by_id);
        report.fact(&name("client"), &figures.clients.concat());
        report.fact(&name("short_value_search"), &figures.short);
        let points = [
            median(&all),
            percentile(&all, 0.99),
            median(&figures.by_id),
            median(&figures.short),
        ];
        for (line, point) in lines.iter_mut().zip(points) {
            line.push((*size as f64, point));
        }
    }
    let of = |size: u64| {
        let found = measured.iter().find(|(measured, _)| *measured == size);
        &found.expect("a size").1
    };
    let (few, many) = (of(1_000), of(300_000));
    let over = |of: fn(&Figures) -> &Vec<Vec<f64>>| -> Vec<f64> {
        let rounds = of(many).iter().zip(of(few));
        rounds
            .map(|(many, few)| median(many) / median(few))
            .collect()
    };
    let (look_ups, clients) = (over(|at| &at.look_ups), over(|at| &at.clients));
    let ratios = look_ups.iter().zip(&clients);
    let ratios: Vec<f64> = ratios.map(|(look_up, client)| look_up / client).collect();
    report.row("lookup_300k_vs_1k", &ratios);
    report.fact("lookup_300k_vs_1k_undivided", &look_ups);
    report.fact("client_300k_vs_1k", &clients);
    let names = [
        "by the index value, median",
        "by the index value, p99",
        "a user by id",
        "by a short value",
    ];
    report.curve(Curve {
        name: "lookup_by_keys",
        title: "A look-up in Keycloak on PostgreSQL, as keys grow".to_owned(),
        x: "keys",
        y: "ms",
        lines: names.map(str::to_owned).into_iter().zip(lines).collect(),
    });
}

fn percentile(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// The realm, as it grows.
struct Store<'a> {
    admin: &'a Admin,
    realm: String,
    keys: u64,
    dice: ChaCha8Rng,
}

impl Store<'_> {
    fn fill(&mut self, database: &Database, keys: u64) {
        let owners = self.keys / KEYS_OF_AN_OWNER..keys / KEYS_OF_AN_OWNER;
        database.write_owners(&self.realm, owners, |owner, _| {
            let first = owner * KEYS_OF_AN_OWNER;
            (first..first + KEYS_OF_AN_OWNER).map(stored).collect()
        });
        self.keys = keys;
    }

    /// Repeats look-ups until they get no faster.
    fn settle(&mut self) {
        let mut least = f64::INFINITY;
        let mut settled = 0;
        for _ in 0..UNCOUNTED_ROUNDS_MAX {
            let turn = |_| {
                self.client();
                self.look_up()
            };
            let round: Vec<f64> = (0..LOOK_UPS).map(turn).collect();
            let took = median(&round);
            settled = if took < least * 0.97 { 0 } else { settled + 1 };
            least = least.min(took);
            if settled == SETTLED_ROUNDS {
                return;
            }
        }
    }

    fn measure(&mut self) -> Figures {
        let mut figures = Figures {
            look_ups: Vec::new(),
            by_id: Vec::new(),
            clients: Vec::new(),
            short: Vec::new(),
        };
        for _ in 0..ROUNDS {
            let turn = |_| (self.look_up(), self.client());
            let (look_ups, clients) = (0..LOOK_UPS).map(turn).unzip();
            figures.look_ups.push(look_ups);
            figures.clients.push(clients);
            for _ in 0..LOOK_UPS / ROUNDS {
                figures.by_id.push(self.user_by_id());
            }
        }
        for _ in 0..SHORT_SEARCHES {
            figures.short.push(self.short_search());
        }
        figures
    }

    /// A key of the store.
    fn any_key(&mut self) -> u64 {
        self.dice.random_range(0..self.keys)
    }

    fn look_up(&mut self) -> f64 {
        let key = self.any_key();
        let path = look_up_path(&self.realm, &key_id(key));
        self.find(&path, key)
    }

    /// By the value of `apiKeys`, which is too short for the index of long values: a look-up
    /// without that index.
    fn short_search(&mut self) -> f64 {
        let key = self.any_key();
        let (id, hash) = stored(key);
        let query = format!("apiKeys:key:{id}:{hash}");
        let query = utf8_percent_encode(&query, NON_ALPHANUMERIC);
        let path = format!("users?briefRepresentation=false&max=2&q={query}");
        self.find(&path, key)
    }

    fn find(&self, path: &str, key: u64) -> f64 {
        let (found, took) = timed(|| self.admin.get(path));
        let owner = owner_id(key / KEYS_OF_AN_OWNER);
        assert_eq!(found.as_array().map(Vec::len), Some(1), "{key}");
        assert_eq!(found[0]["id"], json!(owner), "{key}");
        took
    }

    /// A call that has nothing to do with keys: one of the clients that each realm has.
    fn client(&self) -> f64 {
        let (found, took) = timed(|| self.admin.get("clients?clientId=account"));
        assert_eq!(
            found.as_array().map(Vec::len),
            Some(1),
            "the client account"
        );
        took
    }

    fn user_by_id(&mut self) -> f64 {
        let path = format!("users/{}", owner_id(self.any_key() / KEYS_OF_AN_OWNER));
        timed(|| self.admin.get(&path)).1
    }
}

fn key_id(key: u64) -> String {
    format!("many{key:08}")
}

/// The stored form of a key: as long as a hash, and of no key that a client could send.
fn stored(key: u64) -> StoredKey {
    let id = key_id(key);
    let hash = format!("$sha256${id:A>43}");
    (id, hash)
}

/// The path that the filter asks for, below the realm's.
fn look_up_path(realm: &str, key_id: &str) -> String {
    let fields = json!({
        "keycloak_url": "https://login.example.com", "realm": realm,
        "keycloak_upstream": "keycloak", "yield_upstream": "yield",
        "signing_key_property": "env.APIKEY_SIGNING_KEY",
    });
    let config = Config::from_json(fields.to_string().as_bytes()).expect("a configuration");
    let path = lookup_call(&config, "", key_id).path;
    let below = path.strip_prefix(&format!("/admin/realms/{realm}/"));
    below.expect("a path below the realm").to_owned()
}

/// A call's result, and its milliseconds.
fn timed<T>(call: impl FnOnce() -> T) -> (T, f64) {
    let began = Instant::now();
    let answer = call();
    (answer, began.elapsed().as_secs_f64() * 1000.0)
}

/// The seed's way: it reads each user, and tries the key at each hash. It runs in a realm of
/// its own, so that there are no other users, with the key at the owner in the middle.
///
/// A comparison takes as long with one hash as with another of its cost, so the owners share a
/// few: hashing a thousand keys would take a minute and change nothing.
fn scan(bench: &Bench, database: &Database, report: &mut Report) {
    let realm = "bench-scan";
    let admin = &bench
        .admin
        .new_realm(&json!({"realm": realm, "enabled": true}));
    // Otherwise Keycloak would show no attribute.
    let mut profile = admin.get("users/profile");
    profile["unmanagedAttributePolicy"] = json!("ADMIN_EDIT");
    admin.must("PUT", "users/profile", Some(&profile));
    let (key, cost) = (Key::random(), 10);
    let hash = |text: &str| {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt).expect("random bytes");
        hash_bcrypt(text.as_bytes(), cost, salt).expect("a hash")
    };
    let others: Vec<String> = (0..4).map(|_| hash(&Key::random().text)).collect();
    let middle = FIRST_SCANNED + SCANNED_OWNERS / 2;
    let owners = FIRST_SCANNED..FIRST_SCANNED + SCANNED_OWNERS;
    database.write_owners(realm, owners, |number, _| {
        if number == middle {
            return vec![(key.id.clone(), hash(&key.text))];
        }
        let hash = &others[(number % 4) as usize];
        vec![(format!("{number:012}"), hash.clone())]
    });
    let mut ours = Vec::new();
    for _ in 0..LOOK_UPS / 2 {
        let path = look_up_path(realm, &key.id);
        let ((found, tried), took) = timed(|| {
            let owners = admin.get(&path);
            try_owners(&owners, &key)
        });
        assert_eq!((found, tried), (Some(owner_id(middle)), 1));
        ours.push(took);
    }
    let ((found, tried), theirs) = timed(|| scan_for(admin, &key));
    assert_eq!(found, Some(owner_id(middle)));
    admin.delete_realm();
    report.fact("lookup_and_bcrypt_ms", &ours);
    report.fact("reference_scan_ms", &[theirs]);
    report.fact("reference_scan_hashes", &[tried as f64]);
    report.row("reference_scan_vs_lookup", &[theirs / median(&ours)]);
}

/// Goes through the realm's users, a page at a time; returns the holder of the key, and how
/// many hashes were tried.
fn scan_for(admin: &Admin, key: &Key) -> (Option<String>, usize) {
    let mut all = 0;
    let mut first = 0;
    loop {
        let path = format!("users?first={first}&max={PAGE}&briefRepresentation=false");
        let page = admin.get(&path);
        let (found, tried) = try_owners(&page, key);
        all += tried;
        if found.is_some() || page.as_array().is_none_or(Vec::is_empty) {
            return (found, all);
        }
        first += PAGE;
    }
}

/// Tries the key at each hash of these users.
fn try_owners(users: &Value, key: &Key) -> (Option<String>, usize) {
    let mut tried = 0;
    for user in users.as_array().expect("users") {
        let keys = user["attributes"]["apiKeys"].as_array().expect("keys");
        for hash in keys
            .iter()
            .filter_map(|key| key.as_str()?.splitn(3, ':').nth(2))
        {
            tried += 1;
            if bcrypt::verify(&key.text, hash).expect("a hash") {
                return (user["id"].as_str().map(str::to_owned), tried);
            }
        }
    }
    (None, tried)
}
