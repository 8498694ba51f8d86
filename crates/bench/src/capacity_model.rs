//! The load of a deployment on Keycloak and on its workers, computed from the keys and their
//! use, nodes, workers, the TTL and the measured capacity of a machine.
//!
//! Each key is a renewal process. Its requests arrive at random, `rate` per second at a
//! cache. A fetched token is used for the TTL. If a request arrives in the last part of the
//! TTL (the window: a tenth to a fifth, chosen by the key's digest), the token is renewed
//! then and no request waits. Otherwise the first request after its end fetches it, and
//! waits.

use crate::traffic::Usage;

/// The first ranks are computed one by one, the others in groups of about the same use.
const SINGLE_RANKS: usize = 200;
/// The ratio of a group's last rank to its first.
const GROUP_RATIO: f64 = 1.01;
/// Windows that represent all of them.
const WINDOWS: usize = 8;
/// Look-up and grant.
const CALLS_PER_REFRESH: f64 = 2.0;
/// Bytes of a token's entry beside the token. `docs/sizing.md` states it, and a test holds
/// both to the code.
pub const ENTRY_BYTES: usize = 151;

/// A deployment and its use.
#[derive(Debug, Clone, Copy)]
pub struct Deployment {
    /// Of all nodes together.
    pub usage: Usage,
    pub nodes: usize,
    /// Of each node.
    pub workers: usize,
    /// The sooner of `cache_ttl_seconds` and the token's life less the skew.
    pub ttl_seconds: f64,
    /// Whether the keys in use fit into `l2_slots`, so that the workers of a node share
    /// their tokens.
    pub workers_share: bool,
    /// Whether tokens are renewed before their end. The filter does so; `false` is the
    /// comparison.
    pub renews_ahead: bool,
    /// Seconds of one call to Keycloak: a worker renews one token at a time.
    pub call_seconds: f64,
}

/// The load of a deployment, when all keys have been seen.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// The share of the requests that do not wait.
    pub hit_rate: f64,
    /// Look-ups per second; there are as many grants.
    pub refreshes_per_second: f64,
    /// Refreshes among them that no request waits for.
    pub renewals_per_second: f64,
}

/// The measured capacity of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Refreshes in a second that Keycloak can serve: a look-up and a grant each.
    pub keycloak_refreshes_per_second: f64,
    /// Worker time of a warm request, of a refresh and of a bcrypt verification.
    pub warm_seconds: f64,
    pub refresh_seconds: f64,
    pub bcrypt_seconds: f64,
}

impl Deployment {
    /// One node of one worker.
    pub const fn of_one_worker(usage: Usage, ttl_seconds: f64, call_seconds: f64) -> Self {
        Self {
            usage,
            nodes: 1,
            workers: 1,
            ttl_seconds,
            workers_share: true,
            renews_ahead: true,
            call_seconds,
        }
    }

    /// Caches that share nothing with each other.
    fn caches(&self) -> f64 {
        let each = if self.workers_share { 1 } else { self.workers };
        (self.nodes * each) as f64
    }

    /// Renewals per second of all workers: each makes one at a time.
    pub fn renewals_per_second_max(&self) -> f64 {
        (self.nodes * self.workers) as f64 / (CALLS_PER_REFRESH * self.call_seconds)
    }

    /// The load. Where more renewals are due than a worker can make, it makes as many as it
    /// can, and requests fetch the other tokens.
    pub fn demand(&self) -> Demand {
        let groups = groups(&self.usage);
        if !self.renews_ahead {
            return self.demand_at(&groups, 0.0);
        }
        let most = self.renewals_per_second_max();
        let all = self.demand_at(&groups, 1.0);
        if all.renewals_per_second <= most {
            return all;
        }
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..30 {
            let made = f64::midpoint(low, high);
            if self.demand_at(&groups, made).renewals_per_second <= most {
                low = made;
            } else {
                high = made;
            }
        }
        self.demand_at(&groups, low)
    }

    /// The load if this share of the due renewals is made.
    fn demand_at(&self, groups: &[(f64, f64)], made: f64) -> Demand {
        let caches = self.caches();
        let (mut refreshes, mut renewals) = (0.0, 0.0);
        for &(keys, share) in groups {
            let rate = self.usage.requests_per_second * share / caches;
            for window in 0..WINDOWS {
                let spread = (window as f64 + 0.5) / WINDOWS as f64;
                let (cycle_seconds, renewed) = self.cycle(rate, spread, made);
                let per_second = keys * caches / cycle_seconds / WINDOWS as f64;
                refreshes += per_second;
                renewals += per_second * renewed;
            }
        }
        Demand {
            hit_rate: 1.0 - (refreshes - renewals) / self.usage.requests_per_second,
            refreshes_per_second: refreshes,
            renewals_per_second: renewals,
        }
    }

