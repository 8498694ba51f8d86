//! The cases, by theme, in the order in which they are run.

mod abuse;
mod audit;
mod bad_input;
mod breaker;
mod cache;
mod configuration;
mod credentials;
mod exchange;
mod faults;
mod first_run;
mod identity;
mod install;
mod load;
mod management;
mod management_refusals;
mod metrics;
mod migration;
mod module;
mod outage;
mod records;
mod refusals;
mod renewals;
mod revocation;
mod runbooks;
mod secrecy;
mod self_check;
mod signing_key;
mod smuggling;
mod terms;
mod tracing;

use crate::world::Case;

/// All of them. Those that stop Keycloak come late, the search of the logs last.
pub(crate) fn all() -> Vec<Case> {
    [
        first_run::cases(),
        install::cases(),
        exchange::cases(),
        credentials::cases(),
        refusals::cases(),
        records::cases(),
        bad_input::cases(),
        smuggling::cases(),
        cache::cases(),
        renewals::cases(),
        metrics::cases(),
        audit::cases(),
        tracing::cases(),
        revocation::cases(),
        self_check::cases(),
        configuration::cases(),
        abuse::cases(),
        terms::cases(),
        identity::cases(),
        management::cases(),
        management_refusals::cases(),
        signing_key::cases(),
        migration::cases(),
        runbooks::cases(),
        faults::cases(),
        load::cases(),
        module::cases(),
        breaker::cases(),
        outage::cases(),
        secrecy::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
