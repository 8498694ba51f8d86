//! The world of the trials: a stack on PostgreSQL, two gateways, Keycloak's
//! administrator.

use crate::client::Target;
use crate::database::Database;
use crate::expect::REALM;
use crate::gateway::{Gateway, Spec};
use crate::keycloak::Admin;
use crate::secrets;
use crate::stack::Stack;

/// The world.
pub(crate) struct World {
    stack: &'static Stack,
    second: Gateway<'static>,
    pub(crate) gateways: [Target; 2],
    pub(crate) keycloak: Admin,
    pub(crate) database: Database,
    pub(crate) admin_password: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let database = Database::from_environment();
        let stack: &'static Stack = Box::leak(Box::new(Stack::start()));
        let demo = stack.demo_env();
        for key in ["API_KEY", "SERVICE_API_KEY", "EXPIRED_API_KEY"] {
            secrets::register(&demo[key]);
        }
        REALM.set(demo["REALM"].clone()).expect("one world");
        let keycloak = Admin::new(
            &demo["KEYCLOAK_URL"],
            &demo["REALM"],
            &demo["KEYCLOAK_ADMIN_USER"],
            &demo["KEYCLOAK_ADMIN_PASSWORD"],
        );
        let second = Gateway::start(stack, &Spec::default().workers(2));
        Self {
            gateways: [Target::parse(&demo["GATEWAY_URL"]), second.target.clone()],
            stack,
            second,
            keycloak,
            database,
            admin_password: demo["KEYCLOAK_ADMIN_PASSWORD"].clone(),
        }
    }

    /// Stops its servers.
    pub(crate) fn end(&self, keep_folder: bool) {
        self.second.stop();
        self.stack.stop(keep_folder);
    }
}

/// A number from the environment.
pub(crate) fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is '{value}', which is no number")),
        _ => otherwise,
    }
}
