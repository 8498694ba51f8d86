//! The end-to-end suite: a real gateway, a real Keycloak, real requests.
//!
//! ```text
//! cargo test -p suites --test e2e                  all of it, on a stack of its own
//! cargo test -p suites --test e2e -- refusals::    one theme; --list names all trials
//! ```
//!
//! It starts the stack of `make run` (`scripts/run.sh`: Keycloak, Envoy with the
//! filter, the demo service behind a validator of JWTs) in a run folder of its own and
//! on free ports, and stops it at its end, even if the suite dies. The folder is kept when
//! a trial fails.
//!
//! With `GATEWAY=envoy-module` it does the same with the filter as Envoy's dynamic module. With `GATEWAY=nginx`, `caddy`, `haproxy` or `envoy-ext-authz`, it does the same with that gateway and
//! `apikeys serve`:
//!
//! ```text
//! GATEWAY=nginx cargo test -p suites --test e2e
//! ```
//!
//! **Against a gateway given by URL** (Kong in docker compose, say) it starts nothing.
//! Set in the environment, as `.run/demo.env` has them: `GATEWAY_URL`, `KEYCLOAK_URL`,
//! `REALM`, `API_KEY`, `SERVICE_API_KEY`, `EXPIRED_API_KEY`, `KEYCLOAK_ADMIN_USER`,
//! `KEYCLOAK_ADMIN_PASSWORD`:
//!
//! ```text
//! make up
//! (set -a; . .run/demo.env; cargo test -p suites --test e2e)
//! ```
//!
//! And, for more trials:
//!
//! | variable | |
//! |---|---|
//! | `E2E_GATEWAY_LOG_FILE` | the gateway's log, a file that grows |
//! | `E2E_GATEWAY_LOGS` | in its place, a shell command that prints the log: `docker compose logs kong` |
//! | `E2E_KEYCLOAK_STOP` | a shell command that stops Keycloak: `docker compose stop keycloak` |
//! | `E2E_KEYCLOAK_START` | one that starts it and waits: `docker compose up --wait keycloak` |
//! | `E2E_GATEWAY_START` | one that starts a second gateway, with another configuration |
//!
//! `E2E_GATEWAY_START` reads one line of JSON, starts that gateway, tells of it on standard
//! output in lines, and stays. When its input ends it stops the gateway and ends, too.
//! `tests/servers/e2e/start_kong.py` does so with a Kong that is installed on this machine.
//!
//! | member of the line | |
//! |---|---|
//! | `fields` | fields of the filter's configuration, in place of the gateway's own; null for none |
//! | `signing_key` | the key that the filter signs with, in PEM; null for the gateway's own |
//! | `yields` | false: nothing answers at the filter's `yield_upstream` |
//! | `key_auth` | clients by their keys: the gateway itself checks the header `apikey` first, and names the client in `x-consumer-username`; null for no such check |
//! | `keycloak` | addresses through which calls go to Keycloak, in turn; none for the gateway's own |
//! | `service` | the address of the service behind it; null for the gateway's own |
//! | `workers` | how many |
//! | `trusted_hops` | load balancers in front of it: it believes their `x-forwarded-for` |
//! | `log` | the file that its log goes to |
//!
//! | line of its output | |
//! |---|---|
//! | `url http://127.0.0.1:8200` | where the gateway listens: any path below goes to the service, through the filter in mode `exchange` |
//! | `pid 4711` | a process of the gateway; its children are counted too; one line each |
//! | `ready` | it serves |
//! | `refused` | or: it does not come up with this configuration, as the log or standard error says |
//!
//! Trials that lack a part of the stack, and trials that a gateway's own limit makes impossible,
//! are named with the reason before the run and counted as ignored. The suite
//! makes users of its own in the realm and deletes them.
//!
//! `E2E_SMOKE=1` runs the trials of [`SMOKE`] alone: one or two for each promise. `E2E_SMOKE=gateway`
//! runs those of [`OF_GATEWAYS`].
//!
//! `E2E_RUN_DIR` names the run folder of a `make run` that is up, to use it instead of
//! a stack of its own: quick, while one trial is worked on.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may read the clock, and fails by panicking, in its helpers as well"
)]

mod cases;
mod echo;
mod metrics;
mod tracing;
mod walk;
mod world;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use suites::{
    client, expect, faults, gateway, keycloak, log, owner, portal, secrets, stack, tool, wait,
};
use test_kit::page;

use world::{Case, Need, World};

