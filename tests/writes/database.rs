//! Keycloak's own tables, written by `psql`: twenty thousand users by its interface would
//! take minutes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use apikey_jwt_exchange::api_key::hash::hash_sha256;

use crate::owner::{Key, rfc3339};
use crate::wait::now_seconds;

/// The PostgreSQL that `scripts/with-postgres.sh` has started.
pub(crate) struct Database;

/// An owner that was written.
pub(crate) struct Stored {
    pub(crate) id: String,
    pub(crate) username: String,
    pub(crate) key: Key,
}

/// What Keycloak 26.7 writes of a user with one key and its link. A value of more than 255
/// characters is found by its SHA-512, as it is and in lower case.
const OWNERS: &str = "
insert into user_entity (id, email, email_constraint, email_verified, enabled, first_name,
    last_name, realm_id, username, created_timestamp, not_before)
  select user_id, username || '@example.com', username || '@example.com', true, true, 'Many',
    'Owner', :'realm', username, 1800000000000, 0 from new_owner;
insert into user_role_mapping (role_id, user_id)
  select default_role, user_id from new_owner, realm where realm.id = :'realm';
insert into federated_identity (identity_provider, realm_id, federated_user_id,
    federated_username, user_id)
  select 'api-keys', :'realm', user_id, username, user_id from new_owner;
insert into user_attribute (id, name, user_id, value)
  select gen_random_uuid()::text, name, user_id, value from new_owner, lateral (values
    ('apiKeys', 'key:' || key_id || ':' || hash),
    ('apiKey_' || key_id || '_name', 'One of many'),
    ('apiKey_' || key_id || '_created', created),
    ('apiKey_' || key_id || '_expiresAt', expires_at)) as attribute (name, value);
insert into user_attribute (id, name, user_id, long_value, long_value_hash,
    long_value_hash_lower_case)
  select gen_random_uuid()::text, 'apiKeyIndex', user_id, value,
    sha512(convert_to(value, 'UTF8')), sha512(convert_to(lower(value), 'UTF8'))
  from new_owner, lateral (select rpad(key_id, 288, '.') as value) as index_value;
commit;
analyze;
";

impl Database {
    /// The one that the environment names.
    pub(crate) fn from_environment() -> Self {
        let given = std::env::var("KEYCLOAK_DB").is_ok_and(|kind| kind == "postgres");
        assert!(
            given && std::env::var("PGPORT").is_ok(),
            "no PostgreSQL is given: run this by scripts/with-postgres.sh"
        );
        Self
    }

    /// Writes so many owners of one key each; gives those whose numbers are asked for.
    pub(crate) fn add_owners(&self, realm: &str, count: u64, wanted: &[u64]) -> Vec<Stored> {
        let realm_id = self.ask(&format!("select id from realm where name = '{realm}'"));
        let mut script = format!(
            "\\set ON_ERROR_STOP on\n\\set realm '{}'\nbegin;\n\
             create temporary table new_owner (user_id text, username text, key_id text, \
             hash text, created text, expires_at text) on commit drop;\n\
             copy new_owner from stdin;\n",
            realm_id.trim()
        );
        let (created, ends) = (rfc3339(now_seconds()), rfc3339(now_seconds() + 90 * 86_400));
        let mut stored = Vec::new();
        for number in 0..count {
            let id = format!("{number:08x}-0000-4000-8000-00000000cafe");
            let username = format!("many-{number:05}");
            let (key_id, hash) = if wanted.contains(&number) {
                let key = Key::random();
                let found = (key.id.clone(), hash_sha256(key.text.as_bytes()));
                stored.push(Stored {
                    id: id.clone(),
                    username: username.clone(),
                    key,
                });
                found
            } else {
                (format!("many{number:08}"), hash_sha256(username.as_bytes()))
            };
            writeln!(
                script,
                "{id}\t{username}\t{key_id}\t{hash}\t{created}\t{ends}"
            )
            .expect("a text");
        }
        script.push_str("\\.\n");
        script.push_str(OWNERS);
        self.psql(&["-q"], &script);
        stored
    }

    /// What a query gives.
    fn ask(&self, query: &str) -> String {
        self.psql(&["-At"], query)
    }

    fn psql(&self, arguments: &[&str], script: &str) -> String {
        let mut psql = Command::new("psql")
            .args(arguments)
            .args(["-v", "ON_ERROR_STOP=1", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql");
        let mut input = psql.stdin.take().expect("its input");
        std::thread::scope(|scope| {
            scope.spawn(move || input.write_all(script.as_bytes()).expect("psql reads"));
        });
        let output = psql.wait_with_output().expect("psql ends");
        assert!(output.status.success(), "psql: {}", output.status);
        String::from_utf8(output.stdout).expect("a text")
    }
}