    /// The time from one fetch of a key's token to the next, and the probability that no
    /// request waits for it.
    fn cycle(&self, rate: f64, spread: f64, made: f64) -> (f64, f64) {
        let ttl = self.ttl_seconds;
        let window = ttl / 10.0 * (1.0 + spread);
        let unused = (-rate * window).exp();
        let renewed = made * (1.0 - unused);
        // The mean time until the first request in the window, times the probability of one.
        let in_window = (1.0 - unused * (1.0 + rate * window)) / rate;
        let ahead = made * ((1.0 - unused) * (ttl - window) + in_window);
        (ahead + (1.0 - renewed) * (ttl + 1.0 / rate), renewed)
    }

    /// The share of a worker's time that requests, refreshes and signatures take.
    pub fn worker_share(&self, machine: &Machine) -> f64 {
        let demand = self.demand();
        let busy = self.usage.requests_per_second * machine.warm_seconds
            + demand.refreshes_per_second * machine.refresh_seconds;
        busy / (self.nodes * self.workers) as f64
    }

    /// First uses per second while all caches are empty, and their bound.
    pub fn first_uses_per_second(&self, machine: &Machine) -> (f64, &'static str) {
        let workers = (self.nodes * self.workers) as f64;
        let bounds = [
            (machine.keycloak_refreshes_per_second, "Keycloak"),
            (workers / machine.bcrypt_seconds, "bcrypt"),
        ];
        let by_rate = |one: &&(f64, _), other: &&(f64, _)| one.0.total_cmp(&other.0);
        *bounds.iter().min_by(by_rate).expect("bounds")
    }

    /// The least time until each node has seen each key once.
    pub fn restart_seconds(&self, machine: &Machine) -> f64 {
        (self.usage.keys * self.nodes) as f64 / self.first_uses_per_second(machine).0
    }

    /// The least memory for the tokens in the caches of one node: in each worker, and once in
    /// its shared data.
    pub fn cache_bytes(&self, token_bytes: usize) -> usize {
        self.usage.keys * (token_bytes + ENTRY_BYTES) * (self.workers + 1)
    }

    /// The same deployment with so many keys, each used as often as now.
    pub fn with_keys(&self, keys: usize) -> Self {
        let mut grown = *self;
        grown.usage.keys = keys;
        grown.usage.requests_per_second *= keys as f64 / self.usage.keys as f64;
        grown
    }

    /// The most keys at which a condition still holds; it fails above some number of keys.
    fn keys_max(&self, holds: impl Fn(&Self) -> bool) -> usize {
        let (mut holding, mut giving) = (0, 100_000_000);
        while giving - holding > 1 + holding / 1000 {
            let keys = usize::midpoint(holding, giving);
            if holds(&self.with_keys(keys)) {
                holding = keys;
            } else {
                giving = keys;
            }
        }
        holding
    }

    /// The limits of the deployment, each with the number of keys, used as these are, at
    /// which it is reached: the lowest first.
    pub fn limits(
        &self,
        machine: &Machine,
        l1_entries: usize,
        l2_slots: u32,
    ) -> Vec<(&'static str, usize)> {
        let keycloak = |grown: &Self| {
            grown.demand().refreshes_per_second <= machine.keycloak_refreshes_per_second
        };
        let renewals = |grown: &Self| {
            let unbounded = grown.demand_at(&groups(&grown.usage), 1.0);
            unbounded.renewals_per_second <= grown.renewals_per_second_max()
        };
        let mut limits = vec![
            ("keycloak", self.keys_max(keycloak)),
            ("renewals", self.keys_max(renewals)),
            (
                "workers",
                self.keys_max(|grown| grown.worker_share(machine) <= 1.0),
            ),
            (
                "restart_within_ttl",
                self.keys_max(|grown| grown.restart_seconds(machine) <= grown.ttl_seconds),
            ),
            ("l1_entries", l1_entries),
            // Sets fill unevenly: see docs/sizing.md.
            ("l2_slots", l2_slots as usize / 2),
        ];
        limits.sort_by_key(|(_, keys)| *keys);
        limits
    }
}

/// Keys of about the same use: their number, and the share of the requests of each.
fn groups(usage: &Usage) -> Vec<(f64, f64)> {
    if usage.exponent == 0.0 {
        return vec![(usage.keys as f64, 1.0 / usage.keys as f64)];
    }
    let mut groups: Vec<(f64, f64)> = Vec::new();
    let mut first = 1;
    while first <= usage.keys {
        let last = if first <= SINGLE_RANKS {
            first
        } else {
            ((first as f64 * GROUP_RATIO) as usize).min(usage.keys)
        };
        let keys = (last - first + 1) as f64;
        let middle = f64::midpoint(first as f64, last as f64);
        groups.push((keys, middle.powf(-usage.exponent)));
        first = last + 1;
    }
    let all: f64 = groups.iter().map(|(keys, weight)| keys * weight).sum();
    groups
        .into_iter()
        .map(|(keys, weight)| (keys, weight / all))
        .collect()
}

/// The hit rate without renewals, in closed form, where a key's use is `1/rank`.
pub fn hit_rate_without_renewals(usage: &Usage, ttl_seconds: f64) -> f64 {
    let misses = usage.shares().map(|share| {
        let rate = usage.requests_per_second * share;
        share / (1.0 + rate * ttl_seconds)
    });
    1.0 - misses.sum::<f64>()
}