/// The trials of `make test`: one or two for each promise of docs/promises.md, and for each
/// theme. `make test-all` runs all of them.
const SMOKE: [&str; 30] = [
    "first_run::the_printed_command_works_as_printed",
    "exchange::a_users_key_becomes_a_token_of_that_user",
    "exchange::a_service_principals_key_becomes_its_token",
    "exchange::the_key_reaches_the_service_in_no_header",
    "exchange::a_bearer_jwt_passes_untouched",
    "credentials::nothing_at_all_is_401",
    "credentials::a_key_and_a_token_are_400",
    "refusals::a_wrong_secret_of_a_bcrypt_record",
    "refusals::an_unknown_id",
    "refusals::an_expired_key",
    "records::a_token_ends_no_later_than_its_key",
    "bad_input::many_headers",
    "smuggling::a_key_in_a_header_that_gateways_make_anew",
    "cache::a_known_key_costs_no_call",
    "metrics::they_count_what_happened",
    "audit::each_line_is_of_the_schema",
    "revocation::a_removed_key_is_refused",
    "revocation::a_disabled_owner_is_refused",
    "self_check::missing_roles_are_told_of",
    "configuration::on_missing_key_reject",
    "abuse::an_address_is_told_to_wait",
    "terms::a_key_with_a_limit_is_served_so_often_and_then_told_to_wait",
    "identity::the_service_learns_the_key_and_not_what_a_client_claims",
    "management::a_key_that_was_made_works_at_once",
    "management::a_revoked_key_is_refused_by_all_workers_at_once",
    "management::a_token_made_from_a_key_manages_no_keys",
    "breaker::where_nobody_is_the_other_node_is_asked",
    "outage::a_known_key_is_answered_from_the_cache",
    "outage::a_cold_key_works_once_keycloak_is_back",
    "secrecy::no_log_holds_a_key_a_token_or_a_password",
];

/// The themes and trials that a gateway itself can break although `apikeys serve` is the same. The step
/// `gateways` of `scripts/test.sh` runs them.
const OF_GATEWAYS: [&str; 16] = [
    "exchange::",
    "credentials::",
    "refusals::an_unknown_id",
    "bad_input::",
    "smuggling::",
    "abuse::an_address_is_told_to_wait",
    "abuse::behind_a_load_balancer_the_client_counts",
    "terms::a_key_with_a_limit_is_served_so_often_and_then_told_to_wait",
    "terms::an_address_outside_is_refused",
    "identity::",
    "configuration::on_missing_key_pass",
    "configuration::a_preflight_passes_if_told_to",
    "configuration::other_headers_may_carry_the_key",
    "management::a_key_that_was_made_works_at_once",
    "management::a_presented_key_ends_and_another_text_is_answered_alike",
    "secrecy::",
];

thread_local! {
    /// The message and the place of this thread's last panic.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One at a time: they share Keycloak, and some stop it.
    arguments.test_threads = Some(1);
    if arguments.list {
        let trials = cases::all().into_iter();
        let trials = trials.map(|case| Trial::test(case.name, || Ok(())));
        return libtest_mimic::run(&arguments, trials.collect()).exit_code();
    }
    std::panic::set_hook(Box::new(|panic| {
        let said = secrets::redact(&panic.to_string());
        PANIC.with_borrow_mut(|last| *last = said);
    }));
    let world = match catch_unwind(World::new) {
        // Lives until the last trial; stopped explicitly.
        Ok(world) => Box::leak(Box::new(world)),
        Err(_) => {
            eprintln!("There is nothing to test: {}", last_panic());
            return ExitCode::FAILURE;
        }
    };
    let cases = chosen(cases::all());
    tell_what_is_not_applicable(&cases, world);
    let trials = cases.into_iter().map(|case| trial(case, world)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    world.end(conclusion.has_failed());
    conclusion.exit_code()
}

/// All cases, or those of [`SMOKE`] or [`OF_GATEWAYS`].
fn chosen(mut cases: Vec<Case>) -> Vec<Case> {
    for name in SMOKE.iter().chain(&OF_GATEWAYS) {
        let is_there = cases.iter().any(|case| case.name.starts_with(name));
        assert!(is_there, "{name} is no trial");
    }
    let part = match std::env::var("E2E_SMOKE").as_deref() {
        Ok("1") => &SMOKE[..],
        Ok("gateway") => &OF_GATEWAYS[..],
        _ => return cases,
    };
    let all = cases.len();
    cases.retain(|case| part.iter().any(|name| case.name.starts_with(name)));
    println!("\n{} of {all} trials; make test-all runs all", cases.len());
    cases
}

/// The reason why a case cannot run here.
fn lacking(case: &Case, world: &World) -> Option<&'static str> {
    let lacks = case.needs.iter().find_map(|need| world.lacks(*need));
    let limits = case.not_on.iter();
    lacks.or_else(|| {
        let mut limits = limits.filter(|(host, _)| *host == world.host);
        limits.next().map(|(_, reason)| *reason)
    })
}

/// Names the cases that cannot run here, by the reason: nothing is left out silently.
fn tell_what_is_not_applicable(cases: &[Case], world: &World) {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for case in cases {
        if let Some(reason) = lacking(case, world) {
            by_reason.entry(reason).or_default().push(&case.name);
        }
    }
    for (reason, names) in by_reason {
        println!("\nNot applicable, {}: {reason}", names.len());
        for name in names {
            println!("    {name}");
        }
    }
}

fn trial(case: Case, world: &'static World) -> Trial {
    let ignored = lacking(&case, world).is_some();
    let name = case.name.clone();
    Trial::test(name, move || run(&case, world)).with_ignored_flag(ignored)
}

fn run(case: &Case, world: &'static World) -> Result<(), Failed> {
    let run = AssertUnwindSafe(|| {
        if !case.needs.contains(&Need::StoppedKeycloak) {
            world.start_keycloak();
        }
        (case.run)(world);
    });
    catch_unwind(run).map_err(|_| Failed::from(last_panic()))
}

fn last_panic() -> String {
    PANIC.take()
}
